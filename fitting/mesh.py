"""Target meshes in the layout of the solver, chunks of 64 rows: arrays [C ... L], on any device."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


def sparse(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix [N M] as the kernels want it: row n has `columns` and `values` from starts[n] to starts[n + 1]."""
    rows, columns = matrix.nonzero(as_tuple=True)
    starts = torch.cat((rows[:0].new_zeros(1), rows.bincount(minlength=len(matrix)).cumsum(0)))
    return starts, columns, matrix[rows, columns].float()


@runtime_checkable
class BodySurface(Protocol):
    """Some vertices of a body on a device."""

    def posed(self, coefficients: Tensor, transforms: Tensor, shift: Tensor) -> Tensor:
        """Skinned vertices [C V 3 L], moved by `shift` [C 3 L].

        Args:
            coefficients: [C 1 + 10 + P, L], see `mesh_coefficients`.
            transforms: [C 24 3 4 L] of the bones.
        """
        ...

    def visit(
        self, targets: Tensor, posed: Any, correctives: bool, by_basis: Tensor
    ) -> Iterator[tuple[slice, int, Any]]:
        """What vertices as `posed` (records [C] of `POSED`) say of their residuals to whole meshes `targets`
        [C V' 3 L]: for some chunks after others, records `SEEN`, so many for each chunk.

        `by_basis` [C 10 + 9 * 19, L] becomes dE/2, the bones held, by betas (if the surface was made for that, else 0)
        and by the local rotations that drive the correctives (if `correctives` are asked for, else all is 0).
        """
        ...


@runtime_checkable
class Engine(Protocol):
    """What a fit runs on: `fitting.lanes.cpu.Cpu` or `fitting.gpu.device.Gpu`."""

    together: int  # chunks that visit the vertices together
    desks: int  # how many of them compute at the same time
    shares: int  # blocks that share a chunk's points
    steps: int  # after so many, rows that are not done move together

    def is_worth(self, rows: int, chunks: int) -> bool:
        """Whether to regroup when so many rows are left in so many chunks."""
        ...

    def surface(
        self, body: Smpl | Skel, vertices: Tensor | None = None, importance: Tensor | None = None,
        by_betas: bool = False,
    ) -> BodySurface:  # fmt: skip
        """Some vertices of a body (by default all), and the weights [V] of their squared distances; `by_betas` if
        visits are to give derivatives by betas."""
        ...

    def launch(self, function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
        """Run a function of `fitting.lanes.launches` for all of the grid: chunks, or chunks and parts of each.

        Arguments are numbers, tensors and `fitting.stack.Records`.
        """
        ...

    def products(self, matrix: Tensor, stack: Tensor) -> Tensor:
        """matrix [M K] times each of a stack [C K L]: [C M L]."""
        ...

    def regrouped(self, stack: Tensor, rows: Tensor) -> Tensor:
        """The rows [C' L], by their numbers in a stack [C ... L], as a stack [C' ... L] of their own."""
        ...


@dataclass(frozen=True)
class Placed:
    """Meshes as they were given, and SMPL's root in them, m."""

    vertices: Tensor  # [B V 3]
    rotmat: Tensor  # [B 3 3] of the root
    place: Tensor  # [B 3] of the root joint

    def to(self, device: torch.device) -> "Placed":
        return Placed(*(values.to(device, torch.float32) for values in vars(self).values()))


@dataclass(frozen=True)
class Mesh:
    """Vertices of [B] rows."""

    chunks: Tensor  # [C V 3 L] float32; what is beyond `count` is filled up
    count: int
    engine: Engine

    def distance(self, other: "Mesh") -> Tensor:
        """Between equal vertices, [B V]."""
        return unstacked((self.chunks - other.chunks).square_().sum(2).sqrt_(), self.count)

    def moved(self, rotmat: Tensor, shift: Tensor) -> "Mesh":
        """R^T (y - s) of `rotmat` [B 3 3] and `shift` [B 3]."""
        turn, apart = stacked(rotmat.float()).unsqueeze(1), self.chunks - stacked(shift.float()).unsqueeze(1)
        out = torch.zeros_like(apart)
        for i, j in itertools.product(range(3), range(3)):
            out[:, :, i] += turn[:, :, j, i] * apart[:, :, j]
        return Mesh(out, self.count, self.engine)

    @staticmethod
    def joined(parts: Sequence["Mesh"]) -> "Mesh":
        """The rows of several meshes."""
        chunks = torch.cat([part.chunks for part in parts])
        firsts = itertools.accumulate((TILE * len(part.chunks) for part in parts), initial=0)
        rows = [torch.arange(first, first + part.count) for first, part in zip(firsts, parts, strict=False)]
        number = torch.cat(rows).to(chunks.device)
        return Mesh(chunks, len(chunks) * TILE, parts[0].engine)[number]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Tensor | slice) -> "Mesh":
        numbers = torch.arange(self.count, device=self.chunks.device)[rows]
        stack = self.engine.regrouped(self.chunks, filled(numbers).view(-1, TILE))
        return Mesh(stack, len(numbers), self.engine)


class Mesher:
    """Poses a body's mesh."""

    def __init__(self, body: Smpl | Skel, regressor: Tensor, engine: Engine) -> None:
        """`regressor` [24 V] gives SKEL's anatomical joints."""
        self.engine, self.surface = engine, engine.surface(body)
        self.regressor = sparse(regressor), _row_sums(regressor)

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
        self, mesh: Placed, pelvis: Tensor, offset: Tensor, points: Tensor | None
    ) -> tuple[Mesh, Tensor, Tensor | None]:
        """The same of meshes that are posed already: their root's rotation goes, and its joint to `pelvis` [B 3]."""
        vertices = mesh.vertices
        if len(vertices) % TILE:
            vertices = vertices[filled(torch.arange(len(vertices), device=vertices.device))]
        out = vertices.new_empty(len(vertices) // TILE, vertices.shape[1], 3, TILE)
        size = max(-(-out.shape[1] // self.engine.shares), 1)
        columns = (stacked(values) for values in (mesh.place, mesh.rotmat, pelvis - offset))
        grid = len(out), -(-out.shape[1] // size)
        self.engine.launch("see", grid, vertices.contiguous(), *columns, size, out)
        return self._with_points(out, offset, points)

    def _with_points(self, mesh: Tensor, offset: Tensor, points: Tensor | None) -> tuple[Mesh, Tensor, Tensor | None]:
        wanted = [self.regressor]
        if points is not None:
            wanted.append((sparse(points), _row_sums(points)))
        # The mesh was moved before the points are taken: a regressor whose rows do not sum to 1 sees that.
        joints, *rest = (
            unstacked(self._points(matrix, mesh), len(offset)) + sums[:, None] * offset[:, None]
            for matrix, sums in wanted
        )
        return Mesh(mesh, len(offset), self.engine), joints - offset[:, None], rest[0] if rest else None

    def _points(self, matrix: tuple[Tensor, Tensor, Tensor], mesh: Tensor) -> Tensor:
        """The matrix [K V] times meshes [C V 3 L]: [C K 3 L]."""
        count = len(matrix[0]) - 1
        out = mesh.new_empty(len(mesh), count, 3, TILE)
        size = max(-(-count // self.engine.shares), 1)
        self.engine.launch("points", (len(mesh), -(-count // size)), *matrix, mesh, size, out)
        return out


def _row_sums(matrix: Tensor) -> Tensor:
    return matrix.double().sum(1).to(matrix.dtype)
