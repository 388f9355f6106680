"""The solver's kernels put together, one function for what a driver asks of chunks of rows in one go.

On a GPU each is a launch, in which a block of threads has a chunk, and a thread a lane; `fitting.gpu.kernels` has them
compiled. There, `b` and `k` are no arguments but the block's numbers: that of its chunk, and of its part of the chunk's
vertices. On a CPU they are functions of Python that call compiled kernels, for one chunk after another.

Arguments are stacks of chunks, arrays [C ... L] and records [C], and tables that all chunks share, `TREE` and `PART`
among them. There are as many desks as chunks, or one for all: nothing on a desk outlasts the call.
"""

import numpy as np

from fitting.lanes.arrive import corrective_tilt, judge, learn, pose_coefficients, pull_joints, stand
from fitting.lanes.newton import minimise, next_step
from fitting.lanes.quadratic import Quadratic, linearise
from fitting.lanes.skeleton import pose
from fitting.lanes.state import LANES, Record
from fitting.lanes.surface import add_up, collapse, regress, skin, take_in


def arrive(b: int, tree: Record, bones: Record, q: np.ndarray, shape: np.ndarray, posed: Record, desk: Record) -> None:
    """Before a visit: what the mesh is made of at q [C 46 L], with 1 and the betas of `shape` [C 11 L]."""
    here = desk[b % len(desk) :]
    pose(tree, bones[b : b + 1], q[b], here)
    pose_coefficients(tree, shape[b], here, posed[b : b + 1])


def look(
    b: int, k: int, rest: np.ndarray, target: np.ndarray, numbers: np.ndarray, importance: np.ndarray,
    starts: np.ndarray, bones: np.ndarray, weights: np.ndarray, correctives: bool, parts: int, size: int,
    pull: np.ndarray, posed: Record, seen: Record,
) -> None:  # fmt: skip
    """The visit: block (b, k) has `size` vertices, the k-th ones, and sums up what it sees in `seen` [C * K]."""
    first, last = k * size, min((k + 1) * size, rest.shape[1])
    collapse(
        rest[b, first:last], target[b], numbers[first:last], importance[first:last], starts[first : last + 1], bones,
        weights, correctives, pull[b, first:last], posed[b : b + 1], seen[b * parts + k :],
    )  # fmt: skip


def settle(
    b: int, tree: Record, part: Record, bones: Record, anatomical: np.ndarray, q: np.ndarray, parts: int, seen: Record,
    by_basis: np.ndarray, desk: Record, reduced: Record,
) -> None:  # fmt: skip
    """After it: the reduced problem around q, from all that was seen in so many `parts`, in their order."""
    here, out = desk[b % len(desk) :], reduced[b : b + 1]
    pose(tree, bones[b : b + 1], q[b], here)
    stand(q[b], here, out)
    for k in range(b * parts, (b + 1) * parts):
        add_up(seen[k : k + 1], here, out)
    pull_joints(part, bones[b : b + 1], anatomical[b], here, out)
    corrective_tilt(tree, part, by_basis[b, 10:], here, out)  # ten are of betas


def descend(
    b: int, tree: Record, part: Record, bones: Record, moments: np.ndarray, bend: np.ndarray, scale: np.ndarray,
    reduced: Record, steps: int, tolerance: float, q: np.ndarray, damping: np.ndarray, tried: np.ndarray,
    done: np.ndarray, desk: Record,
) -> None:  # fmt: skip
    """Up to so many steps of an early stage, which has no bend: these arrays are [C 0 D L] and [C 0 L]."""
    problem = Quadratic(moments[b], bend[b], scale[b], reduced[b : b + 1])
    minimise(
        tree, part, bones[b : b + 1], problem, steps, tolerance, q[b], damping[b], tried[b], done[b], False,
        desk[b % len(desk) :],
    )  # fmt: skip


def measure(
    b: int, tree: Record, part: Record, bones: Record, moments: np.ndarray, bend: np.ndarray, scale: np.ndarray,
    reduced: Record, visit: int, steps: int, step_tolerance: float, energy_tolerance: float, low: np.ndarray,
    high: np.ndarray, count: int, last: bool, q: np.ndarray, damping: np.ndarray, tried: np.ndarray, row: np.ndarray,
    live: np.ndarray, done: np.ndarray, last_q: np.ndarray, last_gradient: np.ndarray, best: Record, desk: Record,
) -> None:  # fmt: skip
    """After visit number `visit` of the last stage: judge the rows, and go on with those that are not at the minimum.

    From the second visit on, the change since the one before teaches the bend.
    """
    here, skeleton, around = desk[b % len(desk) :], bones[b : b + 1], reduced[b : b + 1]
    problem = Quadratic(moments[b], bend[b, :visit], scale[b, :visit], around)
    linearise(tree, part, skeleton, problem, q[b], here)
    if visit:
        learn(part, q[b], last_q[b], last_gradient[b], bend[b, visit - 1], scale[b, visit - 1], here)
    next_step(part, q[b], damping[b], here)
    judge(
        part, q[b], around, low, high, step_tolerance, energy_tolerance, count, last, tried[b], row[b], live[b],
        done[b], last_q[b], last_gradient[b], best, here,
    )  # fmt: skip
    minimise(tree, part, skeleton, problem, steps, step_tolerance, q[b], damping[b], tried[b], done[b], True, here)


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


def see(
    b: int, k: int, mesh: np.ndarray, place: np.ndarray, turn: np.ndarray, shift: np.ndarray, size: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Meshes [C * L V 3] seen from roots (`take_in`) as [C V 3 L]; block (b, k) has `size` vertices."""
    first, last = k * size, min((k + 1) * size, out.shape[1])
    take_in(mesh[b * LANES : (b + 1) * LANES], first, place[b], turn[b], shift[b], out[b, first:last])


def points(
    b: int, k: int, starts: np.ndarray, columns: np.ndarray, values: np.ndarray, mesh: np.ndarray, size: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Points [C K 3 L] of meshes, by a sparse matrix [K V]; block (b, k) has `size` of them."""
    first, last = k * size, min((k + 1) * size, out.shape[1])
    regress(starts[first : last + 1], columns, values, mesh[b], out[b, first:last])


def regroup(b: int, k: int, source: np.ndarray, rows: np.ndarray, parts: int, out: np.ndarray) -> None:
    """The rows of these numbers [C' L], in the order of chunks and lanes, of source [C N L] into out [C' N L]."""
    for lane in range(LANES):
        chunk, place = rows[b, lane] // LANES, rows[b, lane] % LANES
        for n in range(k, source.shape[1], parts):
            out[b, n, lane] = source[chunk, n, place]
