import cv2
import numpy as np
import pytest

from hmr_skel.data import degrade as module
from hmr_skel.data.degrade import degrade

OPERATIONS = [operation for group in module._GROUPS for operation in group]


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    noise = rng.integers(20, 220, (16, 16, 3), np.uint8)
    return cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__.strip("_"))
def test_an_operation_makes_another_picture_of_the_same_thing(operation, picture):
    before = picture.copy()
    changed = operation(picture, np.random.default_rng(4))
    assert (changed.shape, changed.dtype) == (picture.shape, np.uint8)
    assert np.array_equal(picture, before)  # in nobody else's memory
    assert np.array_equal(changed, operation(picture, np.random.default_rng(4)))
    assert not np.array_equal(changed, picture)
    grays = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) for image in (picture, changed)]
    (dx, dy), response = cv2.phaseCorrelate(*grays)
    assert max(abs(dx), abs(dy)) < 1  # nothing has moved: keypoints stay where they are
    assert response > 0.15


def test_groups_and_seeds_decide(picture):
    assert np.array_equal(degrade(picture, 0, 7), degrade(picture, 0, 7))
    assert len({degrade(picture, 1, seed).tobytes() for seed in range(8)}) > 4
