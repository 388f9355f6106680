"""Angles without jumps: other angles, the same posture."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmr_skel.body import dofs
from hmr_skel.body.skel import Skel
from hmr_skel.convert.continuity import shared_betas, without_jumps

LIMITS = dofs.limits("anatomical")


def rotations(skel: Skel, q: np.ndarray) -> np.ndarray:
    shape = skel.prepare_shape(torch.zeros(1, 10))
    return skel.local_rotmat(torch.from_numpy(q), shape).numpy()


def starts(frames: int, *more: int) -> np.ndarray:
    found = np.zeros(frames, bool)
    found[[0, *more]] = True
    return found


def turning(frames: int = 60) -> np.ndarray:
    """q of someone who somersaults and rolls, in principal angles: full of jumps."""
    time = np.linspace(0, 4 * np.pi, frames)
    q = np.zeros((frames, 46), np.float32)
    q[:, 0], q[:, 2] = time, -1.5 * time
    q[:, 1] = 1.4 * np.sin(time / 3)
    q[:, :3] = (q[:, :3] + np.pi) % (2 * np.pi) - np.pi
    return q


def test_whole_turns_are_unwound(bodies):
    q = turning()
    assert np.abs(np.diff(q, axis=0)).max() > np.pi
    smooth = without_jumps(q, starts(len(q)), LIMITS)
    assert np.abs(np.diff(smooth, axis=0)).max() < 1
    np.testing.assert_allclose(rotations(bodies.skel("male"), smooth), rotations(bodies.skel("male"), q), atol=1e-5)


def test_a_pelvis_that_rolls_over_changes_branch(bodies):
    """list passes 90 degrees: in principal angles tilt and rotation jump by half a turn there."""
    roll = np.linspace(0.2, np.pi - 0.2, 40)
    q = np.zeros((40, 46), np.float32)
    q[:, 1] = np.where(roll > np.pi / 2, np.pi - roll, roll)
    q[:, [0, 2]] = np.where(roll > np.pi / 2, np.pi, 0)[:, None]
    smooth = without_jumps(q, starts(40), LIMITS)
    assert np.abs(np.diff(smooth, axis=0)).max() < 0.2
    np.testing.assert_allclose(rotations(bodies.skel("male"), smooth), rotations(bodies.skel("male"), q), atol=1e-5)


def test_a_shoulder_takes_the_other_branch_within_its_limits_only():
    q = np.zeros((6, 46), np.float32)
    q[:, dofs.SHOULDER_R] = [0.4, 1.45, 0.5]
    q[3:, dofs.SHOULDER_R] = [0.4 - np.pi + 4.0, np.pi - 1.45, 0.5 - np.pi + 4.0]  # near, and of the other branch
    q[3, dofs.SHOULDER_R] = [0.4 + 0.1 - np.pi, np.pi - 1.45, 0.5 + 0.1 - np.pi]
    smooth = without_jumps(q[:4], starts(4), LIMITS)
    np.testing.assert_allclose(smooth[3, dofs.SHOULDER_R], [0.5, 1.45, 0.6], atol=1e-5)
    narrow = LIMITS.copy()
    narrow[dofs.SHOULDER_R][1] = -1.44, 1.44
    np.testing.assert_allclose(without_jumps(q[:4], starts(4), narrow), q[:4], atol=1e-6)


def test_what_does_not_jump_is_left_alone_to_the_bit():
    rng = np.random.default_rng(0)
    q = np.cumsum(0.05 * rng.normal(size=(50, 46)), 0).astype(np.float32)
    assert (without_jumps(q, starts(50), LIMITS) == q).all()
    jumping = turning()
    alone = [without_jumps(frame[None], starts(1), LIMITS)[0] for frame in jumping]
    assert (np.stack(alone) == jumping).all()


def test_whole_turns_alone_are_coupled_across_a_start():
    q = turning()
    parts = np.concatenate([without_jumps(part, starts(30), LIMITS) for part in (q[:30], q[30:])])
    whole = without_jumps(q, starts(60, 30), LIMITS)
    turns = (whole.astype(np.float64) - parts) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-6)
    assert (turns[:30] == 0).all()
    assert (np.abs(turns - turns[[29] * 30 + [59] * 30]) < 1e-6).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
def test_no_jump_is_larger_than_half_a_turn(seed: int, frames: int):
    q = np.random.default_rng(seed).uniform(-np.pi, np.pi, (frames, 46)).astype(np.float32)
    smooth = without_jumps(q, starts(frames, *([frames // 2] if frames > 2 else [])), LIMITS)  # a gap changes nothing
    assert np.abs(np.diff(smooth.astype(np.float64), axis=0)).max() <= np.pi + 1e-5
    balls = [*range(3), *range(29, 32), *range(39, 42)]
    others = np.setdiff1d(np.arange(46), balls)
    turns = (smooth - q)[:, others] / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-5)


def test_one_shape_does_not_depend_on_the_order_of_frames():
    rng = np.random.default_rng(0)
    betas = rng.normal(size=(101, 10)).astype(np.float32)
    shared = shared_betas(betas)
    assert shared.shape == betas.shape
    assert (shared == shared[0]).all()
    assert (shared_betas(betas[rng.permutation(101)]) == shared).all()
    np.testing.assert_allclose(shared[0], betas.mean(0), atol=1e-6)
    same = np.tile(betas[:1], (7, 1))
    assert (shared_betas(same) == same).all()
