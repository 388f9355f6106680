"""Code counts by versions that people raise: what a raised one does, and what a comment does not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fitting.version import FIT_VERSION
from flows.shard import Builder, build_shard
from flows.sources import make_missing
from hmr_skel import load_shards
from hmr_skel.cli import main
from hmr_skel.data.fingerprint import shard_ingredients
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.meta import load_meta, meta_text
from tests.built_dataset import BuiltDataset

ROOT = Path(__file__).parents[2]
PRINT_ALL = """
import sys
from flows.shard import Builder
builder = Builder.open(*sys.argv[1:], "cpu", quiet=True)
print(*(builder.fingerprint(shard) for shard in builder.shards))
"""


def test_comments_change_no_fingerprint(built_dataset: BuiltDataset, tmp_path: Path):
    """In each source file there is."""
    for name in ("fitting", "flows", "hmr_skel"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (tmp_path / name).rglob("*.py"):
            path.write_text(f"{path.read_text()}\n# another comment\n")
    command = [sys.executable, "-c", PRINT_ALL, str(built_dataset.manifest), str(built_dataset.data)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    metas = sorted((built_dataset.data / "meta").iterdir())
    assert done.stdout.split() == [load_meta(path)["fingerprint"] for path in metas]


@pytest.fixture
def two_shards(small: Path, tmp_path: Path) -> list[str]:
    """The last words of a command line about a dataset with two of its four shards built."""
    for index in (0, 1):
        build_shard(load_manifest(small), index, tmp_path / "out", device="cpu", progress=False)
    return ["--manifest", str(small), "--device", "cpu"]


def test_a_raised_version(two_shards: list[str], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    out, told = str(tmp_path / "out"), f"fitted by version {FIT_VERSION}, this is {FIT_VERSION + 1}: "
    monkeypatch.setattr("flows.shard.FIT_VERSION", FIT_VERSION + 1)
    assert main(["verify", out, "--partial", *two_shards]) == 1
    first, last = capsys.readouterr().out.strip().splitlines()
    assert first.startswith(f"{told}shards 0-1 would be built again")
    assert "0 of 4 shards sound" in last
    assert main(["fit", "--shard", "1", "--out", out, *two_shards]) == 0
    said = capsys.readouterr()
    assert f"{told}shard 1 will be built again" in said.err
    assert f"{told}shard 0; until `hmr-skel dataset` builds" in said.err
    assert "not fitted again" not in said.out
    assert main(["verify", out, "--partial", *two_shards]) == 1
    assert capsys.readouterr().out.startswith(f"{told}shard 0 would be built again")


def of_an_older_version(*args, **kwargs):
    return shard_ingredients(*args, **kwargs) | {"fit_version": FIT_VERSION - 1}


def test_a_dataset_of_an_older_version(small: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """It can be read, checked and reported on, and the build says that it fits its shards again."""
    out, where = str(tmp_path / "out"), ["--manifest", str(small), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as old:
        old.setattr("flows.shard.shard_ingredients", of_an_older_version)
        for index in range(4):
            build_shard(load_manifest(small), index, out, device="cpu", progress=False)
    before = load_shards(out)["skel_q"]
    assert main(["verify", out, "--files-only"]) == 0
    assert main(["report", out, "--no-pictures", "-o", str(tmp_path / "report.html")]) == 0
    assert f"hmr-skel, fit version {FIT_VERSION - 1}" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    told = f"fitted by version {FIT_VERSION - 1}, this is {FIT_VERSION}: "
    assert main(["verify", out, *where]) == 1
    assert capsys.readouterr().out.startswith(f"{told}shards 0-3 would be built again")
    assert main(["fit", "--shard", "2", "--out", out, *where]) == 0
    assert f"{told}shard 2 will be built again" in capsys.readouterr().err
    np.testing.assert_array_equal(load_shards(out)["skel_q"], before)


def test_a_complete_shard_with_figures_missing_is_one_clear_message(small: Path, tmp_path: Path, capsys):
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    builder.build(0, progress=False)
    path = builder.shards[0].meta_file(builder.out)
    meta = {key: value for key, value in load_meta(path).items() if key not in ("seconds", "batch")}
    path.write_text(meta_text(meta))
    assert main(["fit", "--shard", "0", "--manifest", str(small), "--out", str(tmp_path / "out")]) == 2
    assert "says nothing of seconds, batch" in capsys.readouterr().err


OPEN = """
name = "made"
skel_gender = "male"
rows_per_shard = 4
[body_models]
kind = "open"
path = "{folder}/bodies"
[[sources]]
name = "made"
format = "camerahmr"
file = "{folder}/labels.npz"
[sources.generate]
kind = "open"
rows = 4
"""


def test_what_is_generated_is_made_again_at_a_raised_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "open.toml").write_text(OPEN.format(folder=tmp_path))
    manifest = load_manifest(tmp_path / "open.toml")
    files = [tmp_path / "bodies" / "skel_male.pkl", tmp_path / "labels.npz"]

    def made() -> list[bool]:
        before = [path.stat().st_ino if path.exists() else None for path in files]
        make_missing(manifest, quiet=True)
        return [path.stat().st_ino != inode for path, inode in zip(files, before, strict=True)]

    assert made() == [True, True]
    content = [path.read_bytes() for path in files]
    assert made() == [False, False]
    monkeypatch.setattr("flows.sources.LABELS_VERSION", -1)
    assert made() == [False, True]
    monkeypatch.setattr("flows.sources.EXPORT_VERSION", -1)
    assert made() == [True, True]  # labels are of the body
    assert files[0].read_bytes() == content[0]
    assert json.loads((tmp_path / "bodies" / "made-by.json").read_text())["export"] == -1
