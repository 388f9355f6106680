"""What a GPU does in one go: each function is a launch, in which a block of threads has a chunk, and a thread a lane.

`fitting.gpu.kernels` has them compiled. There, `b` and `k` are no arguments but the block's numbers: that of its chunk,
and of its part of the chunk's vertices. Arguments are stacks of chunks, arrays [C ...] and records [C], and tables that
all chunks share, `TREE` and `PART` among them.
"""

import numpy as np

from fitting.lanes.arrive import corrective_tilt, judge, learn, pose_coefficients, pull_joints
from fitting.lanes.newton import next_step, try_step
from fitting.lanes.quadratic import Quadratic, anchor, derive, energy_at, linearise
from fitting.lanes.skeleton import pose
from fitting.lanes.state import LANES, Record
from fitting.lanes.surface import add_up, collapse, regress, skin


def arrive(b: int, tree: Record, bones: Record, q: np.ndarray, shape: np.ndarray, desk: Record) -> None:
    """Before a visit: the pose at q [C 46 L], and the coefficients of the mesh; `shape` [C 11 L] has those of betas."""
    here = desk[b : b + 1]
    pose(tree, bones[b : b + 1], q[b], here)
    pose_coefficients(tree, here)
    for i in range(11):
        for lane in range(LANES):
            desk[b]["coefficients"][i, lane] = shape[b, i, lane]


def look(
    b: int, k: int, rest: np.ndarray, target: np.ndarray, numbers: np.ndarray, importance: np.ndarray,
    starts: np.ndarray, bones: np.ndarray, weights: np.ndarray, correctives: bool, parts: int, size: int,
    pull: np.ndarray, desk: Record, seen: Record,
) -> None:  # fmt: skip
    """The visit: block (b, k) has `size` vertices, the k-th ones, and sums up what it sees in `seen` [C * K]."""
    first, last = k * size, min((k + 1) * size, rest.shape[1])
    collapse(
        rest[b, first:last], target[b], numbers[first:last], importance[first:last], starts[first : last + 1], bones,
        weights, correctives, pull[b, first:last], desk[b : b + 1], seen[b * parts + k :],
    )  # fmt: skip


def leave(
    b: int, tree: Record, part: Record, bones: Record, anatomical: np.ndarray, q: np.ndarray, parts: int, seen: Record,
    desk: Record,
) -> None:  # fmt: skip
    """After it: the reduced problem around q, from all that was seen in so many `parts`, in their order."""
    here = desk[b : b + 1]
    for lane in range(LANES):
        desk[b]["start_energy"][lane] = desk[b]["total"][lane] = desk[b]["largest"][lane] = 0
        for m in range(24):
            for i in range(3):
                for j in range(4):
                    desk[b]["cross"][m, i, j, lane] = 0
                    desk[b]["start"][m, i, j, lane] = desk[b]["transforms"][m, i, j, lane]
        for k in range(46):
            desk[b]["anchor"][k, lane] = q[b, k, lane]
    for k in range(b * parts, (b + 1) * parts):
        add_up(seen[k : k + 1], here)
    pull_joints(part, bones[b : b + 1], anatomical[b], here)
    corrective_tilt(tree, part, here)


def aim(
    b: int, tree: Record, part: Record, bones: Record, moments: np.ndarray, bend: np.ndarray, scale: np.ndarray,
    visit: int, q: np.ndarray, last_q: np.ndarray, last_gradient: np.ndarray, damping: np.ndarray, low: np.ndarray,
    high: np.ndarray, step_tolerance: float, energy_tolerance: float, desk: Record,
) -> None:  # fmt: skip
    """The problem at q, the step from there, once a visit before this one, number `visit`, has taught the bend, and
    what `judge` says of both."""
    here = desk[b : b + 1]
    linearise(tree, part, bones[b : b + 1], Quadratic(moments[b], bend[b, :visit], scale[b, :visit]), q[b], here)
    if visit:
        learn(part, q[b], last_q[b], last_gradient[b], bend[b, visit - 1], scale[b, visit - 1], here)
    next_step(part, q[b], damping[b], here)
    judge(part, q[b], low, high, step_tolerance, energy_tolerance, here)


def descend(
    b: int, tree: Record, part: Record, bones: Record, moments: np.ndarray, bend: np.ndarray, scale: np.ndarray,
    visit: int, steps: int, tolerance: float, ready: bool, q: np.ndarray, damping: np.ndarray, tried: np.ndarray,
    done: np.ndarray, desk: Record,
) -> None:  # fmt: skip
    """Up to so many steps, as in `fitting.lanes.newton.minimise`."""
    here, skeleton = desk[b : b + 1], bones[b : b + 1]
    problem, posed = Quadratic(moments[b], bend[b, :visit], scale[b, :visit]), False
    for index in range(steps):
        going = 0
        for lane in range(LANES):
            going += not done[b, lane]
        if going == 0:
            break
        if index or not ready:
            if not ready:
                anchor(part, q[b], here)
            if not posed:  # threads of a warp meet again before what takes longest
                pose(tree, skeleton, q[b], here)
                energy_at(part, problem, q[b], here, desk[b]["energy"])
            derive(tree, part, skeleton, problem, q[b], here)
            next_step(part, q[b], damping[b], here)
        posed = try_step(tree, part, skeleton, problem, tolerance, q[b], damping[b], tried[b], done[b], here)


def pose_mesh(
    b: int, k: int, rest: np.ndarray, numbers: np.ndarray, transforms: np.ndarray, starts: np.ndarray,
    bones: np.ndarray, weights: np.ndarray, shift: np.ndarray, size: int, turn: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Skinned vertices, moved by `shift` [C 3 L]. Block (b, k) has `size` of them, and room in `turn` [C K 3 4 L]."""
    first, last = k * size, min((k + 1) * size, rest.shape[1])
    skin(
        rest[b, first:last], numbers[first:last], transforms[b], starts[first : last + 1], bones, weights, shift[b],
        turn[b, k], out[b],
    )  # fmt: skip


def points(
    b: int, k: int, starts: np.ndarray, columns: np.ndarray, values: np.ndarray, mesh: np.ndarray, out: np.ndarray
) -> None:
    """Points [C K 3 L] of meshes, by a sparse matrix [K V] of it."""
    regress(starts[k : k + 2], columns, values, mesh[b], out[b, k : k + 1])


def regroup(b: int, k: int, source: np.ndarray, rows: np.ndarray, parts: int, out: np.ndarray) -> None:
    """The rows of these numbers [C' L], in the order of chunks and lanes, of source [C N L] into out [C' N L]."""
    for lane in range(LANES):
        chunk, place = rows[b, lane] // LANES, rows[b, lane] % LANES
        for n in range(k, source.shape[1], parts):
            out[b, n, lane] = source[chunk, n, place]
