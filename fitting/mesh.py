"""Target meshes in the layout of the solver, chunks of 64 rows: arrays [C ... L], on any device."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fitting.batch import TILE, filled
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl


def mesh_basis(body: Smpl | Skel) -> Tensor:
    """What a mesh at rest is linear in [1 + 10 + P, V, 3]: template, shape directions, pose correctives."""
    return torch.cat((body.template.flatten()[None], body.shapedirs, body.posedirs)).unflatten(-1, (-1, 3))


def mesh_coefficients(betas: Tensor, local: Tensor) -> Tensor:
    """Those of `mesh_basis` [B 1 + 10 + P], of betas [B 10] and local rotations [B P/9 3 3]."""
    eye = torch.eye(3, dtype=local.dtype, device=local.device)
    return torch.cat((torch.ones_like(betas[:, :1]), betas, (local - eye).flatten(1)), 1)


def stacked(values: Tensor) -> Tensor:
    """[B ...] to [C ... L]."""
    whole = len(values) % TILE == 0
    rows = values if whole else values[filled(torch.arange(len(values), device=values.device))]
    return rows.unflatten(0, (-1, TILE)).movedim(1, -1).contiguous()


def unstacked(stack: Tensor, count: int) -> Tensor:
    """[C ... L] back to [B ...]."""
    return stack.movedim(-1, 1).flatten(0, 1)[:count].contiguous()


def gathered(chunks: np.ndarray | Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Rows [B'] (numbers in chunk order) of chunks [... L], in chunks of their own, filled up with the first row.

    A chunk may be a record of float64.
    """
    count, first = -(-len(rows) // TILE), chunks[0]
    out = np.empty((count, *first.shape), first.dtype)
    places = np.concatenate((rows, np.repeat(rows[:1], count * TILE - len(rows)))).reshape(count, TILE)
    for target, wanted in zip(out, torch.from_numpy(places), strict=True):
        source = wanted // TILE
        cuts = [0, *(source.diff().nonzero()[:, 0] + 1).tolist(), TILE]
        parts = [
            _flat(chunks[source[start]]).index_select(1, wanted[start:stop] % TILE)
            for start, stop in itertools.pairwise(cuts)
        ]
        torch.cat(parts, 1, out=_flat(target))
    return out


def _flat(chunk: np.ndarray) -> Tensor:
    """A view [N L]."""
    return torch.from_numpy((chunk.view(np.float64) if chunk.dtype.names else chunk).reshape(-1, TILE))


@runtime_checkable
class BodySurface(Protocol):
    """A body's vertices on a device: `fitting.lanes.surface.LaneSurface`, `fitting.gpu.device.DeviceSurface`."""

    def __init__(self, body: Smpl | Skel, /) -> None: ...

    def posed(self, coefficients: Tensor, transforms: Tensor, shift: Tensor) -> Tensor:
        """Skinned vertices [C V 3 L], moved by `shift` [C 3 L].

        Args:
            coefficients: [C 1 + 10 + P, L], see `mesh_coefficients`.
            transforms: [C 24 3 4 L] of the bones.
        """
        ...

    def sparse(self, matrix: Tensor) -> Any:
        """A matrix [K V], as `points` wants it."""
        ...

    def points(self, matrix: Any, mesh: Tensor) -> Tensor:
        """The matrix times a mesh [C V 3 L]: points [C K 3 L]."""
        ...

    def regrouped(self, mesh: Tensor, rows: Tensor) -> Tensor:
        """The rows [B'], by their numbers in a mesh [C V 3 L], as chunks of their own."""
        ...


@dataclass(frozen=True)
class Mesh:
    """Vertices of [B] rows."""

    chunks: Tensor  # [C V 3 L] float32; what is beyond `count` is filled up
    count: int
    surface: BodySurface

    def tensor(self) -> Tensor:
        """As [B 3 V]."""
        return unstacked(self.chunks, self.count).mT

    def distance(self, other: "Mesh") -> Tensor:
        """Between equal vertices, [B V]."""
        return unstacked((self.chunks - other.chunks).square_().sum(2).sqrt_(), self.count)

    def moved(self, rotmat: Tensor, shift: Tensor) -> "Mesh":
        """R^T (y - s) of `rotmat` [B 3 3] and `shift` [B 3]."""
        turn, apart = stacked(rotmat.float()).unsqueeze(1), self.chunks - stacked(shift.float()).unsqueeze(1)
        out = torch.zeros_like(apart)
        for i, j in itertools.product(range(3), range(3)):
            out[:, :, i] += turn[:, :, j, i] * apart[:, :, j]
        return Mesh(out, self.count, self.surface)

    @staticmethod
    def joined(parts: Sequence["Mesh"]) -> "Mesh":
        """The rows of several meshes of one surface."""
        chunks, surface = torch.cat([part.chunks for part in parts]), parts[0].surface
        firsts = itertools.accumulate((TILE * len(part.chunks) for part in parts), initial=0)
        rows = [torch.arange(first, first + part.count) for first, part in zip(firsts, parts, strict=False)]
        number = torch.cat(rows).to(chunks.device)
        return Mesh(surface.regrouped(chunks, number), len(number), surface)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Tensor | slice) -> "Mesh":
        numbers = torch.arange(self.count, device=self.chunks.device)[rows]
        return Mesh(self.surface.regrouped(self.chunks, numbers), len(numbers), self.surface)


class Mesher:
    """Poses a body's mesh."""

    def __init__(self, surface: BodySurface, regressor: Tensor) -> None:
        """`regressor` [24 V] gives SKEL's anatomical joints."""
        self.surface = surface
        self.regressor = surface.sparse(regressor), _row_sums(regressor)

    def __call__(
        self, betas: Tensor, local: Tensor, transforms: Tensor, offset: Tensor, points: Tensor | None
    ) -> tuple[Mesh, Tensor, Tensor | None]:
        """The mesh less `offset` [B 3], anatomical joints [B 24 3] less it too, and points [B K 3] with it.

        Args:
            betas: [B 10].
            local: [B 23 3 3] local rotations.
            transforms: [B 24 3 4].
            points: [K V] or None.
        """
        coefficients = stacked(mesh_coefficients(betas, local))
        mesh = self.surface.posed(coefficients, stacked(transforms), stacked(-offset))
        return self._with_points(mesh, offset, points)

    def given(
        self, mesh: Tensor, place: Tensor, offset: Tensor, points: Tensor | None
    ) -> tuple[Mesh, Tensor, Tensor | None]:
        """The same of meshes [B V 3] that are posed already, moved by `place` [B 3]."""
        return self._with_points(stacked(mesh + (place - offset)[:, None]), offset, points)

    def _with_points(self, mesh: Tensor, offset: Tensor, points: Tensor | None) -> tuple[Mesh, Tensor, Tensor | None]:
        wanted = [self.regressor]
        if points is not None:
            wanted.append((self.surface.sparse(points), _row_sums(points)))
        # The mesh was moved before the points are taken: a regressor whose rows do not sum to 1 sees that.
        joints, *rest = (
            unstacked(self.surface.points(matrix, mesh), len(offset)) + sums[:, None] * offset[:, None]
            for matrix, sums in wanted
        )
        return Mesh(mesh, len(offset), self.surface), joints - offset[:, None], rest[0] if rest else None


def _row_sums(matrix: Tensor) -> Tensor:
    return matrix.double().sum(1).to(matrix.dtype)
