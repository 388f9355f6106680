"""What makes frames a motion: one shape for one person, and angles that do not jump.

A posture can be written with other angles: any angle plus a full turn, and a ball joint's three angles in two branches,
(a, b, c) and (a + pi, pi - b, c + pi). Neither changes a mesh, so both are free to be chosen for continuity.
"""

import numpy as np

from hmr_skel.body import dofs

_TURN = 2 * np.pi
# Joints of three perpendicular axes whose second angle's range reaches past a quarter turn, so that both branches can
# be within it. The others' branches never meet.
_BALLS = (dofs.PELVIS, dofs.SHOULDER_R, dofs.SHOULDER_L)
_JUMP = np.pi / 2  # a branch other than the fit's own is taken only to avoid a jump larger than this


def shared_betas(betas: np.ndarray) -> np.ndarray:
    """The mean of [T 10] betas, in every row. The order of the rows does not change its last bit."""
    mean = np.sort(betas.astype(np.float64), axis=0).mean(0).astype(np.float32)
    return np.broadcast_to(mean, betas.shape).copy()


def without_jumps(q: np.ndarray, starts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The same postures in angles with no jump of more than half a turn from one frame to the next.

    Args:
        q: [T 46] rad.
        starts: bool [T] where a new run of frames begins, after a gap or a cut; its angles depend on those before by
            whole turns only.
        limits: [46 2] rad, within which another branch has to be; the pelvis has none.

    Returns:
        float32 [T 46]. A frame alone keeps its angles. Where an arm turns past the end of a range, its angle may be
        written a full turn away from the range.
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
    """The branch of every frame [T 3] that makes the jumps along the run smallest: the shortest path through two."""
    other = _near_range(np.stack((own[:, 0] + np.pi, np.pi - own[:, 1], own[:, 2] + np.pi), -1), limits)
    possible = np.all((other >= limits[:, 0]) & (other <= limits[:, 1]), axis=1)
    both = np.stack((own, other), 1)  # [T 2 3]
    # jump[t, i, j]: from branch i at t to branch j at t + 1. Only what has no range may go on turning.
    jump = both[1:, None, :] - both[:-1, :, None]
    jump = np.abs(np.where(np.isfinite(limits).all(1), jump, _nearest_turn(jump)))
    cost = np.square(np.maximum(jump - _JUMP, 0)).sum(-1)
    if not cost[:, 0, 0].any():
        return own
    cost[~possible[1:], :, 1] = np.inf
    best = np.array([0.0, 1e-6 if possible[0] else np.inf])  # no preference but for the fit's own
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
    """Shifted by full turns towards the middle of their range; an angle without one to within half a turn."""
    bounded = np.isfinite(limits)
    middle = np.where(bounded, limits, 0.0).mean(1)
    return _nearest_turn(angles - middle) + middle
