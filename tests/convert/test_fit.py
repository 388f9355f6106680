"""Clips to SKEL: frames are fitted for themselves, clips are finished as one person."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hmr_skel.body import dofs
from hmr_skel.convert import ReadOptions, SkelClip, SmplClip, fit_clips, smpl_to_skel
from hmr_skel.convert.clips import UPRIGHT
from hmr_skel.convert.fit import distances_mm, wanted_genders
from hmr_skel.convert.reading import clip_from_arrays
from hmr_skel.errors import UserError
from hmr_skel.two_stage import posed_pair
from tests.convert.conftest import FRAMES, walk

LIMITS = dofs.limits("anatomical")


def clip_of(truth: dict[str, np.ndarray], gender: str = "male", rows: str = "frames", name: str = "walk") -> SmplClip:
    return clip_from_arrays(truth, name, ReadOptions(smpl_gender=gender, rows=rows, frame_rate=30.0))


@pytest.fixture(scope="module")
def smpl() -> SmplClip:
    return clip_of(walk())


@pytest.fixture(scope="module")
def skel(smpl: SmplClip, bodies) -> SkelClip:
    return fit_clips([smpl], bodies)[0]


def assert_same_posture(one: SkelClip, other: SkelClip) -> None:
    """Equal but for whole turns: no rotation differs by more than 1e-4 rad."""
    turns = np.round((one.q - other.q) / (2 * np.pi))
    np.testing.assert_allclose(one.q - 2 * np.pi * turns, other.q, atol=1e-4)
    np.testing.assert_allclose(one.betas, other.betas, atol=1e-6)
    np.testing.assert_allclose(one.transl, other.transl, atol=1e-6)
    np.testing.assert_allclose(one.v2v_mm, other.v2v_mm, atol=1e-3)


def test_a_clip_is_one_person(skel: SkelClip, bodies):
    assert len(skel) == FRAMES
    assert set(skel.gender) == {"male"}
    assert (skel.betas == skel.betas[0]).all()
    assert np.abs(np.diff(skel.q, axis=0)).max() < np.pi
    assert skel.max_limit_violation_deg.max() == 0
    assert 1 < skel.v2v_mm.mean() < 12
    assert skel.time.tolist() == [i / 30 for i in range(FRAMES)]
    mean, largest = distances_mm(skel, bodies)
    np.testing.assert_allclose(mean, skel.v2v_mm, atol=2e-3)
    np.testing.assert_allclose(largest, skel.v2v_max_mm, atol=2e-2)


def test_frames_alone_and_shuffled_are_the_same(smpl: SmplClip, skel: SkelClip, bodies):
    alone = fit_clips([smpl.take(np.array([i])) for i in range(0, FRAMES, 5)], bodies)
    for i, one in zip(range(0, FRAMES, 5), alone, strict=True):
        assert_same_posture(one, skel.take(np.array([i])))
    order = np.random.default_rng(0).permutation(FRAMES)
    (shuffled,) = fit_clips([smpl.take(order)], bodies)
    assert_same_posture(shuffled, skel.take(order))


def test_clips_do_not_mix(smpl: SmplClip, skel: SkelClip, bodies):
    other = clip_of(walk(5, seed=3), name="other")
    one, two = fit_clips([other, smpl], bodies)
    assert_same_posture(two, skel)
    assert one.smpl.name == "other"
    assert len(one) == 5


def test_one_shape_for_frames_and_their_own_for_people(bodies):
    truth = walk(4)
    truth["betas"] = np.random.default_rng(0).normal(size=(4, 10))
    (moving,) = fit_clips([clip_of(truth)], bodies)
    assert (moving.betas == moving.betas[0]).all()
    np.testing.assert_allclose(moving.smpl.betas, truth["betas"], atol=1e-6)
    (people,) = fit_clips([clip_of(truth, rows="people")], bodies)
    assert len(np.unique(people.betas[:, 0])) == 4
    np.testing.assert_allclose(people.smpl.betas, truth["betas"], atol=1e-6)


def test_errors_are_those_to_the_annotation_whatever_one_shape_makes_of_it(bodies):
    """Betas that change sign: the mean shape is far from every frame's, and its v2v says nothing of them."""
    truth = walk(6)
    truth["betas"] = np.array([3.0, -3.0] * 3)[:, None] * np.eye(10)[:1]
    (found,) = fit_clips([clip_of(truth)], bodies)
    (of_mean,) = fit_clips([clip_of(truth | {"betas": 0 * truth["betas"][0]})], bodies)
    np.testing.assert_allclose(found.betas, of_mean.betas, atol=1e-6)
    mesh, skin = posed_pair(found, bodies)
    np.testing.assert_allclose(found.v2v_mm, 1000 * (skin - mesh).norm(dim=-1).mean(1), atol=1e-3)
    assert found.v2v_mm.mean() > 1.5 * of_mean.v2v_mm.mean()
    parts = found.v2v_mm.mean(), of_mean.v2v_mm.mean()
    assert found.smpl.notes[-1].endswith(
        "v2v is {:.1f} mm to the annotated meshes, {:.1f} mm to what was fitted".format(*parts)
    )
    assert not any("betas of walk vary" in note for note in of_mean.smpl.notes)
    assert ((found.v2v_mm > bodies.config.far_v2v_mm) == (found.status == "far")).all()
    # The pelvis joint stays where each frame's shape has it.
    smpl = bodies.smpl("male")
    pelvis = [
        smpl.shaped(torch.from_numpy(betas).float())[1][:, 0].numpy() for betas in (truth["betas"], 0 * truth["betas"])
    ]
    np.testing.assert_allclose(found.transl - of_mean.transl, pelvis[0] - pelvis[1], atol=1e-5)
    # One frame of another person: its row is told, and the others are not.
    truth["betas"] = np.array([0.0, 0, 0, 0, 0, 5.0])[:, None] * np.eye(10)[:1]
    (found,) = fit_clips([clip_of(truth)], bodies)
    assert ((found.v2v_mm > bodies.config.far_v2v_mm) == (found.status == "far")).all()
    assert found.status[-1] == "far"
    assert any("betas of walk vary" in note for note in found.smpl.notes)


def test_the_better_body_is_one_per_person(bodies):
    truth = walk(4)
    truth["betas"] = np.random.default_rng(5).normal(size=(4, 10))
    clips = [clip_of(truth, "neutral"), clip_of(truth, "neutral", rows="people")]
    by_gender = {gender: fit_clips(clips, bodies, gender) for gender in ("male", "female")}
    best, row_by_row = fit_clips(clips, bodies, "best")
    better = min(by_gender, key=lambda gender: by_gender[gender][0].v2v_mm.mean())
    assert set(best.gender) == {better}
    np.testing.assert_allclose(best.q, by_gender[better][0].q, atol=1e-4)
    nearer = np.minimum(*(people.v2v_mm for _, people in by_gender.values()))
    np.testing.assert_allclose(row_by_row.v2v_mm, nearer, atol=1e-3)


@pytest.mark.parametrize(
    ("own", "asked", "tried"),
    [
        ("female", None, ("female",)),
        ("neutral", None, ("male",)),
        ("female", "male", ("male",)),
        ("male", "best", ("male", "female")),
    ],
)
def test_an_annotations_own_gender_is_the_default(own: str, asked: str | None, tried: tuple[str, ...]):
    assert wanted_genders(own, asked) == tried


def test_bad_rows_are_left_out_and_harm_nobody(smpl: SmplClip, skel: SkelClip, bodies):
    pose, betas, transl = smpl.pose.copy(), smpl.betas.copy(), smpl.transl.copy()
    pose[2, 3, 0], pose[4, 1, 1], transl[7, 2] = np.nan, 100.0, 1e6
    (found,) = fit_clips([replace(smpl, pose=pose, betas=betas, transl=transl)], bodies)
    assert [number for number, _ in found.rejected] == [2, 4, 7]
    reasons = " | ".join(reason for _, reason in found.rejected)
    for word in ("not finite", "rotation beyond", "translation beyond 1000 m"):
        assert word in reasons
    kept = np.setdiff1d(np.arange(FRAMES), [2, 4, 7])
    assert found.smpl.number.tolist() == kept.tolist()
    assert_same_posture(found, skel.take(kept))
    assert found.smpl.number[found.smpl.starts()].tolist() == [0, 3, 5, 8]  # nothing is coupled across a gap
    lost = replace(smpl, pose=np.full_like(pose, 1e30))
    none, some = fit_clips([lost, smpl.take(np.arange(2))], bodies)
    assert (len(none), len(none.rejected), len(some)) == (0, FRAMES, 2)
    with pytest.raises(UserError, match=r"walk: no row can be fitted \(row 0: a rotation beyond"):
        fit_clips([lost], bodies)


def test_smoothing_couples_neither_clips_nor_cuts(bodies):
    rng = np.random.default_rng(1)
    truth = walk(10)
    truth["pose"][:, 1:] += 0.05 * rng.normal(size=(10, 23, 3))  # jitter
    smpl = clip_of(truth)
    (plain,) = fit_clips([smpl], bodies)
    (smooth,) = fit_clips([smpl], bodies, smooth_hz=6)
    jerk = [np.square(np.diff(clip.q[:, 3:], 3, axis=0)).mean() for clip in (smooth, plain)]
    assert jerk[0] < 0.5 * jerk[1]
    assert (smooth.smpl.pose == plain.smpl.pose).all()
    skin, mesh = posed_pair(smooth, bodies)[::-1]
    np.testing.assert_allclose(1000 * (skin - mesh).norm(dim=-1).mean(1), smooth.v2v_mm, atol=1e-4)
    assert smooth.max_limit_violation_deg.max() < 1e-3
    halves = [smpl.take(np.arange(5)), smpl.take(np.arange(5, 10))]
    apart = np.concatenate([clip.q for clip in fit_clips(halves, bodies, smooth_hz=6)])
    shot = np.repeat([0, 1], 5)
    (with_cut,) = fit_clips([replace(smpl, shot=shot)], bodies, smooth_hz=6)
    np.testing.assert_allclose(with_cut.q, apart, atol=1e-4)
    assert np.abs(smooth.q - apart).max() > 1e-3
    assert (fit_clips([smpl], bodies, smooth_hz=0)[0].q == plain.q).all()
    # What is left as it is, is said.
    for other, words in (
        (
            replace(smpl, shot=np.repeat([0, 1, 2], [8, 1, 1])),
            "2 frames of walk stand in runs too short to be smoothed",
        ),
        (replace(smpl, moving=False), "walk holds no frames in time and is not smoothed"),
        (replace(smpl, skel_q=smooth.q), "walk is SKEL already and is not smoothed"),
        (replace(smpl, frame_rate=15.0), "at 15 rows a second a cut-off of 6 Hz keeps"),
    ):
        assert any(words in note for note in fit_clips([other], bodies, smooth_hz=6)[0].smpl.notes), words
    assert not any("smooth" in note or "cut-off" in note for note in smooth.smpl.notes)
    every_other = replace(smpl, number=2 * smpl.number, frame_rate=60.0)  # the same rows a second
    assert (fit_clips([every_other], bodies, smooth_hz=6)[0].q == smooth.q).all()


def test_frames_of_several_genders_are_refused(smpl: SmplClip, bodies):
    genders = smpl.gender.copy()
    genders[3] = "female"
    with pytest.raises(UserError, match=r"several SMPL genders.*--rows people"):
        fit_clips([replace(smpl, gender=genders)], bodies)


def test_the_call(open_body_dir, smpl: SmplClip, skel: SkelClip):
    """The README's three lines, with every kind of array."""
    truth = walk()
    poses = truth["pose"].reshape(FRAMES, 72)
    result = smpl_to_skel(
        poses, truth["betas"], truth["transl"], smpl_gender="male", frame_rate=30, body_models=open_body_dir
    )
    assert_same_posture(result, skel)
    assert (result.time == skel.time).all()
    assert any("say --frame z-up (frame= in Python)" in note for note in result.smpl.notes)
    turned = smpl_to_skel(
        poses, truth["betas"], truth["transl"], smpl_gender="male", frame="z-up", body_models=open_body_dir
    )
    assert turned.smpl.frame == "y-up"
    np.testing.assert_allclose(turned.q[:, 3:], skel.q[:, 3:], atol=1e-4)
    assert (turned.smpl.from_input[0][:3, :3] == UPRIGHT["z-up"]).all()
    tensors = smpl_to_skel(
        torch.from_numpy(poses[:3]), truth["betas"][None, :10].tolist(), smpl_gender="male", body_models=open_body_dir
    )
    np.testing.assert_allclose(tensors.q, result.q[:3], atol=1e-4)
    one = smpl_to_skel(
        np.degrees(poses[0]), truth["betas"][:10], 100 * truth["transl"][0], smpl_gender="male", lengths="cm",
        angles="deg", body_models=str(open_body_dir), device="cpu",
    )  # fmt: skip
    np.testing.assert_allclose(one.q, result.q[:1], atol=1e-4)
    np.testing.assert_allclose(one.transl, result.transl[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skel_gender": "neutral"}, "skel_gender is 'neutral'. Expected one of None, 'male'"),
        ({"smpl_gender": "x"}, "smpl_gender is 'x'"),
        ({"rows": "folders"}, "rows is 'folders'"),
        ({"frame": "up"}, "frame is 'up'. Expected one of None, 'camera', 'y-up', 'z-up'"),
        ({"lengths": "feet"}, "lengths is 'feet'"),
        ({"angles": "turns"}, "angles is 'turns'"),
        ({"smooth_hz": -1.0}, "a cut-off of -1 Hz"),
        ({"smooth_hz": float("nan")}, "a cut-off of nan Hz"),
        ({"smooth_hz": 6}, "arrays does not say how many frames a second it has, and smoothing is in Hz"),
        ({"frame_rate": 0}, "frame_rate is 0"),
        ({"body_models": "nowhere"}, "no body model nowhere"),
    ],
)
def test_wrong_options(open_body_dir, changes: dict, message: str):
    truth = walk(2)
    arguments = {"smpl_gender": "male", "body_models": open_body_dir} | changes
    with pytest.raises(UserError, match=message):
        smpl_to_skel(truth["pose"], truth["betas"], **arguments)
