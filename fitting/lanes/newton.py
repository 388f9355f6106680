"""Newton's method in a box, lane by lane: every row damps, accepts and stops for itself.

Per row: (H + damping diag H) step = -g over the dofs that are free, that is not held at a limit by the gradient; dofs
that the step would push over a limit are put on it and the rest is solved once more; the step is bounded. A step that
lowers the energy is taken and the damping falls; otherwise it grows (Levenberg, Marquardt). H is Newton's matrix where
it is positive definite and Gauss-Newton's where not. Limits hold exactly.
"""

from math import sqrt

import numpy as np

from fitting.lanes.quadratic import Quadratic, anchor, derive, energy_at
from fitting.lanes.skeleton import pose
from fitting.lanes.state import LANES, Record, kernel, part_of_kernels

LITTLE = 1e-4  # a row has arrived where its step lowered the reduced energy by no more than this share
DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MIN, DAMPING_MAX = 1e-4, 0.2, 8.0, 1e-9, 1e6


def minimise(
    tree: Record, part: Record, bones: Record, problem: Quadratic, iterations: int, tolerance: float, q: np.ndarray,
    damping: np.ndarray, tried: np.ndarray, done: np.ndarray, ready: bool, desk: Record,
) -> None:  # fmt: skip
    """Up to `iterations` steps from q [46 L], in place, with `damping` [L] and the count `tried` [L].

    Rows that are `done` [L] stay where they are, and so do those that took a step of at most `tolerance` in every dof.
    `ready` says that the desk holds the first step from q and the energy there. Otherwise it is an early stage: E
    counts what the tilt brings from where the rows are.
    """
    posed = False  # whether the desk has the pose and the energy at the q of all rows that are not done
    for index in range(iterations):
        if not any_of(done, False):
            break
        if index or not ready:
            if not ready:
                anchor(part, q, problem.reduced, desk)
            if not posed:  # threads of a GPU's warp meet again before what takes longest
                pose(tree, bones, q, desk)
                energy_at(part, problem, q, desk, desk[0]["energy"])
            derive(tree, part, bones, problem, q, desk)
            next_step(part, q, damping, desk)
        trial = desk[0]["trial"]
        _move(part, q, desk)
        pose(tree, bones, trial, desk)
        energy_at(part, problem, trial, desk, desk[0]["trial_energy"])
        posed = _accept(part, tolerance, q, damping, tried, done, desk)


def next_step(part: Record, q: np.ndarray, damping: np.ndarray, desk: Record) -> None:
    """The damped step [D L] from q, which stays in the box."""
    _aim(part, q, desk)
    _solve(part, damping, desk)
    if _correct(part, q, desk):  # for a row that need not be corrected, this solves the same system once more
        _solve(part, damping, desk)
    _bound(part, q, desk)


@kernel
def any_of(rows: np.ndarray, wanted: bool) -> bool:
    """Whether any of the rows [L] is what is wanted."""
    found = False
    for lane in range(LANES):
        found |= rows[lane] == wanted
    return found


@kernel
def _move(part: Record, q: np.ndarray, desk: Record) -> None:
    """trial = q + step."""
    part, desk = part[0], desk[0]
    for k in range(46):
        for lane in range(LANES):
            desk.trial[k, lane] = q[k, lane]
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            desk.trial[k, lane] += desk.step[i, lane]


@kernel
def _accept(
    part: Record, tolerance: float, q: np.ndarray, damping: np.ndarray, tried: np.ndarray, done: np.ndarray,
    desk: Record,
) -> bool:  # fmt: skip
    """Take the trial where E is no higher, adapt the damping, and note which rows have arrived.

    Whether no row has to go on from where it was before.
    """
    part, desk, moved_all = part[0], desk[0], True
    for lane in range(LANES):
        if done[lane]:
            continue
        tried[lane] += 1
        moved = 0.0
        for i in range(part.num_dofs):
            moved = max(moved, abs(desk.step[i, lane]))
        here, there = desk.energy[lane], desk.trial_energy[lane]
        better, little = there <= here, here - there <= LITTLE * here
        if better:
            desk.energy[lane] = there
            for k in range(46):
                q[k, lane] = desk.trial[k, lane]
        damping[lane] *= DAMPING_DOWN if better else DAMPING_UP
        damping[lane] = min(max(damping[lane], DAMPING_MIN), DAMPING_MAX)
        done[lane] = (better and (little or moved <= tolerance)) or moved <= 1e-3 * tolerance
        moved_all &= better or done[lane]
    return moved_all


@kernel
def _aim(part: Record, q: np.ndarray, desk: Record) -> None:
    """Newton's matrix, and the dofs that may move: not those that a limit holds."""
    part, desk = part[0], desk[0]
    for place in range(part.num_dofs * (part.num_dofs + 1) // 2):
        for lane in range(LANES):
            desk.matrix[place, lane] = desk.gauss_newton[place, lane] + np.float32(desk.curvature[place, lane])
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            held = (q[k, lane] <= part.low[i] and desk.gradient[i, lane] > 0) or (
                q[k, lane] >= part.high[i] and desk.gradient[i, lane] < 0
            )
            desk.free[i, lane] = 0.0 if held else 1.0
            desk.edge[i, lane] = 0.0


@kernel
def _correct(part: Record, q: np.ndarray, desk: Record) -> bool:
    """Whether any row must be solved again: its matrix is not definite, or its step leaves the box."""
    part, desk = part[0], desk[0]
    # Where Newton's matrix is not definite its step means nothing; Gauss-Newton's matrix always is.
    again = False
    for lane in range(LANES):
        if desk.definite[lane] == 0.0:
            again = True
            for place in range(part.num_dofs * (part.num_dofs + 1) // 2):
                desk.matrix[place, lane] = desk.gauss_newton[place, lane]
    # What would leave the box is put on its edge; the others make up for it.
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            target = q[k, lane] + desk.solution[i, lane]
            if desk.definite[lane] == 1.0 and (target < part.low[i] or target > part.high[i]):
                desk.free[i, lane] = 0.0
                desk.edge[i, lane] = min(max(target, part.low[i]), part.high[i]) - q[k, lane]
                again = True
    return again


@kernel
def _bound(part: Record, q: np.ndarray, desk: Record) -> None:
    """The solution, no longer than a step may be and inside the box, becomes the step."""
    part, desk = part[0], desk[0]
    longest = desk.longest
    for lane in range(LANES):
        longest[lane] = 0.0
    for i in range(part.num_dofs):
        for lane in range(LANES):
            longest[lane] = max(longest[lane], abs(desk.solution[i, lane]))
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            short = desk.solution[i, lane] * (part.max_step / max(longest[lane], part.max_step))
            desk.step[i, lane] = min(max(q[k, lane] + short, part.low[i]), part.high[i]) - q[k, lane]


@kernel
def _solve(part: Record, damping: np.ndarray, desk: Record) -> None:
    """Minimise the damped quadratic over the free dofs; the others take their `edge`. Notes what was not definite.

    In float32: a step need not be exact, only the energies and gradients that judge it.
    """
    part, desk = part[0], desk[0]
    size, matrix, factor, free, x = part.num_dofs, desk.matrix, desk.factor, desk.free, desk.solution
    largest = desk.block[0, 0]
    for lane in range(LANES):
        largest[lane] = 0.0
    for i in range(size):
        for lane in range(LANES):
            largest[lane] = max(largest[lane], matrix[i * (i + 1) // 2 + i, lane])
    for i in range(size):
        row = i * (i + 1) // 2
        for lane in range(LANES):
            x[i, lane] = -desk.gradient[i, lane]
        for k in range(size):
            entry = row + k if k <= i else k * (k + 1) // 2 + i
            for lane in range(LANES):
                x[i, lane] -= matrix[entry, lane] * desk.edge[k, lane]
        for k in range(i):
            for lane in range(LANES):
                factor[row + k, lane] = matrix[row + k, lane] * free[i, lane] * free[k, lane]
        for lane in range(LANES):
            # The floor keeps a dof that moves nothing (no weight in this stage) from dividing by zero.
            added = np.float32(damping[lane]) * matrix[row + i, lane] + np.float32(1e-9) * largest[lane]
            whole = matrix[row + i, lane] + added + np.float32(1e-30)
            factor[row + i, lane] = whole if free[i, lane] == 1 else np.float32(1)
            x[i, lane] *= free[i, lane]
    _cholesky(size, factor, desk.inverse, desk.definite)
    for i in range(size):
        row = i * (i + 1) // 2
        for k in range(i):
            for lane in range(LANES):
                x[i, lane] -= factor[row + k, lane] * x[k, lane]
        for lane in range(LANES):
            x[i, lane] *= desk.inverse[i, lane]
    for i in range(size - 1, -1, -1):
        row = i * (i + 1) // 2
        for lane in range(LANES):
            x[i, lane] *= desk.inverse[i, lane]
        for k in range(i):
            for lane in range(LANES):
                x[k, lane] -= factor[row + k, lane] * x[i, lane]
    for i in range(size):
        for lane in range(LANES):
            if free[i, lane] == 0.0:
                x[i, lane] = desk.edge[i, lane]


@part_of_kernels
def _cholesky(size: int, a: np.ndarray, inverse: np.ndarray, definite: np.ndarray) -> None:
    """Packed lower triangles [size (size + 1) / 2, L] to their factors, in place; `inverse` of the diagonal."""
    for lane in range(LANES):
        definite[lane] = 1.0
    for i in range(size):
        row = i * (i + 1) // 2
        for j in range(i + 1):
            other, k = j * (j + 1) // 2, 0
            while k + 4 <= j:  # four at a time: fewer trips to memory
                for lane in range(LANES):
                    a[row + j, lane] -= (
                        a[row + k, lane] * a[other + k, lane] + a[row + k + 1, lane] * a[other + k + 1, lane]
                        + a[row + k + 2, lane] * a[other + k + 2, lane] + a[row + k + 3, lane] * a[other + k + 3, lane]
                    )  # fmt: skip
                k += 4
            while k < j:
                for lane in range(LANES):
                    a[row + j, lane] -= a[row + k, lane] * a[other + k, lane]
                k += 1
            if j < i:
                for lane in range(LANES):
                    a[row + j, lane] *= inverse[j, lane]
        for lane in range(LANES):
            pivot = a[row + i, lane]
            good = pivot > 0
            definite[lane] = definite[lane] if good else np.float32(0)
            inverse[i, lane] = np.float32(1) / sqrt(pivot if good else np.float32(1))
