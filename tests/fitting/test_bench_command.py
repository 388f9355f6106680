"""Benchmarks, whole, on a few rows: one JSON object as the last line, tables for people, clear errors."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

import bench.io
import bench.quality
from hmr_skel.bench.fit import BenchOptions
from hmr_skel.bench.flops import gemm_flops_per_s
from hmr_skel.cli import main
from hmr_skel.open_data.labels import make_labels

KEYS = {
    "rows", "device", "dtype", "batch", "fits_per_s", "end_to_end_rows_per_s", "compare_rows", "v2v_mm", "by_part_mm",
    "betas_rms", "limit_violations", "peak_memory_mb", "baseline", "floor", "speedup", "mflop_per_row", "share_of_peak",
}  # fmt: skip
STATISTICS = {"mean", "median", "p95", "p99", "max"}
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
def few(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A manifest of twelve rows, and its label file."""
    folder = tmp_path_factory.mktemp("few")
    labels = folder / "some-labels.npz"
    make_labels(labels, 12, 1, open_body_dir)
    manifest = folder / "few.toml"
    manifest.write_text(MANIFEST.format(body_models=open_body_dir, labels=labels))
    return manifest, labels


def last_line(out: str) -> dict:
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_bench_fit(few, tmp_path, capsys, monkeypatch):
    manifest, labels = few
    short = partial(BenchOptions, sweep_batches=(2, 4), sweep_rows=(2,), floor_coarse_iterations=3, floor_iterations=3)
    monkeypatch.setattr("hmr_skel.bench.fit.BenchOptions", short)
    monkeypatch.setattr("hmr_skel.bench.fit.gemm_flops_per_s", partial(gemm_flops_per_s, seconds=0.1))
    plot = tmp_path / "new" / "plot.png"
    arguments = [
        "bench", "fit", "--manifest", str(manifest), "--labels", str(labels), "--rows", "16", "--compare-rows", "2",
        "--device", "cpu", "--batch", "8", "--repeats", "1", "--baseline-rounds", "1", "--baseline-iterations", "2",
        "--floor-starts", "1", "--plot", str(plot), "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    report = last_line(out)
    assert set(report) >= KEYS
    assert report["rows"] == 16  # rows of the file again and again, and it says so
    assert report["distinct_rows"] == 12
    assert report["batch"] == 64  # whole chunks of lanes, however few are asked for
    assert report["compare_subset"] == "some-labels: row i*12//2 for i in 0..1"
    assert report["end_to_end_rows_per_s"] > 0
    assert "NaN" not in out
    assert set(report["v2v_mm"]) == set(report["baseline"]["v2v_mm"]) == set(report["floor"]["v2v_mm"]) == STATISTICS
    assert report["limit_violations"] == 0
    assert report["speedup"] == pytest.approx(report["fits_per_s"] / report["baseline"]["fits_per_s"], rel=0.05)
    assert 0 <= report["floor"]["energy_gap_percent"] < 100
    assert report["mflop_per_row"] > 1
    assert report["share_of_peak"] > 0
    assert "gap to the floor" in out
    assert re.findall("measuring: (.*)", err)[:4] == ["fit", "sweep", "published protocol", "floor"]
    if "no plot" not in err:
        assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_bench_io(few, capsys):
    manifest, _ = few
    assert bench.io.main(["--manifest", str(manifest), "--rows", "10", "--device", "cpu", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    report = last_line(out)
    assert len(out.splitlines()) == 1
    assert err == ""
    assert report["rows"] == 10
    for part in ("read", "check", "fit", "write"):
        assert report[f"{part}_rows_per_s"] > 0


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (main, ["bench", "fit", "--labels", "nowhere.npz"], "nowhere.npz"),
        (bench.quality.main, ["--manifest", "nowhere.toml"], "nowhere.toml"),
        (bench.io.main, ["--device", "abacus"], "abacus"),
    ],
)
def test_what_is_wrong_is_said(few, capsys, command, arguments, message):
    manifest, _ = few
    assert command([*arguments, *([] if "--manifest" in arguments else ["--manifest", str(manifest)])]) == 2
    assert message in capsys.readouterr().err


def test_counts_start_at_one(capsys):
    assert main(["bench", "fit", "--rows", "0"]) == 2
    assert "--rows 0: expected a whole number from 1" in capsys.readouterr().err
