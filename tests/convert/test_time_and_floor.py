"""Clips before the fit: at another frame rate, smoothed, turned upright, put on the floor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import butter, sosfiltfilt
from scipy.spatial.transform import Rotation

from hmr_skel.cli import main
from hmr_skel.convert import Bodies, ReadOptions, SkelClip, SmplClip, fit_clips, read_clips
from hmr_skel.convert.reading import clip_from_arrays
from hmr_skel.convert.resample import resampled, smoothed
from hmr_skel.convert.upright import upright
from hmr_skel.data.load import load_shards
from hmr_skel.errors import UserError
from tests.convert.conftest import walk

JUMPS = Path(__file__).parents[3] / "shared" / "data" / "cmu_mocap" / "01_01-120hz.npz"


def clip_of(arrays: dict, frame: str = "y-up", rate: float | None = 30.0, rows: str | None = None) -> SmplClip:
    options = ReadOptions(smpl_gender="male", frame_rate=rate, frame=frame, rows=rows)
    return clip_from_arrays(arrays, "walk", options)


def turning(rate: float, seconds: float = 2.0) -> dict[str, np.ndarray]:
    """Joints that turn about slanting axes, far and back, and a body that circles."""
    time = np.arange(round(seconds * rate) + 1) / rate
    axes = np.random.default_rng(3).normal(size=(24, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    pose = axes * (1.5 * np.sin(2 * np.pi * 0.5 * time))[:, None, None]
    transl = np.stack((np.cos(time), np.sin(time), 0.1 * time), 1)
    return {"pose": pose, "betas": np.zeros(10), "transl": transl}


@pytest.mark.parametrize("rate", [100.0, 12.0, 30.0])
def test_resampled_is_as_if_recorded_at_that_rate(rate: float):
    found, true = resampled(clip_of(turning(30.0)), rate), clip_of(turning(rate))
    assert found.frame_rate == rate
    assert found.number.tolist() == true.number.tolist()
    apart = Rotation.from_rotvec(found.pose.reshape(-1, 3)) * Rotation.from_rotvec(true.pose.reshape(-1, 3)).inv()
    assert np.degrees(apart.magnitude()).max() < 0.02
    np.testing.assert_allclose(found.transl, true.transl, atol=1e-4)
    assert any(f"resampled from 30 to {rate:g}" in note for note in found.notes)


def test_nothing_is_made_up_between_cuts_and_in_gaps():
    clip = clip_of(turning(30.0))
    clip = replace(clip, shot=np.repeat([0, 1], [20, 41]))
    clip.pose[40, 3] = np.nan
    found = resampled(clip, 60.0)
    assert set(range(39)) | set(range(40, 79)) | set(range(82, 121)) == set(found.number.tolist())
    assert np.isfinite(found.pose).all()
    assert found.shot is not None
    assert (np.diff(found.shot) != 0).tolist().index(True) == 38


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (clip_of(walk(4), rate=None), r"does not say how many frames a second.*--frame-rate"),
        (clip_of(walk(4), rows="people"), r"is no frames of one person"),
    ],
)
def test_what_cannot_be_resampled(clip: SmplClip, message: str):
    with pytest.raises(UserError, match=message):
        resampled(clip, 60.0)


def jump(rate: float, jitter: float = 1.0) -> SmplClip:
    """Someone who bends the knees, leaves the ground, lands and stands, turning about; the labels jitter."""
    time, rng = np.arange(round(3 * rate)) / rate, np.random.default_rng(1)

    def bump(when: float, width: float) -> np.ndarray:
        return np.exp(-(((time - when) / width) ** 2))

    pose, transl = np.zeros((len(time), 24, 3)), np.zeros((len(time), 3))
    pose[:, 0, 1] = 2.5 * time  # past half a turn, where axis-angles flip
    pose[:, 4:6, 0] = 1.8 * (bump(1.0, 0.15) + bump(1.8, 0.1))[:, None]
    transl[:, 1] = 0.9 - 0.25 * bump(1.0, 0.15) + 0.35 * bump(1.4, 0.15) - 0.25 * bump(1.8, 0.1)
    pose = Rotation.from_rotvec((pose + jitter * 5e-3 * rng.normal(size=pose.shape)).reshape(-1, 3)).as_rotvec()
    transl += jitter * 1e-3 * rng.normal(size=transl.shape)
    return clip_of({"pose": pose.reshape(-1, 24, 3), "betas": np.zeros(10), "transl": transl}, rate=rate)


def assert_smoother(smooth: dict[str, np.ndarray], rough: dict[str, np.ndarray]) -> None:
    """Jerk falls by a fifth at least, and no peak of these curves [T] is lowered by more than 5 %."""
    for name, curve in smooth.items():
        jerk = [np.abs(np.diff(values, 3)).mean() for values in (curve, rough[name])]
        assert jerk[0] < 0.8 * jerk[1], name
        assert abs(np.ptp(curve) / np.ptp(rough[name]) - 1) < 0.05, name


@pytest.mark.parametrize("rate", [120.0, 60.0, 30.0])
def test_smoothing_takes_jitter_and_leaves_jumps(rate: float):
    def curves(clip: SmplClip) -> dict[str, np.ndarray]:
        return {"pelvis": clip.transl[:, 1], "knee": np.linalg.norm(clip.pose[:, 4], axis=1)}

    rough, still = jump(rate), jump(rate, jitter=0)
    smooth = smoothed(rough, 6)
    assert_smoother(curves(smooth), curves(rough))
    apart = [Rotation.from_rotvec(clip.pose.reshape(-1, 3)) for clip in (smooth, rough, still)]
    errors = [(one * apart[2].inv()).magnitude().reshape(-1, 24)[:, :4].mean() for one in apart[:2]]
    assert errors[0] < np.sqrt(12 / rate) * 1.2 * errors[1]  # the share of white noise that is below 6 Hz
    # Without jitter, the same at every rate.
    slow, fast = smoothed(still, 6), smoothed(jump(120.0, jitter=0), 6)
    moved = np.abs(slow.transl - still.transl).max()
    assert 2e-3 < moved < 2e-2
    np.testing.assert_allclose(slow.transl, fast.transl[:: round(120 / rate)], atol=0.1 * moved)


def test_smoothing_is_a_butterworth_filter_without_lag():
    """scipy's, of second order and run both ways, its cut-off corrected for that (Winter): away from the ends."""
    rough = replace(jump(200.0), transl=np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32))
    corrected = 6 / (np.sqrt(2) - 1) ** 0.25
    expected = sosfiltfilt(butter(2, corrected, fs=200, output="sos"), rough.transl, axis=0)
    found = smoothed(rough, 6).transl
    np.testing.assert_allclose(found[60:-60], expected[60:-60], atol=0.01)
    assert np.abs(expected[60:-60]).max() > 0.5


def test_smoothing_couples_nothing_across_cuts_and_keeps_short_and_straight_runs():
    rough = jump(60.0)
    shot = np.repeat([0, 1, 2, 3], [60, 2, 3, 115])
    found = smoothed(replace(rough, shot=shot), 6)
    for number in range(4):
        run = smoothed(rough.take(shot == number), 6)
        np.testing.assert_allclose(found.transl[shot == number], run.transl, atol=1e-6)
    assert (found.transl[60:62] == rough.transl[60:62]).all()
    line = replace(rough, transl=np.outer(np.arange(180), [0.01, 0.02, -0.1]).astype(np.float32))
    np.testing.assert_allclose(smoothed(line, 6).transl, line.transl, atol=1e-5)


@pytest.mark.skipif(not JUMPS.is_file(), reason=f"no {JUMPS}")
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_recorded_jump_smoothed(bodies: Bodies, step: int):
    clip = read_clips(JUMPS, ReadOptions())[0].take(np.arange(170, 330, step))
    plain, smooth = (fit_clips([clip], bodies, "male", smooth_hz=hz)[0] for hz in (0, 6))
    skel = bodies.skel("male")

    def curves(found: SkelClip) -> dict[str, np.ndarray]:
        joints = skel(*map(torch.from_numpy, (found.q, found.betas, found.transl))).joints.numpy()
        knees = {f"knee {k}": found.q[:, k] for k in (6, 13)}
        return {"pelvis": joints[:, 0, 1], **knees}

    assert_smoother(curves(smooth), curves(plain))
    assert 0 < (smooth.v2v_mm - plain.v2v_mm).mean() < 0.5
    assert smooth.max_limit_violation_deg.max() == 0


@pytest.mark.skipif(not JUMPS.is_file(), reason=f"no {JUMPS}")
def test_shapes_of_recorded_people(bodies: Bodies):
    """Betas that change sign are said, and their rows told; a shape that nobody has is bounded, and told."""
    clip = read_clips(JUMPS, ReadOptions())[0].take(np.arange(2005, 2125, 12))
    signs = np.where(np.arange(len(clip)) % 2, 2.0, -2.0).astype(np.float32)
    (found,) = fit_clips([replace(clip, betas=np.repeat(signs[:, None], 10, 1))], bodies, "male")
    assert found.v2v_mm.min() > bodies.config.far_v2v_mm
    assert set(found.status) == {"far"}
    assert any("vary as if of several people" in note for note in found.smpl.notes)
    nobody = np.tile(np.float32([-4, 4, 4, -4, -4, 4, -4, 4, 4, -4]), (len(clip), 1))
    (bounded,) = fit_clips([replace(clip, betas=nobody)], bodies, "male")
    shape = bodies.model("neutral", "male").shape
    plain = shape.offset + torch.from_numpy(nobody[0]).double() @ shape.matrix
    assert plain.norm() > 20
    assert np.linalg.norm(bounded.betas[0]) == pytest.approx(np.linalg.norm(nobody[0]), rel=1e-5)
    assert set(bounded.status) == {"unusual_shape"}
    assert bounded.v2v_mm.mean() < 18


def vertices(clip: SmplClip, bodies: Bodies) -> np.ndarray:
    pose, betas = torch.from_numpy(clip.pose), torch.from_numpy(clip.betas)
    posed = bodies.smpl(clip.gender[0])(pose[:, 0], pose[:, 1:], betas, torch.zeros(len(clip), 3)).vertices.numpy()
    turn = Rotation.from_rotvec(np.zeros((len(clip), 3)) if clip.turn is None else clip.turn).as_matrix()
    return np.einsum("tij,tvj->tvi", turn, posed) + clip.transl[:, None]


def standing(tilt: np.ndarray, frames: int = 15) -> SmplClip:
    """Arms move, legs do not; the world of a y-up clip is turned by `tilt` [3 3] (axis-angle -> matrix)."""
    arrays = walk(frames, "y-up")
    pose = arrays["pose"]
    pose[:, [0, 1, 2, 4, 5, 7, 8, 10, 11]] = 0
    pose[:, 0] = Rotation.from_matrix(tilt).as_rotvec()
    return clip_of(arrays | {"transl": np.tile([0.3, -2.0, 4.0], (frames, 1))})


TILT = Rotation.from_rotvec([0.2, 0.1, -0.15]).as_matrix()


@pytest.mark.parametrize("up", ["feet", ",".join(map(str, TILT[:, 1]))])
def test_a_tilted_world_is_put_upright_on_the_floor(bodies: Bodies, up: str):
    clip = standing(TILT)
    found = upright(clip, bodies, up, floor=True)
    assert found.frame == "y-up"
    feet = vertices(found, bodies)[..., 1].min(1)
    np.testing.assert_allclose(feet, 0, atol=2e-3)
    before, after = vertices(clip, bodies), vertices(found, bodies)
    turn = Rotation.align_vectors((after[0] - after[0, 0])[:50], (before[0] - before[0, 0])[:50])[0]
    for one, other in zip(before, after, strict=True):  # one and the same movement of the world
        np.testing.assert_allclose(turn.apply(one - before[0, 0]), other - after[0, 0], atol=1e-4)
    np.testing.assert_allclose(turn.apply(TILT[:, 1]), [0, 1, 0], atol=2e-3)
    estimates = [note for note in found.notes if "is an estimate" in note]
    assert len(estimates) == 1 + (up == "feet")


def test_the_frame_counts_where_up_is_not_said(bodies: Bodies):
    clip = clip_of(walk(3, "z-up"), "z-up")
    found = upright(clip, bodies, None, floor=True)
    y_up = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    before, after = vertices(clip, bodies) @ np.array(y_up, np.float32).T, vertices(found, bodies)
    np.testing.assert_allclose(after - before, np.broadcast_to((after - before)[0, 0], after.shape), atol=1e-4)


def turning_about() -> SmplClip:
    arrays = walk(32, "z-up")
    root = Rotation.from_rotvec(arrays["pose"][:, 0])
    arrays["pose"][:, 0] = (Rotation.from_rotvec(np.linspace(0, [0, 0, 7], 32)) * root).as_rotvec()
    return clip_of(arrays, "z-up")


@pytest.mark.parametrize("recorded", [False, True], ids=["made", "recorded"])
def test_root_angles_of_z_up_files_move_as_the_body_does(bodies: Bodies, recorded: bool):
    """As z-up, pelvis_tilt and pelvis_rotation turn by up to 44 degrees in 1/120 s of this recording."""
    if recorded and not JUMPS.is_file():
        pytest.skip(f"no {JUMPS}")
    clip = read_clips(JUMPS, ReadOptions())[0].take(np.arange(2005, 2030)) if recorded else turning_about()
    (found,) = fit_clips([clip], bodies, "male")
    root = Rotation.from_rotvec(clip.pose[:, 0])
    turned = (root[1:] * root[:-1].inv()).magnitude()
    assert (np.abs(np.diff(found.q[:, :3], axis=0)).max(1) < 1.2 * turned + 1e-3).all()
    turn, shift = np.split(found.smpl.from_input[0, :3], [3], 1)
    targets = vertices(clip, bodies) @ turn.T + shift[:, 0]
    skin = bodies.skel("male")(*map(torch.from_numpy, (found.q, found.betas, found.transl))).vertices.numpy()
    np.testing.assert_allclose(1000 * np.linalg.norm(skin - targets, axis=-1).mean(1), found.v2v_mm, atol=2e-3)


@pytest.mark.parametrize(
    ("clip", "up", "message"),
    [
        (standing(np.eye(3)), "0,0,0", r"--up 0,0,0: expected X,Y,Z"),
        (standing(np.eye(3)), "down", r"--up down: expected X,Y,Z"),
        (standing(np.eye(3), 3), "feet", r"4 feet stand still.*expected 10"),
        (replace(standing(np.eye(3)), frame_rate=None), "feet", r"no frames of one person at a known frame rate"),
        (clip_of(walk(4), rows="people"), "feet", r"are no frames of one person"),
    ],
)
def test_what_cannot_be_put_upright(bodies: Bodies, clip: SmplClip, up: str, message: str):
    with pytest.raises(UserError, match=message):
        upright(clip, bodies, up, floor=False)


def test_a_frame_rate_beside_the_files_own_resamples_and_never_changes_the_speed(tmp_path, open_body_dir, capsys):
    arrays = walk(41, up="y-up")
    poses = arrays["pose"].reshape(41, 72)
    said = {"mocap_framerate": 120.0, "gender": "male"}
    np.savez(tmp_path / "a.npz", poses=poses, betas=arrays["betas"], trans=arrays["transl"], **said)
    command = ["convert", str(tmp_path / "a.npz"), "-o", str(tmp_path / "a.parquet"), "--frame-rate", "30"]
    assert main([*command, "--frame", "y-up", "--body-models", str(open_body_dir)]) == 0
    assert "resampled from 120 to 30" in "".join(capsys.readouterr())
    table = load_shards(tmp_path / "a.parquet")
    assert (len(table), table[10]["frame_rate"]) == (11, 30.0)
    assert table[10]["time_s"] == pytest.approx(10 / 30)


def test_what_is_left_out_is_said():
    clip = clip_of(turning(30.0))
    clip.pose[10:13] = np.nan
    assert any("3 frames left out" in note for note in resampled(clip, 60.0).notes)
