"""Visits to the vertices: `fitting.surface`, compiled.

Vertices are taken in blocks. A block's rest positions are one matrix product (basis times coefficients, by BLAS, always
of the same size so that it adds up in the same order); what follows uses that a vertex hangs on a few bones only.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fitting.lanes.lanes import LANES
from fitting.lanes.skin import collapse
from fitting.lanes.state import Record
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl

_BLOCK = 576  # vertices: a block's basis, rest positions and pulls stay in a core's cache


@dataclass(frozen=True)
class Sparse:
    """Rows of a sparse matrix: row v has `columns` and `values` from `starts[v]` to `starts[v + 1]`."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray  # float32

    @classmethod
    def of(cls, matrix: torch.Tensor) -> "Sparse":
        rows, columns = matrix.nonzero(as_tuple=True)
        starts = np.zeros(len(matrix) + 1, np.int64)
        np.cumsum(rows.bincount(minlength=len(matrix)).numpy(), out=starts[1:])
        return cls(starts, columns.numpy(), matrix[rows, columns].float().numpy())


@dataclass(frozen=True)
class Block:
    """Some vertices of a body."""

    vertices: slice  # among the surface's
    basis: torch.Tensor  # [3V 1 + 10 + P] template, shape directions, pose correctives; rows by vertex, then xyz
    weights: Sparse  # [V 24]


class LaneSurface:
    """Some vertices of a body, by blocks."""

    def __init__(self, model: Smpl | Skel, vertices: torch.Tensor | None = None) -> None:
        rows = torch.cat((model.template.flatten()[None], model.shapedirs, model.posedirs)).unflatten(-1, (-1, 3))
        weights = model.weights
        if vertices is not None:
            rows, weights = rows[:, vertices], weights[vertices]
        self.count = len(weights)
        slices = [slice(first, min(first + _BLOCK, self.count)) for first in range(0, self.count, _BLOCK)]
        self.blocks = [Block(s, rows[:, s].flatten(1).T.contiguous(), Sparse.of(weights[s])) for s in slices]


class Room:
    """Scratch memory of one thread."""

    def __init__(self) -> None:
        self.rest = np.zeros((_BLOCK, 3, LANES), np.float32)
        self.pull = np.zeros((_BLOCK, 3, LANES), np.float32)


def rest_positions(block: Block, coefficients: np.ndarray, room: Room) -> np.ndarray:
    """[V 3 L] before posing; `coefficients` [1 + 10 + P, L]."""
    count = len(block.basis) // 3
    out = room.rest[:count]
    torch.mm(block.basis, torch.from_numpy(coefficients), out=torch.from_numpy(out).view(3 * count, LANES))
    return out


def visit(
    surface: LaneSurface, target: np.ndarray, numbers: np.ndarray, importance: np.ndarray, correctives: bool,
    desk: Record, room: Room,
) -> None:  # fmt: skip
    """Moments of the residuals at the desk's pose and coefficients: a chunk's error, and all that the reduced system
    needs to know of it.

    Leaves there E_0 and B' (`start_energy`, `cross`), `total` and `largest` of the distances, and if asked for
    `by_rotation`.

    Args:
        target: [V' 3 L] float32 the whole target mesh; `numbers` [V] says which of its vertices the surface has.
        importance: [V] float32, c.
    """
    here = desk[0]
    here["start_energy"][:], here["total"][:], here["largest"][:], here["cross"][:] = 0.0, 0.0, 0.0, 0.0
    shaped = 11  # coefficients before those of the pose
    by_rotation = here["by_rotation"]
    by_rotation[:] = 0.0
    for block in surface.blocks:
        rest = rest_positions(block, here["coefficients"], room)
        pull = room.pull[: len(rest)]
        here["cross_short"][:] = 0.0
        collapse(
            rest, target, numbers[block.vertices], importance[block.vertices], block.weights.starts,
            block.weights.columns, block.weights.values, correctives, pull, desk,
        )  # fmt: skip
        here["cross"][:] += here["cross_short"]  # float32 within a block, float64 from block to block
        if correctives:
            by_rotation -= (block.basis[:, shaped:].T @ torch.from_numpy(pull).view(-1, LANES)).numpy()
