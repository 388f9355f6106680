"""Frames to a motion: one shape for one person, and angles that do not jump.

The same posture has several sets of angles: a full turn can be added to any angle, and a ball joint has two branches,
(a, b, c) and (a + pi, pi - b, c + pi). Neither changes the mesh, so here they are chosen for continuity.
"""

import numpy as np
import torch

from hmr_skel.body import dofs
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.convert.clips import SmplClip

_TURN = 2 * np.pi
# Joints with three perpendicular axes whose second angle may pass a quarter turn: both branches can be within limits.
# In all other joints one branch at most is.
_BALLS = (dofs.PELVIS, dofs.SHOULDER_R, dofs.SHOULDER_L)
_JUMP = np.pi / 2  # a branch other than the fit's own is taken only to avoid a jump larger than this

_LOOKED_AT, _ENOUGH_STEPS, _BODY = 2000, 6, 22  # frames, steps between them, joints: to tell frames out of order


def shared_betas(betas: np.ndarray) -> np.ndarray:
    """The mean of betas [T 10], repeated for every row; the same to the bit in any order of the rows."""
    mean = np.sort(betas.astype(np.float64), axis=0).mean(0).astype(np.float32)
    return np.broadcast_to(mean, betas.shape).copy()


def without_jumps(q: np.ndarray, starts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The same postures, in angles that change by half a turn at most from one frame to the next.

    Args:
        q: [T 46] rad.
        starts: bool [T], true where a new run of frames begins, after a gap or a cut. Angles before it change those
            after it by whole turns only.
        limits: [46 2] rad. A branch is taken within these only; the pelvis has none.

    Returns:
        float32 [T 46]. A single frame keeps its angles. An arm that turns past the end of its range may get an angle
        that is a full turn outside the range.
    """
    smooth = q.astype(np.float64)
    first = np.flatnonzero(starts)
    for start, stop in zip(first, [*first[1:], len(q)], strict=True):
        if stop - start > 1:
            run = smooth[start:stop]
            for ball in _BALLS:
                run[:, ball] = _best_branches(run[:, ball], limits[ball])
            smooth[start:stop] = np.unwrap(run, axis=0)
        if start:
            smooth[start:stop] -= _TURN * np.round((smooth[start] - smooth[start - 1]) / _TURN)
    return smooth.astype(np.float32)


def _best_branches(own: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The branch of every frame [T 3] for which the jumps along the run are smallest: a shortest path (Viterbi)."""
    other = _near_range(np.stack((own[:, 0] + np.pi, np.pi - own[:, 1], own[:, 2] + np.pi), -1), limits)
    possible = np.all((other >= limits[:, 0]) & (other <= limits[:, 1]), axis=1)
    both = np.stack((own, other), 1)  # [T 2 3]
    # jump[t, i, j]: from branch i at t to branch j at t + 1. Whole turns are free where there is no range.
    jump = both[1:, None, :] - both[:-1, :, None]
    jump = np.abs(np.where(np.isfinite(limits).all(1), jump, _nearest_turn(jump)))
    cost = np.square(np.maximum(jump - _JUMP, 0)).sum(-1)
    if not cost[:, 0, 0].any():
        return own
    cost[~possible[1:], :, 1] = np.inf
    best = np.array([0.0, 1e-6 if possible[0] else np.inf])  # the fit's own branch, where both are as good
    came_from = np.zeros((len(own), 2), np.int64)
    for t in range(1, len(own)):
        ways = best[:, None] + cost[t - 1]
        came_from[t] = ways.argmin(0)
        best = ways.min(0)
    branch = np.empty(len(own), np.int64)
    branch[-1] = best.argmin()
    for t in range(len(own) - 1, 0, -1):
        branch[t - 1] = came_from[t, branch[t]]
    return both[np.arange(len(own)), branch]


def _nearest_turn(angle: np.ndarray) -> np.ndarray:
    return angle - _TURN * np.round(angle / _TURN)


def _near_range(angles: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Angles shifted by full turns to the middle of their range; to within half a turn where there is no range."""
    bounded = np.isfinite(limits)
    middle = np.where(bounded, limits, 0.0).mean(1)
    return _nearest_turn(angles - middle) + middle


def out_of_order(clip: SmplClip) -> list[str]:
    """A note where a person's frames differ from the next one as much as from others, as where they are shuffled."""
    if clip.starts().all():
        return []
    rows = slice(0, _LOOKED_AT)
    rotmat = rotvec_to_rotmat(torch.from_numpy(clip.pose[rows, :_BODY])).numpy()
    found = []
    for unit, least, values in (("rad", 0.05, rotmat / np.sqrt(2 * _BODY)), ("m", 0.04, clip.transl[rows])):
        values = values.reshape(len(values), -1)
        there = np.isfinite(values).all(1)
        near = ~clip.starts()[rows][1:] & there[1:] & there[:-1]
        if near.sum() < _ENOUGH_STEPS:
            continue
        step, kept = np.linalg.norm(np.diff(values, axis=0), axis=1)[near].mean(), values[there]
        others = [np.roll(kept, len(kept) // part, 0) for part in (2, 3, 4)]
        if step > max(least, 0.4 * np.mean([np.linalg.norm(kept - other, axis=1) for other in others])):
            found.append(f"{step:.2g} {unit}")
    text = "frames JUMP as if they were not in order: each differs from the next as much as from others, by"
    return [f"{clip.source}: {clip.name}: {text} {' and '.join(found)}"] if found else []
