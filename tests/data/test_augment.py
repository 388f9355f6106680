import cv2
import numpy as np
import pytest
import torch

from hmr_skel.body.skel import Skel
from hmr_skel.data.augment import OPERATIONS, PARTS, WHOLE_BODY, AugmentConfig, draw, mirror, operate, part_box

SKEL_MIRROR = [0, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 11, 12, 13, 19, 20, 21, 22, 23, 14, 15, 16, 17, 18]
WILD = AugmentConfig(scale=0.3, translation=0.1, flip_probability=0.5, extreme_crop_probability=0.5)


def test_the_mirrored_pose_poses_the_mirrored_body(open_body_dir):
    skel = Skel.load(open_body_dir / "skel_male.pkl", dtype=torch.float64)
    rng = np.random.default_rng(3)
    q = rng.uniform(-0.6, 0.6, (8, 46))
    q[:, 0] += np.pi  # upright in the camera's frame
    betas = torch.from_numpy(rng.normal(0, 1, (8, 10)))

    def joints(q):
        found = skel(torch.from_numpy(q), betas, torch.zeros(8, 3, dtype=torch.float64)).joints
        return (found - found[:, :1]).numpy()

    expected = (joints(q) * (-1, 1, 1))[:, SKEL_MIRROR]
    changed = joints(np.stack([mirror(np.zeros((44, 3)), np.zeros((44, 4)), pose)[2] for pose in q]))
    # Both ankles' pins share one axis, and the template is not quite symmetric: that is all that a flip may cost.
    assert np.abs(changed - expected).max() < 0.04
    assert np.abs(changed - expected)[:, [0, 11, 12, 13, 1, 6]].max() < 2e-3  # the torso


def test_changes_are_as_large_and_as_frequent_as_configured():
    rng = np.random.default_rng(0)
    drawn = [draw(WILD, rng) for _ in range(2000)]
    assert all(0.7 <= change.scale <= 1.3 for change in drawn)
    assert all(abs(shift) <= 0.1 for change in drawn for shift in change.shift)
    assert all(0.8 <= gain <= 1.2 for change in drawn for gain in change.gains)
    for seen, expected in (
        (np.mean([change.flip for change in drawn]), 0.5),
        (np.mean([change.part is not None for change in drawn]), 0.5),
        (np.mean([change.degrade[0] is not None for change in drawn]), 0.3),
        (np.mean([change.scale == 1.3 for change in drawn]), 0.159),  # P(N > 1)
    ):
        assert abs(seen - expected) < 0.04


def lsp(*numbers):
    return {25 + number for number in numbers}


# The keypoints that the published code ignores for each crop.
IGNORED = {
    "hips": {10, 11, 13, 14, *range(19, 25), *lsp(0, 1, 4, 5)},
    "shoulders": {3, 4, *range(6, 15), *range(19, 25), *lsp(*range(8), 10, 11, 14, 15, 16)},
    # and, unlike there, the two shoulders of OpenPose
    "head": {2, 5, 3, 4, *range(6, 15), *range(19, 25), *lsp(*range(12), 14, 15, 16)},
    "torso": {0, 3, 4, 6, 7, 10, 11, *range(13, 25), *lsp(0, 1, 4, 5, 6, 7, 10, 11, 13, 17, 18)},
    "arm_r": {0, 1, *range(5, 25), *lsp(*range(6), *range(9, 19))},
    "arm_l": set(range(44)) - {5, 6, 7, *lsp(9, 10, 11)},
    "legs": {*range(8), *range(15, 19), *lsp(*range(6, 14), *range(15, 19))},
    "leg_r": {*range(9), *range(12, 22), *lsp(*range(3, 19))},
    "leg_l": {*range(12), *range(15, 19), 22, 23, 24, *lsp(0, 1, 2, *range(6, 19))},
}


@pytest.fixture
def person():
    """All keypoints, in a picture of 1000 px."""
    rng = np.random.default_rng(0)
    return np.concatenate((rng.uniform(0, 1000, (44, 2)), np.ones((44, 1))), 1)


@pytest.mark.parametrize("name", IGNORED)
def test_a_part_is_the_published_set_of_keypoints(name):
    assert set(PARTS[name][0]) == set(range(44)) - IGNORED[name]


@pytest.mark.parametrize("choice", np.arange(10) / 10 + 0.05)
def test_the_box_is_that_of_the_part(person, choice):
    center, side = part_box(person, choice)
    keypoints, margin = PARTS[WHOLE_BODY[int(choice * 10)]]
    kept = person[list(keypoints), :2]
    np.testing.assert_allclose(center, (kept.min(0) + kept.max(0)) / 2)
    assert side == pytest.approx(np.ptp(kept, axis=0).max() * 1.2 * margin)


def test_too_little_is_no_part(person):
    assert part_box(np.full((44, 3), np.nan), 0.5) is None
    person[:, 2] = 0
    assert part_box(person, 0.5) is None
    person[:] = 0
    person[:, 2] = 1  # all in one place
    assert part_box(person, 0.5) is None


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    noise = rng.integers(20, 220, (16, 16, 3), np.uint8)
    return cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("operation", [*OPERATIONS[0], *OPERATIONS[1]])
def test_an_operation_makes_another_picture_of_the_same_thing(operation, picture):
    before = picture.copy()
    changed = operate(operation, picture, np.random.default_rng(4))
    assert (changed.shape, changed.dtype) == (picture.shape, np.uint8)
    assert np.array_equal(picture, before)  # in nobody else's memory
    assert np.array_equal(changed, operate(operation, picture, np.random.default_rng(4)))
    assert not np.array_equal(changed, picture)
    grays = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) for image in (picture, changed)]
    (dx, dy), response = cv2.phaseCorrelate(*grays)
    assert max(abs(dx), abs(dy)) < 1  # nothing has moved: keypoints stay where they are
    assert response > 0.15
