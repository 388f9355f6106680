"""`hmr-skel convert` as people type it."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from hmr_skel import load_shards, progress
from hmr_skel.cli import main
from tests.convert.conftest import FRAMES, walk
from tests.convert.layouts import amass

KEYS = {"shard", "shards", "rows", "kept", "rejected", "rows_per_s", "v2v_mm", "limit_violations", "doubtful", "file"}


@pytest.fixture
def walking(tmp_path: Path, open_body_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AMASS file, in the working directory, with body models in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", str(open_body_dir))
    path = tmp_path / "walk.npz"
    np.savez(path, **amass(walk()))
    return path


def test_one_line_and_json(walking: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", "walk.npz", "-o", "walk.parquet", "--json"]) == 0
    out, err = capsys.readouterr()
    text, last = out.strip().splitlines()
    report = json.loads(last)
    assert set(report) >= KEYS
    assert set(report["v2v_mm"]) == {"mean", "median", "p95", "p99", "max"}
    assert (report["rows"], report["kept"], report["rejected"], report["limit_violations"]) == (FRAMES, FRAMES, 0, 0)
    assert report["v2v_mm"]["max"] < report["v2v_max_mm"]["mean"] < report["v2v_max_mm"]["max"]
    assert (report["file"], report["skel_gender"]) == ("walk.parquet", {"male": FRAMES})
    assert re.fullmatch(
        r"12 frames of 1 clip: male SKEL, v2v mean [\d.]+ mm, p99 [\d.]+ mm, worst row [\d.]+ mm, worst vertex "
        r"[\d.]+ mm, 2 rows far from the annotation or in no human pose, 0 outside the anatomical limits of "
        r"hmr-skel, [\d.]+ s -> walk\.parquet",
        text,
    )
    assert "note: SMPL-H: the 30 finger joints are dropped" in err
    assert len(load_shards("walk.parquet")) == FRAMES
    assert main(["convert", "walk.npz", "-o", "walk.parquet", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_frames_are_chosen_by_number_and_the_same_alone(walking: Path):
    for frames, out in (("0-11", "all.npz"), ("3,7-8", "some.npz"), ("7", "one.npz")):
        assert main(["convert", "walk.npz", "-o", out, "--frames", frames, "-q"]) == 0
    loaded = {name: dict(np.load(f"{name}.npz")) for name in ("all", "some", "one")}
    assert loaded["some"]["frame"].tolist() == [3, 7, 8]
    np.testing.assert_allclose(loaded["some"]["time_s"], np.array([3, 7, 8]) / 120)
    np.testing.assert_allclose(loaded["some"]["skel_q"], loaded["all"]["skel_q"][[3, 7, 8]], atol=1e-4)
    np.testing.assert_allclose(loaded["one"]["skel_q"], loaded["all"]["skel_q"][[7]], atol=1e-4)


def test_several_files_of_several_people(walking: Path, capsys: pytest.CaptureFixture[str]):
    np.savez("run.npz", **amass(walk(5, seed=2), gender=np.array("female")))
    assert main(["convert", "walk.npz", "run.npz", "-o", "both.parquet"]) == 0
    assert "17 frames of 2 clips: female and male SKEL" in capsys.readouterr().out
    assert main(["convert", "walk.npz", "run.npz", "-o", "out", "--format", "mot", "--frames", "0-2"]) == 0
    assert "(2 files)" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out").iterdir()) == ["run.mot", "walk.mot"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npz", "-o", "x.npz"], r"no file none\.npz"),
        (["walk.npz", "-o", "x.npz", "--smooth", "-1"], r"--smooth -1"),
        (["walk.npz", "-o", "walk.npz"], r"walk\.npz is an input, and would be overwritten"),
        (["walk.npz", "-o", ".", "--format", "npz"], r"walk\.npz is an input, and would be overwritten"),
        (["walk.npz", "-o", "walk.npz/x.npz"], r"walk\.npz is no folder that can be written to"),
        (["walk.npz", "-o", "x.npz", "--frames", "a"], r"'a' names no frames"),
        (["walk.npz", "-o", "x.npz", "--body-models", "nowhere"], r"no body model nowhere/SMPL_MALE\.pkl"),
        (["walk.npz", "-o", "x.npz", "--device", "cuda:63"], r"no device 'cuda:63'"),
        (["walk.npz", "-o", "x.npz", "--rows", "folders"], r"walk\.npz names no images"),
        (["walk.npz", "-o", "x.npz", "--smooth", "6", "--rows", "people"], r"--smooth: none of these files holds"),
        (
            ["walk.npz", "-o", "x.npz", "--smooth", "0.1"],
            r"a cut-off of 0\.1 Hz\. Expected 1 Hz or more; 6 is.*took a weight",
        ),
        (
            ["walk.npz", "-o", "x.npz", "--smooth", "60"],
            r"walk\.npz has 120 rows a second.*Expected a cut-off below 60 Hz",
        ),
        (
            ["walk.npz", "-o", "x.npz", "--frames", "50"],
            r"--frames 50: no such frame\. The files have .* to 11",
        ),
    ],
)
def test_one_clear_message(walking: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(rf"error: .*{message}", error), error
    assert {path.name for path in Path().iterdir()} == {"walk.npz"}


def test_body_models_have_to_be_named(walking: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.delenv("HMR_SKEL_BODY_MODELS")
    assert main(["convert", "walk.npz", "-o", "x.npz"]) == 2
    assert re.search(r"no body models.*--body-models DIR.*--body-models open", capsys.readouterr().err)


@pytest.mark.parametrize("where", ["convert.formats.read_files", "convert.fit.fit_clips", "opensim.tables.np.savetxt"])
def test_an_interrupt_leaves_the_file_that_was_there(walking: Path, monkeypatch, capsys, where: str):
    """While it reads, fits or writes: no half file, and nothing beside it."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    Path("x.mot").write_bytes(b"of an earlier run")
    monkeypatch.setattr(f"hmr_skel.{where}", interrupt)
    assert main(["convert", "walk.npz", "-o", "x.mot", "--frames", "3", "-q"]) == 130
    assert Path("x.mot").read_bytes() == b"of an earlier run"
    assert {path.name for path in Path().iterdir()} == {"walk.npz", "x.mot"}
    assert "interrupted. Nothing is written. All else is as it was before." in capsys.readouterr().err


def test_files_that_were_written_before_an_interrupt_are_named(walking: Path, monkeypatch, capsys):
    from hmr_skel.convert import output

    def write(clips, path: Path, *_) -> None:
        if path.name == "walk_2.npz":
            raise KeyboardInterrupt
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")

    monkeypatch.setattr(output, "write_table", write)
    assert main(["convert", "walk.npz", "walk.npz", "-o", "out", "--format", "npz", "--frames", "3"]) == 130
    assert f"interrupted. These are written: {Path('out') / 'walk.npz'}. All else" in capsys.readouterr().err


def test_work_that_is_not_counted_is_told(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0.01)
    with progress.telling(False, "convert") as begin:
        for stage in ("reading", "writing"):
            begin(stage)
            told, until = "", time.monotonic() + 60
            while f"convert: {stage}, 0 s" not in told and time.monotonic() < until:
                told += capsys.readouterr().err
            assert f"convert: {stage}, " in told
    with progress.telling(True, "convert") as begin:
        begin("reading")
        time.sleep(0.05)
    assert not capsys.readouterr().err


def test_what_is_taken_for_granted_is_said_and_every_fit_is_counted(walking: Path, capsys, monkeypatch):
    """One progress bar, which counts every fit: two for a row of neutral SMPL where both bodies are tried."""
    bars = []

    class Bar(progress._ProgressLines):
        def __init__(self, **options) -> None:
            super().__init__(**options)
            bars.append(self)

    monkeypatch.setattr(progress, "_ProgressLines", Bar)
    truth = walk(4)
    np.savez("bare.npz", poses=truth["pose"], betas=truth["betas"], trans=truth["transl"], gender="neutral")
    arguments = ["convert", "bare.npz", "-o", "x.npz"]
    assert main([*arguments, "--smooth", "6", "--frame-rate", "30"]) == 0
    out, err = capsys.readouterr()
    assert "4 frames of 1 clip: male SKEL" in out
    assert "SKEL has no neutral body, male is taken (--gender best tries both)" in err
    assert main([*arguments, "--gender", "best"]) == 0
    assert "no neutral body" not in capsys.readouterr().err
    assert [(bar.n, bar.total) for bar in bars] == [(4, 4), (8, 8)]
