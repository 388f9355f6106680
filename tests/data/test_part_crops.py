import numpy as np
import pytest

from hmr_skel.body.joints import FLIP_44
from hmr_skel.data import part_crops
from hmr_skel.data.part_crops import UPPER_BODY, WHOLE_BODY, part_box


def lsp(*numbers):
    return {25 + number for number in numbers}


# The keypoints that the published code ignores for each crop.
IGNORED = {
    "HIPS": {10, 11, 13, 14, *range(19, 25), *lsp(0, 1, 4, 5)},
    "SHOULDERS": {3, 4, *range(6, 15), *range(19, 25), *lsp(*range(8), 10, 11, 14, 15, 16)},
    # and, unlike there, the two shoulders of OpenPose
    "HEAD": {2, 5, 3, 4, *range(6, 15), *range(19, 25), *lsp(*range(12), 14, 15, 16)},
    "TORSO": {0, 3, 4, 6, 7, 10, 11, *range(13, 25), *lsp(0, 1, 4, 5, 6, 7, 10, 11, 13, 17, 18)},
    "ARM_R": {0, 1, *range(5, 25), *lsp(*range(6), *range(9, 19))},
    "ARM_L": set(range(44)) - {5, 6, 7, *lsp(9, 10, 11)},
    "LEGS": {*range(8), *range(15, 19), *lsp(*range(6, 14), *range(15, 19))},
    "LEG_R": {*range(9), *range(12, 22), *lsp(*range(3, 19))},
    "LEG_L": {*range(12), *range(15, 19), 22, 23, 24, *lsp(0, 1, 2, *range(6, 19))},
}


@pytest.fixture
def person():
    """All keypoints, in a picture of 1000 px."""
    rng = np.random.default_rng(0)
    return np.concatenate((rng.uniform(0, 1000, (44, 2)), np.ones((44, 1))), 1)


@pytest.mark.parametrize("name", IGNORED)
def test_a_part_is_the_published_set_of_keypoints(name):
    assert set(getattr(part_crops, name).keypoints) == set(range(44)) - IGNORED[name]


def test_left_and_right_are_mirror_images():
    for right, left in (("ARM_R", "ARM_L"), ("LEG_R", "LEG_L")):
        mirrored = {FLIP_44[k] for k in getattr(part_crops, right).keypoints}
        assert mirrored == set(getattr(part_crops, left).keypoints)


@pytest.mark.parametrize("choice", np.arange(10) / 10 + 0.05)
def test_the_box_is_that_of_the_part(person, choice):
    center, side = part_box(person, choice)
    part = WHOLE_BODY[int(choice * 10)]
    kept = person[list(part.keypoints), :2]
    np.testing.assert_allclose(center, (kept.min(0) + kept.max(0)) / 2)
    assert side == pytest.approx(np.ptp(kept, axis=0).max() * 1.2 * part.margin)


def test_an_upper_body_is_cut_into_its_own_parts(person):
    person[[10, 11, 13, 14, 19, 20, 21, 22, 23, 24, 25, 26, 29, 30], 2] = 0
    sides = [part_box(person, (i + 0.5) / 5)[1] for i in range(5)]
    expected = []
    for part in UPPER_BODY:
        kept = person[[k for k in part.keypoints if person[k, 2] > 0], :2]
        expected.append(np.ptp(kept, axis=0).max() * 1.2 * part.margin)
    assert sides == pytest.approx(expected)


def test_either_annotation_of_a_limb_will_do(person):
    person[[2, 3, 4, 5, 6, 7, 10, 11, 13, 14]] = np.nan, np.nan, 0
    assert part_box(person, 0.0) is not None
    person[25] = np.nan, np.nan, 0  # the right ankle
    assert part_box(person, 0.0) is None  # neither a whole body nor an upper one


def test_too_little_is_no_part(person):
    assert part_box(np.full((44, 3), np.nan), 0.5) is None
    person[:, 2] = 0
    assert part_box(person, 0.5) is None
    person[:] = 0
    person[:, 2] = 1  # all in one place
    assert part_box(person, 0.5) is None
