"""`hmr-skel convert` as people type it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from hmr_skel import load_shards
from hmr_skel.cli import main
from tests.convert.conftest import FRAMES, walk
from tests.convert.test_formats import amass

KEYS = {"shard", "shards", "rows", "kept", "rejected", "rows_per_s", "v2v_mm", "limit_violations", "file"}


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
    assert (report["file"], report["skel_gender"]) == ("walk.parquet", {"male": FRAMES})
    assert re.fullmatch(
        r"12 frames of 1 clip: male SKEL, v2v mean [\d.]+, p99 [\d.]+, max [\d.]+ mm, 0 outside limits, [\d.]+ s -> "
        r"walk\.parquet",
        text,
    )
    assert "note: SMPL-H: the 30 finger joints are dropped" in err
    assert len(load_shards("walk.parquet")) == FRAMES
    assert main(["convert", "walk.npz", "-o", "walk.parquet", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_frames_are_chosen_by_number_and_the_same_alone(walking: Path, capsys: pytest.CaptureFixture[str]):
    for frames, out in (("0-11", "all.npz"), ("3,7-8", "some.npz"), ("7", "one.npz")):
        assert main(["convert", "walk.npz", "-o", out, "--frames", frames, "-q"]) == 0
    loaded = {name: dict(np.load(f"{name}.npz")) for name in ("all", "some", "one")}
    assert loaded["some"]["frame"].tolist() == [3, 7, 8]
    np.testing.assert_allclose(loaded["some"]["time_s"], np.array([3, 7, 8]) / 120)
    np.testing.assert_allclose(loaded["some"]["skel_q"], loaded["all"]["skel_q"][[3, 7, 8]], atol=1e-4)
    np.testing.assert_allclose(loaded["one"]["skel_q"], loaded["all"]["skel_q"][[7]], atol=1e-4)
    assert main(["convert", "walk.npz", "-o", "x.npz", "--frames", "50"]) == 2
    assert "--frames 50: no such frame. The files have numbers up to 11" in capsys.readouterr().err


def test_several_files_of_several_people(walking: Path, capsys: pytest.CaptureFixture[str]):
    np.savez("run.npz", **amass(walk(5, seed=2), gender=np.array("female")))
    assert main(["convert", "walk.npz", "run.npz", "-o", "both.parquet"]) == 0
    assert "17 frames of 2 clips: female and male SKEL" in capsys.readouterr().out
    assert main(["convert", "walk.npz", "run.npz", "-o", "out", "--format", "mot", "--frames", "0-2"]) == 0
    assert "(2 files)" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out").iterdir()) == ["run.mot", "walk.mot"]


def test_smoothing_needs_frames_in_time(walking: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", "walk.npz", "-o", "x.npz", "--smooth", "0.1", "-q"]) == 0
    assert main(["convert", "walk.npz", "-o", "x.npz", "--smooth", "0.1", "--rows", "people"]) == 2
    assert "--smooth: none of these files holds frames of one person in time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npz", "-o", "x.npz"], r"no file none\.npz"),
        (["walk.npz", "-o", "x.txt"], r"unknown format 'txt'"),
        (["walk.npz", "-o", "x.glb"], r"holds one frame, and the input has 12"),
        (["walk.npz", "-o", "x.npz", "--smooth", "-1"], r"--smooth -1"),
        (["walk.npz", "-o", "x.npz", "--smooth", "nan"], r"--smooth nan"),
        (["walk.npz", "-o", "walk.npz"], r"walk\.npz is an input, and would be overwritten"),
        (["walk.npz", "-o", ".", "--format", "npz"], r"walk\.npz is an input, and would be overwritten"),
        (["walk.npz", "-o", "walk.npz/x.npz"], r"walk\.npz is no folder that can be written to"),
        (["walk.npz", "-o", "walk.npz/out"], r"walk\.npz is no folder that can be written to"),
        (["walk.npz", "-o", "x.npz", "--frame-rate", "0"], r"--frame-rate 0"),
        (["walk.npz", "-o", "x.npz", "--frames", "a"], r"'a' names no frames"),
        (["walk.npz", "-o", "x.npz", "--body-models", "nowhere"], r"no body model nowhere/SMPL_MALE\.pkl"),
        (["walk.npz", "-o", "x.npz", "--device", "cuda:63"], r"no device 'cuda:63'"),
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


def test_the_help_explains(capsys: pytest.CaptureFixture[str]):
    for command, words in (
        (
            "convert",
            ("AMASS", "4D-Humans", "TokenHMR", ".smpl", "CameraHMR", "degrees", "not verified against bsm"),
        ),
        ("export", ("skel_poses", "keypoints3d", "orig_poses", "Radians, metres, pixels")),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert all(word in text for word in words)


def motion(frames: int) -> dict[str, np.ndarray]:
    """An AMASS-format recording: keyed poses a second apart, turned through smoothly at 60 frames a second."""
    rng = np.random.default_rng(0)
    keys = np.arange(frames // 60 + 3) * 60
    pose = np.empty((frames, 24, 3))
    for joint in range(24):
        slerp = Slerp(keys, Rotation.from_rotvec(0.15 * rng.normal(size=(len(keys), 3))))
        pose[:, joint] = slerp(np.arange(frames)).as_rotvec()
    upright = Rotation.from_euler("x", 90, degrees=True)
    pose[:, 0] = (upright * Rotation.from_rotvec(pose[:, 0])).as_rotvec()
    transl = np.stack([0.01 * np.arange(frames), np.zeros(frames), np.full(frames, 0.9)], 1)
    truth = {"pose": pose, "betas": 0.7 * rng.normal(size=16), "transl": transl}
    return amass(truth, mocap_framerate=np.array(60.0))


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("out", "where"),
    [
        ("x.parquet", "hmr_skel.convert.fit.fit_clips"),
        ("x.parquet", "pyarrow.parquet.write_table"),
        ("x.npz", "numpy.savez"),
        ("x.mot", "numpy.savetxt"),
        ("x.glb", "trimesh.Scene.export"),
    ],
)
def test_an_interrupt_leaves_the_file_that_was_there(walking: Path, monkeypatch, out: str, where: str):
    """While it fits, or while it writes: no half file, and nothing beside it."""
    Path(out).write_bytes(b"of an earlier run")
    monkeypatch.setattr(where, interrupt)
    assert main(["convert", "walk.npz", "-o", out, "--frames", "3", "-q"]) == 130
    assert Path(out).read_bytes() == b"of an earlier run"
    assert {path.name for path in Path().iterdir()} == {"walk.npz", out}


def test_an_interrupt_between_two_files_leaves_whole_ones(walking: Path, monkeypatch):
    """Into a folder: what has its name is whole, and what came later is as it was."""
    np.savez("run.npz", **amass(walk(5, seed=2)))
    Path("out").mkdir()
    Path("out/walk.npz").write_bytes(b"of an earlier run")
    original, calls = np.savez, []

    def second_time(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs) if len(calls) == 1 else interrupt()

    monkeypatch.setattr(np, "savez", second_time)
    assert main(["convert", "run.npz", "walk.npz", "-o", "out", "--format", "npz", "--frames", "0-1", "-q"]) == 130
    assert len(np.load("out/run.npz")["skel_q"]) == 2
    assert Path("out/walk.npz").read_bytes() == b"of an earlier run"
    assert len(list(Path("out").iterdir())) == 2


def test_a_long_recording(walking: Path, capsys: pytest.CaptureFixture[str]):
    """More frames than are fitted together."""
    np.savez("long.npz", **motion(600))
    assert main(["convert", "long.npz", "-o", "long.mot", "--json"]) == 0
    line, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    assert line.startswith("600 frames of 1 clip: male SKEL")
    assert (report["kept"], report["limit_violations"]) == (600, 0)
    assert report["v2v_mm"]["mean"] < 10
    assert len(Path("long.mot").read_text().split("endheader\n")[1].splitlines()) == 601


@pytest.mark.slow
def test_the_progress_bar(walking: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """One bar, which counts every fit: two for a row of neutral SMPL."""
    import tqdm

    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **(kwargs | {"disable": False}))
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    assert main(["convert", "walk.npz", "-o", "x.npz", "--smpl-gender", "neutral", "--gender", "best"]) == 0
    (bar,) = bars
    assert (bar.n, bar.total) == (2 * FRAMES, 2 * FRAMES)


def test_smoothing_without_a_frame_rate_says_what_it_takes(walking: Path, capsys: pytest.CaptureFixture[str]):
    truth = walk()
    np.savez("bare.npz", poses=truth["pose"], betas=truth["betas"], trans=truth["transl"], gender="male")
    assert main(["convert", "bare.npz", "-o", "x.npz", "--smooth", "0.1"]) == 0
    assert "smoothing takes 30 a second" in capsys.readouterr().err


def test_neutral_bodies_are_said_to_be_taken_for_male(walking: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", "walk.npz", "-o", "x.npz", "--smpl-gender", "neutral"]) == 0
    out, err = capsys.readouterr()
    assert "12 frames of 1 clip: male SKEL" in out
    assert "SKEL has no neutral body, male is taken (--gender best tries both)" in err


def test_folders_need_images(walking: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", "walk.npz", "-o", "x.npz", "--rows", "folders"]) == 2
    assert "walk.npz names no images" in capsys.readouterr().err
