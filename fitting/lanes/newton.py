"""Newton's method in a box, lane by lane: `fitting.solver`, compiled.

Every row damps, accepts and stops for itself; limits hold exactly.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np

from fitting.lanes.lanes import LANES, kernel
from fitting.lanes.problem import Local, Part, Problem, Room
from fitting.lanes.quadratic import energy_at, linearise
from fitting.lanes.skeleton import Bones, Posed, Tree, pose
from fitting.solver import DAMPING_DOWN, DAMPING_MAX, DAMPING_MIN, DAMPING_UP, LITTLE


class Box(NamedTuple):
    """Limits of a part's dofs, and how far one step may go, rad."""

    low: np.ndarray  # [D]
    high: np.ndarray  # [D]
    max_step: float


class Rules(NamedTuple):
    """The numbers of `fitting.solver`, handed over because compiled code keeps those of its own file only."""

    little: float = LITTLE
    down: float = DAMPING_DOWN
    up: float = DAMPING_UP
    least: float = DAMPING_MIN
    most: float = DAMPING_MAX


class Solver(NamedTuple):
    """Scratch memory of one thread."""

    matrix: np.ndarray  # [D (D + 1) / 2, L]
    factor: np.ndarray  # [D (D + 1) / 2, L]
    inverse: np.ndarray  # [D L] of the factor's diagonal
    free: np.ndarray  # [D L] 1 where a dof may move, else 0
    edge: np.ndarray  # [D L] where those that may not move go
    solution: np.ndarray  # [D L]
    definite: np.ndarray  # [L] 1 or 0
    trial: np.ndarray  # [46 L]
    energy: np.ndarray  # [L]
    largest: np.ndarray  # [L]


def solver(size: int) -> Solver:
    packed, dofs = (size * (size + 1) // 2, LANES), (size, LANES)
    return Solver(
        np.zeros(packed), np.zeros(packed), np.zeros(dofs), np.zeros(dofs), np.zeros(dofs), np.zeros(dofs),
        np.zeros(LANES), np.zeros((46, LANES)), np.zeros(LANES), np.zeros(LANES),
    )  # fmt: skip


def minimise(
    tree: Tree, part: Part, bones: Bones, problem: Problem, box: Box, iterations: int, tolerance: float, q: np.ndarray,
    damping: np.ndarray, tried: np.ndarray, step: np.ndarray, ready: bool, posed: Posed, at: Local, room: Room,
    work: Solver,
) -> None:  # fmt: skip
    """Up to `iterations` steps from q [46 L], in place, with `damping` [L] and the count `tried` [L].

    A row that took a step of at most `tolerance` in every dof stays where it is. `ready` says that `step` [D L] and
    `at.energy` hold the first step from q and the energy there.
    """
    done = np.zeros(LANES, bool)
    for index in range(iterations):
        if index or not ready:
            linearise(tree, part, bones, problem, q, posed, at, room)
            next_step(part, at, box, q, damping, step, work)
        try_step(tree, part, bones, problem, tolerance, q, damping, tried, step, done, posed, at, room, work)
        if done.all():
            break


def try_step(
    tree: Tree, part: Part, bones: Bones, problem: Problem, tolerance: float, q: np.ndarray, damping: np.ndarray,
    tried: np.ndarray, step: np.ndarray, done: np.ndarray, posed: Posed, at: Local, room: Room, work: Solver,
) -> None:  # fmt: skip
    """Rows that are not `done` go to q + step where E is no higher there."""
    _move(part, q, step, work.trial)
    pose(tree, bones, work.trial, posed, room.skeleton)
    energy_at(part, problem, work.trial, posed, work.energy, room)
    _accept(Rules(), step, tolerance, q, at.energy, damping, tried, done, work)


@kernel
def _move(part: Part, q: np.ndarray, step: np.ndarray, out: np.ndarray) -> None:
    """out = q + step."""
    for k in range(46):
        for lane in range(LANES):
            out[k, lane] = q[k, lane]
    for i in range(len(part.dofs)):
        k = part.dofs[i]
        for lane in range(LANES):
            out[k, lane] += step[i, lane]


@kernel
def _accept(
    rules: Rules, step: np.ndarray, tolerance: float, q: np.ndarray, energy: np.ndarray, damping: np.ndarray,
    tried: np.ndarray, done: np.ndarray, work: Solver,
) -> None:  # fmt: skip
    """Take the trial where it is no worse, damp by how it went, and note which rows have arrived."""
    for lane in range(LANES):
        if done[lane]:
            continue
        tried[lane] += 1
        moved = 0.0
        for i in range(len(step)):
            moved = max(moved, abs(step[i, lane]))
        better = work.energy[lane] <= energy[lane]
        little = energy[lane] - work.energy[lane] <= rules.little * energy[lane]
        if better:
            energy[lane] = work.energy[lane]
            for k in range(46):
                q[k, lane] = work.trial[k, lane]
        damping[lane] *= rules.down if better else rules.up
        damping[lane] = min(max(damping[lane], rules.least), rules.most)
        done[lane] = (better and (little or moved <= tolerance)) or moved <= 1e-3 * tolerance


@kernel
def next_step(
    part: Part, at: Local, box: Box, q: np.ndarray, damping: np.ndarray, step: np.ndarray, work: Solver
) -> None:
    """The damped step [D L] from q, which stays in the box."""
    size = len(part.dofs)
    for i in range(len(at.curvature)):
        for lane in range(LANES):
            work.matrix[i, lane] = at.gauss_newton[i, lane] + at.curvature[i, lane]
    for i in range(size):
        k = part.dofs[i]
        for lane in range(LANES):
            held = (q[k, lane] <= box.low[i] and at.gradient[i, lane] > 0) or (
                q[k, lane] >= box.high[i] and at.gradient[i, lane] < 0
            )
            work.free[i, lane] = 0.0 if held else 1.0
            work.edge[i, lane] = 0.0
    _solve(size, at.gradient, damping, work)
    # Where Newton's matrix is not definite its step means nothing; Gauss-Newton's matrix always is.
    again = False
    for lane in range(LANES):
        if work.definite[lane] == 0.0:
            again = True
            for i in range(len(at.curvature)):
                work.matrix[i, lane] = at.gauss_newton[i, lane]
    # What would leave the box is put on its edge; the others make up for it.
    for i in range(size):
        k = part.dofs[i]
        for lane in range(LANES):
            target = q[k, lane] + work.solution[i, lane]
            if work.definite[lane] == 1.0 and (target < box.low[i] or target > box.high[i]):
                work.free[i, lane] = 0.0
                work.edge[i, lane] = min(max(target, box.low[i]), box.high[i]) - q[k, lane]
                again = True
    if again:  # for a row that neither concerns, this solves the same system once more
        _solve(size, at.gradient, damping, work)
    longest = work.largest
    for lane in range(LANES):
        longest[lane] = 0.0
    for i in range(size):
        for lane in range(LANES):
            longest[lane] = max(longest[lane], abs(work.solution[i, lane]))
    for i in range(size):
        k = part.dofs[i]
        for lane in range(LANES):
            short = work.solution[i, lane] * (box.max_step / max(longest[lane], box.max_step))
            step[i, lane] = min(max(q[k, lane] + short, box.low[i]), box.high[i]) - q[k, lane]


@kernel
def _solve(size: int, gradient: np.ndarray, damping: np.ndarray, work: Solver) -> None:
    """Minimise the damped quadratic over the free dofs; the others take their `edge`. Notes what was not definite."""
    matrix, factor, free, x = work.matrix, work.factor, work.free, work.solution
    largest = work.largest
    for lane in range(LANES):
        largest[lane] = 0.0
    for i in range(size):
        for lane in range(LANES):
            largest[lane] = max(largest[lane], matrix[i * (i + 1) // 2 + i, lane])
    for i in range(size):
        row = i * (i + 1) // 2
        for lane in range(LANES):
            x[i, lane] = -gradient[i, lane]
        for k in range(size):
            entry = row + k if k <= i else k * (k + 1) // 2 + i
            for lane in range(LANES):
                x[i, lane] -= matrix[entry, lane] * work.edge[k, lane]
        for k in range(i):
            for lane in range(LANES):
                factor[row + k, lane] = matrix[row + k, lane] * free[i, lane] * free[k, lane]
        for lane in range(LANES):
            # The floor keeps a dof that moves nothing (no weight in this stage) from dividing by zero.
            added = damping[lane] * matrix[row + i, lane] + 1e-9 * largest[lane] + 1e-30
            factor[row + i, lane] = matrix[row + i, lane] + added if free[i, lane] == 1.0 else 1.0
            x[i, lane] *= free[i, lane]
    _cholesky(size, factor, work.inverse, work.definite)
    for i in range(size):
        row = i * (i + 1) // 2
        for k in range(i):
            for lane in range(LANES):
                x[i, lane] -= factor[row + k, lane] * x[k, lane]
        for lane in range(LANES):
            x[i, lane] *= work.inverse[i, lane]
    for i in range(size - 1, -1, -1):
        row = i * (i + 1) // 2
        for lane in range(LANES):
            x[i, lane] *= work.inverse[i, lane]
        for k in range(i):
            for lane in range(LANES):
                x[k, lane] -= factor[row + k, lane] * x[i, lane]
    for i in range(size):
        for lane in range(LANES):
            if free[i, lane] == 0.0:
                x[i, lane] = work.edge[i, lane]


@kernel
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
            good = pivot > 0.0
            definite[lane] = definite[lane] if good else 0.0
            inverse[i, lane] = 1.0 / sqrt(pivot if good else 1.0)
