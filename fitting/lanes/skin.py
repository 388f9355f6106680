"""Every vertex's work, lane by lane, float32: what `fitting.lanes.surface` has compiled."""

from math import sqrt

import numpy as np

from fitting.lanes.lanes import LANES, kernel, part_of_kernels
from fitting.lanes.state import Record


@part_of_kernels
def _blend(transforms: np.ndarray, bones: np.ndarray, weights: np.ndarray, first: int, last: int, out: np.ndarray):
    """out [3 4 L] = sum_m w_m G_m."""
    for n in range(first, last):
        bone, weight = transforms[bones[n]], weights[n]
        if n == first:
            for i in range(3):
                for j in range(4):
                    for lane in range(LANES):
                        out[i, j, lane] = weight * bone[i, j, lane]
        else:
            for i in range(3):
                for j in range(4):
                    for lane in range(LANES):
                        out[i, j, lane] += weight * bone[i, j, lane]


@kernel
def collapse(
    rest: np.ndarray, target: np.ndarray, numbers: np.ndarray, importance: np.ndarray, starts: np.ndarray,
    bones: np.ndarray, weights: np.ndarray, correctives: bool, pull: np.ndarray, desk: Record,
) -> None:  # fmt: skip
    """One block's residuals, added to what is there; `pull` [V 3 L] becomes c R^T r."""
    desk = desk[0]
    transforms, energy, total, largest, cross = (
        desk.transforms_short, desk.start_energy, desk.total, desk.largest, desk.cross_short,
    )  # fmt: skip
    turn, lever, residual = desk.vertex[0], desk.vertex[1], desk.vertex[2, 0]
    for v in range(len(rest)):
        _blend(transforms, bones, weights, starts[v], starts[v + 1], turn)
        x, y, importance_v = rest[v], target[numbers[v]], importance[v]
        for i in range(3):
            for lane in range(LANES):
                residual[i, lane] = y[i, lane] - (
                    turn[i, 0, lane] * x[0, lane] + turn[i, 1, lane] * x[1, lane] + turn[i, 2, lane] * x[2, lane]
                    + turn[i, 3, lane]
                )  # fmt: skip
        for lane in range(LANES):
            a, b, c = residual[0, lane], residual[1, lane], residual[2, lane]
            square = a * a + b * b + c * c
            distance = sqrt(square)
            energy[lane] += importance_v * square
            total[lane] += distance
            largest[lane] = max(largest[lane], distance)
        for i in range(3):
            for lane in range(LANES):
                residual[i, lane] *= importance_v
        for i in range(3):
            for lane in range(LANES):
                r = residual[i, lane]
                lever[i, 0, lane] = r * x[0, lane]
                lever[i, 1, lane] = r * x[1, lane]
                lever[i, 2, lane] = r * x[2, lane]
        for n in range(starts[v], starts[v + 1]):
            weight, sums = weights[n], cross[bones[n]]
            for i in range(3):
                for j in range(3):
                    for lane in range(LANES):
                        sums[i, j, lane] += weight * lever[i, j, lane]
                for lane in range(LANES):
                    sums[i, 3, lane] += weight * residual[i, lane]
        if correctives:
            for j in range(3):
                for lane in range(LANES):
                    pull[v, j, lane] = (
                        turn[0, j, lane] * residual[0, lane] + turn[1, j, lane] * residual[1, lane]
                        + turn[2, j, lane] * residual[2, lane]
                    )  # fmt: skip


@kernel
def skin(
    rest: np.ndarray, transforms: np.ndarray, starts: np.ndarray, bones: np.ndarray, weights: np.ndarray,
    shift: np.ndarray, turn: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Linear blend skinning of a block, moved by `shift` [3 L]: out [V 3 L]. `turn` [3 4 L] is room to work in."""
    for v in range(len(rest)):
        _blend(transforms, bones, weights, starts[v], starts[v + 1], turn)
        x = rest[v]
        for i in range(3):
            for lane in range(LANES):
                out[v, i, lane] = shift[i, lane] + (
                    turn[i, 0, lane] * x[0, lane] + turn[i, 1, lane] * x[1, lane] + turn[i, 2, lane] * x[2, lane]
                    + turn[i, 3, lane]
                )  # fmt: skip


@kernel
def regress(starts: np.ndarray, columns: np.ndarray, values: np.ndarray, mesh: np.ndarray, out: np.ndarray) -> None:
    """A sparse matrix [K V] times a mesh [V 3 L]: points [K 3 L]."""
    for k in range(len(out)):
        for i in range(3):
            for lane in range(LANES):
                out[k, i, lane] = 0.0
        for n in range(starts[k], starts[k + 1]):
            vertex, value = mesh[columns[n]], values[n]
            for i in range(3):
                for lane in range(LANES):
                    out[k, i, lane] += value * vertex[i, lane]
