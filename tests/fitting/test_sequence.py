"""Smoothing in time: what it minimises, what it never couples, how far it moves the mesh."""

import numpy as np
import pytest
import torch

from fitting.sequence import MAX_SHIFT_MM, smooth
from hmr_skel.body.dofs import limits
from hmr_skel.body.skel import Skel

LIMITS = limits("anatomical")
WEIGHT = 0.1


def jittery(frames: int, seed: int = 0, size: float = 0.03) -> torch.Tensor:
    """q of a slow motion with white jitter, inside the limits."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / 30
    q = 0.1 + 0.2 * np.sin(2 * np.pi * (0.4 * time + rng.uniform(size=46))) + size * rng.normal(size=(frames, 46))
    return torch.from_numpy(np.clip(q, LIMITS[:, 0], LIMITS[:, 1]).astype(np.float32))


def starts(frames: int, *more: int) -> torch.Tensor:
    found = torch.zeros(frames, dtype=torch.bool)
    found[[0, *more]] = True
    return found


def smoothed(
    q: torch.Tensor, skel: Skel, *more: int, weight: float = WEIGHT, rate: float | None = None
) -> torch.Tensor:
    return smooth(q, torch.zeros(len(q), 10), starts(len(q), *more), skel, weight, "anatomical", rate)


def jerk(q: torch.Tensor) -> float:
    return float(np.square(np.diff(q.numpy()[:, 3:], 3, axis=0)).mean())


def test_jerk_falls_and_limits_hold(skel: Skel):
    q = jittery(24, size=0.01)
    found = smoothed(q, skel)
    assert jerk(found) < 0.3 * jerk(q)
    assert (found[:, :3] == q[:, :3]).all()
    assert found.dtype == torch.float32
    assert (found.double() >= torch.from_numpy(LIMITS[:, 0])).all()
    assert (found.double() <= torch.from_numpy(LIMITS[:, 1])).all()
    assert (smoothed(q, skel, weight=0.0) == q).all()
    with pytest.raises(ValueError, match="weight -1"):
        smoothed(q, skel, weight=-1.0)


def test_a_weight_means_the_same_at_any_frame_rate(skel: Skel):
    """The same motion at 30 and at 60 frames a second, without jitter, moves by the same."""
    time = torch.arange(0, 1, 1 / 60, dtype=torch.float64)[:, None]
    q = (0.2 + 0.15 * torch.sin(2 * torch.pi * 1.5 * time + torch.arange(46) / 5)).float().clamp_min(0.01)
    slow, fast = smoothed(q[::2], skel, rate=30.0), smoothed(q, skel, rate=60.0)
    moved = (slow - q[::2]).abs().max()
    assert moved > 1e-3
    assert (slow - fast[::2])[4:-4].abs().max() < 0.3 * moved


def test_nothing_is_coupled_across_a_start(skel: Skel):
    q = jittery(24)
    apart = torch.cat((smoothed(q[:10], skel), smoothed(q[10:], skel)))
    torch.testing.assert_close(smoothed(q, skel, 10), apart, atol=1e-5, rtol=0)
    assert (smoothed(q, skel) - apart).abs().max() > 1e-3
    changed = q.clone()
    changed[10:, 3:] *= 0.5
    assert (smoothed(changed, skel, 10)[:10] == smoothed(q, skel, 10)[:10]).all()


def test_an_arm_that_turns_over_is_no_jitter_and_short_runs_stay(skel: Skel):
    q = jittery(11)
    q[8:, 29] -= 2.0
    torch.testing.assert_close(smoothed(q, skel), torch.cat((smoothed(q[:8], skel), q[8:])), atol=1e-5, rtol=0)


def test_no_weight_moves_the_mesh_far(skel: Skel):
    q, betas, zero = jittery(16, size=0.1), torch.zeros(16, 10), torch.zeros(16, 3)
    found = smoothed(q, skel, weight=1e6)
    moved = skel(found, betas, zero).vertices - skel(q, betas, zero).vertices
    assert moved.square().sum(-1).mean().sqrt() * 1000 < 1.05 * MAX_SHIFT_MM  # the bound is on a few vertices
    assert jerk(found) < jerk(q)
