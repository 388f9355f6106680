"""The benchmarks of the fit: their keys and tables, their counting of arithmetic, their judge."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bench.fit
import fitting
import hmr_skel.bench.fit
from bench.quality import labels_table
from hmr_skel.bench.measures import Judge
from hmr_skel.body.smpl import Smpl
from hmr_skel.cli import main
from hmr_skel.open_data.labels import make_labels

STATISTICS = {"mean", "median", "p95", "p99", "max"}
KEYS = {
    "rows", "device", "dtype", "batch", "fits_per_s", "fits_per_s_dense", "end_to_end_rows_per_s", "compare_rows",
    "v2v_mm", "by_part_mm", "betas_rms", "limit_violations", "peak_memory_mb", "baseline", "floor", "speedup",
    "mflop_per_row", "share_of_peak",
}  # fmt: skip
MANIFEST = """
name = "few"
skel_gender = "male"
rows_per_shard = 256

[body_models]
kind = "files"
path = "{body_models}"

[[sources]]
name = "few"
format = "camerahmr"
file = "{labels}"
"""


@pytest.fixture(scope="module")
def few(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A manifest of twelve rows, and its label file."""
    folder = tmp_path_factory.mktemp("few")
    labels = folder / "some-labels.npz"
    make_labels(labels, 12, 1, open_body_dir)
    manifest = folder / "few.toml"
    manifest.write_text(MANIFEST.format(body_models=open_body_dir, labels=labels))
    return str(manifest), str(labels)


@pytest.mark.extra  # half a minute on a busy machine, by nature
def test_bench_fit_beside_the_protocol_and_the_floor(few, tmp_path, capsys, monkeypatch):
    """The report of `make bench`, with everything short; the plot where matplotlib is installed."""
    manifest, labels = few
    for name, value in (("SWEEP_BATCHES", (2, 4)), ("SWEEP_ROWS", (2,)), ("FLOOR_STEPS", (1, 1))):
        monkeypatch.setattr(bench.fit, name, value)
    plot = tmp_path / "new" / "plot.png"
    arguments = [
        "--manifest", manifest, "--labels", labels, "--rows", "16", "--compare-rows", "2", "--device", "cpu",
        "--batch", "8", "--repeats", "1", "--baseline-rounds", "1", "--baseline-iterations", "2", "--floor-starts", "1",
        "--plot", str(plot), "--json",
    ]  # fmt: skip
    assert bench.fit.main(arguments) == 0
    out, err = capsys.readouterr()
    report = json.loads(out.splitlines()[-1])
    assert set(report) >= KEYS
    assert report["rows"] == 16  # rows of the file again and again, and it says so
    assert report["distinct_rows"] == 12
    assert report["end_to_end_rows_per_s"] > 0
    assert "NaN" not in out
    assert set(report["v2v_mm"]) == set(report["baseline"]["v2v_mm"]) == set(report["floor"]["v2v_mm"]) == STATISTICS
    assert report["limit_violations"] == 0
    assert report["speedup"] == pytest.approx(report["fits_per_s"] / report["baseline"]["fits_per_s"], rel=0.05)
    assert 0 <= report["floor"]["energy_gap_percent"] < 100
    assert 2 < report["mflop_per_row"] < 200  # on whole tiles, however few rows are compared
    assert report["share_of_peak"] > 0
    assert re.findall("measuring: (.*)", err) == ["fit", "fit, dense", "files", "sweep", "published protocol", "floor"]
    assert plot.read_bytes().startswith(b"\x89PNG") or "no plot" in out


def test_the_command_has_the_same_keys(few, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(hmr_skel.bench.fit, "fit_many", lambda *a, **k: calls.append(a) or fitting.fit_many(*a, **k))
    monkeypatch.setattr(hmr_skel.bench.fit, "peak_memory_mb", lambda device: len(calls))
    arguments = ["--manifest", few[0], "--rows", "2", "--compare-rows", "2", "--repeats", "1", "--device", "cpu"]
    assert main(["bench", "fit", *arguments, "--no-files", "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert set(report) >= KEYS
    assert set(report["v2v_mm"]) == STATISTICS
    assert report["baseline"] is report["floor"] is report["end_to_end_rows_per_s"] is None
    assert report["peak_memory_mb"] == 2  # read after the two timed passes, before the rows that are judged
    assert "v2v in mm on 2 rows" in "\n".join(text)


def test_what_is_wrong_is_said(few, tmp_path, capsys):
    refined = tmp_path / "refined.toml"
    refined.write_text('recipe = "refine_root"\n' + Path(few[0]).read_text())
    assert main(["bench", "fit", "--manifest", few[0], "--labels", "nowhere.npz"]) == 2
    assert "nowhere.npz" in capsys.readouterr().err
    assert bench.fit.main(["--manifest", str(refined)]) == 2
    assert "--no-floor" in capsys.readouterr().err


def test_judge_poses_what_is_stored(people, smpl, skel, fits):
    """The judge's world-frame distances are the fit's own: root and translation are right."""
    result, judge = fits("default"), Judge(people, smpl, skel)
    torch.testing.assert_close(judge.distances_mm(result.skel).mean(1).float(), result.v2v_mm, rtol=0, atol=5e-3)
    assert judge.report(result.skel)["v2v_mm"]["mean"] == pytest.approx(float(result.v2v_mm.mean()), abs=5e-3)
    shifted = replace(result.skel, transl=result.skel.transl + torch.tensor([0.1, 0.0, 0.0]))
    assert judge.report(shifted)["v2v_mm"]["mean"] > 90


def test_published_labels_are_further_from_the_annotated_meshes(people, smpl, skel, open_body_dir, fits):
    """Fits to the male mesh with the neutral one's betas, copied."""
    male = Smpl.load(open_body_dir / "SMPL_MALE.pkl")
    ours, published = labels_table(people, smpl, male, skel, fitting.recipe("default"), torch.device("cpu"))
    assert (ours["labels"], published["labels"]) == ("ours", "published")
    assert ours["mean"] == pytest.approx(float(fits("default").v2v_mm.mean()), abs=5e-3)
    assert published["mean"] > ours["mean"] + 3
