"""Target meshes in lanes: SMPL posed for a batch, 64 rows to a chunk."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fitting.lanes.state import LANES
from fitting.lanes.surface import LaneSurface, Room, Sparse, regress, rest_positions, skin
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl


def chunks_of(values: Tensor | np.ndarray) -> np.ndarray:
    """[B ...] to [C ... L]; the last chunk is filled up with the first row."""
    values = np.asarray(values)
    count = -(-len(values) // LANES)
    rows = np.zeros(count * LANES, np.int64)
    rows[: len(values)] = np.arange(len(values))
    filled_up = values if len(rows) == len(values) else values[rows]
    return np.ascontiguousarray(np.moveaxis(filled_up.reshape(count, LANES, *values.shape[1:]), 1, -1))


def rows_of(chunks: np.ndarray, count: int) -> Tensor:
    """[C ... L] back to [B ...]."""
    rows = np.moveaxis(chunks, -1, 1).reshape(-1, *chunks.shape[1:-1])
    return torch.from_numpy(np.ascontiguousarray(rows[:count]))


@dataclass(frozen=True)
class LaneMesh:
    """Vertices of [B] rows."""

    chunks: np.ndarray  # [C V 3 L] float32; what is beyond `count` is filled up
    count: int

    def tensor(self) -> Tensor:
        """As [B 3 V]."""
        return rows_of(self.chunks, self.count).mT

    def distance(self, other: "LaneMesh") -> Tensor:
        """Between equal vertices, [B V]."""
        return rows_of(np.square(self.chunks - other.chunks).sum(2), self.count).sqrt()

    def moved(self, rotmat: Tensor, shift: Tensor) -> "LaneMesh":
        """R^T (y - s) of `rotmat` [B 3 3] and `shift` [B 3]."""
        turn, shift_by = chunks_of(rotmat.float())[:, None], chunks_of(shift.float())[:, None]  # [C 1 3 3 L], [C 1 3 L]
        out = np.zeros_like(self.chunks)
        for j in range(3):
            apart = self.chunks[:, :, j] - shift_by[:, :, j]
            for i in range(3):
                out[:, :, i] += turn[:, :, j, i] * apart
        return LaneMesh(out, self.count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Tensor | slice) -> "LaneMesh":
        numbers = np.arange(self.count)[rows.numpy() if isinstance(rows, Tensor) else rows]
        if len(numbers) == 0:
            return LaneMesh(self.chunks[:0], 0)
        return LaneMesh(gathered(self.chunks, numbers), len(numbers))


def gathered(chunks: np.ndarray | Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Rows [B'] (numbers in chunk order) of chunks [... L], in chunks of their own, filled up with the first row.

    A chunk may be a record of float64.
    """
    count, first = -(-len(rows) // LANES), chunks[0]
    out = np.empty((count, *first.shape), first.dtype)
    filled = np.concatenate((rows, np.repeat(rows[:1], count * LANES - len(rows)))).reshape(count, LANES)
    for target, wanted in zip(out, filled, strict=True):
        source = wanted // LANES
        cuts = [0, *(np.flatnonzero(np.diff(source)) + 1), LANES]
        parts = [
            np.take(_flat(chunks[source[start]]), wanted[start:stop] % LANES, axis=1)
            for start, stop in itertools.pairwise(cuts)
        ]
        np.concatenate(parts, axis=1, out=_flat(target))
    return out


def _flat(chunk: np.ndarray) -> np.ndarray:
    """A view [N L]."""
    return (chunk.view(np.float64) if chunk.dtype.names else chunk).reshape(-1, LANES)


class LaneMesher:
    """Poses a body's mesh; `fitting.target.PlainMesher`, compiled."""

    def __init__(self, body: Smpl | Skel, regressor: Tensor) -> None:
        """`regressor` [24 V] gives SKEL's anatomical joints."""
        self.surface = LaneSurface(body)
        self.regressor = Sparse.of(regressor)

    def __call__(
        self, betas: Tensor, local: Tensor, transforms: Tensor, offset: Tensor, points: Tensor | None
    ) -> tuple[LaneMesh, Tensor, Tensor | None]:
        """The mesh less `offset` [B 3], anatomical joints [B 24 3] less it too, and points [B K 3] with it.

        Args:
            betas: [B 10].
            local: [B 23 3 3] local rotations.
            transforms: [B 24 3 4].
            points: [K V] or None.
        """
        count = len(betas)
        eye = torch.eye(3, dtype=local.dtype)
        coefficients = chunks_of(torch.cat((torch.ones_like(betas[:, :1]), betas, (local - eye).flatten(1)), 1))
        bones, shift = chunks_of(transforms), chunks_of(-offset)
        size = len(coefficients)
        mesh = np.empty((size, self.surface.count, 3, LANES), np.float32)
        room, turn = Room(0), np.zeros((3, 4, LANES), np.float32)
        for block in self.surface.blocks:  # as in a visit: a block's basis stays in the cache
            weights = block.weights
            for c in range(size):
                rest = rest_positions(block, coefficients[c], room)
                skin(
                    rest, block.numbers, bones[c], weights.starts, weights.columns, weights.values, shift[c], turn,
                    mesh[c],
                )  # fmt: skip
        return self._with_points(LaneMesh(mesh, count), offset, points)

    def given(
        self, mesh: Tensor, place: Tensor, offset: Tensor, points: Tensor | None
    ) -> tuple[LaneMesh, Tensor, Tensor | None]:
        """The same of meshes [B V 3] that are posed already, moved by `place` [B 3]."""
        chunks, shift = chunks_of(mesh), chunks_of(place - offset)
        chunks += shift[:, None]
        return self._with_points(LaneMesh(chunks, len(mesh)), offset, points)

    def _with_points(
        self, mesh: LaneMesh, offset: Tensor, points: Tensor | None
    ) -> tuple[LaneMesh, Tensor, Tensor | None]:
        wanted = [self.regressor] if points is None else [self.regressor, Sparse.of(points)]
        found = [np.empty((len(mesh.chunks), len(m.starts) - 1, 3, LANES), np.float32) for m in wanted]
        for matrix, out in zip(wanted, found, strict=True):
            for c, chunk in enumerate(mesh.chunks):
                regress(matrix.starts, matrix.columns, matrix.values, chunk, out[c])
        # The mesh was moved before the points were taken: a regressor whose rows do not sum to 1 sees that.
        joints, *rest_of = (rows_of(values, mesh.count) for values in found)
        joints = joints + _row_sums(self.regressor)[:, None] * offset[:, None] - offset[:, None]
        moved = rest_of[0] + _row_sums(wanted[1])[:, None] * offset[:, None] if rest_of else None
        return mesh, joints, moved


def _row_sums(matrix: Sparse) -> Tensor:
    row = np.repeat(np.arange(len(matrix.starts) - 1), np.diff(matrix.starts))
    return torch.from_numpy(np.bincount(row, matrix.values, len(matrix.starts) - 1)).float()
