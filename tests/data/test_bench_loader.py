import json

import pytest

from bench.loader import main

MANIFEST = """
name = "test"
skel_gender = "male"
rows_per_shard = 12
body_models = {{kind = "files", path = "nowhere"}}
[[sources]]
name = "near"
format = "camerahmr"
file = "nowhere.npz"
image_root = "{root}"
[[sources]]
name = "far"
format = "hsmr"
file = "nowhere.npz"
image_root = "{root}"
image_path = [["^", "far-"], ["$", ".jpg"]]
"""


@pytest.mark.usefixtures("forked_workers")
def test_the_command_measures(sample_set, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.loader._PASSES", 1)
    manifest = tmp_path / "test.toml"
    manifest.write_text(MANIFEST.format(root=sample_set.images["near"].root))
    command = ["--manifest", str(manifest), "--data", str(sample_set.path), "--json"]
    assert main([*command, "--workers", "1", "--seconds", "1", "--batch", "4"]) == 0
    text, found = capsys.readouterr().out.rsplit("\n", 2)[:2]
    report = json.loads(found)
    assert report["samples"] == report["readable"] == 20
    assert 20 < report["samples_per_core_s"] == pytest.approx(1000 / report["sample_ms"])
    (workers,) = report["workers"]
    assert workers["samples_per_s"] > 5
    assert 100 < workers["largest_worker_mb"] < 1000
    assert f"{report['samples_per_core_s']:,.0f} samples/s" in text
