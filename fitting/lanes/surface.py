"""Visits to the vertices: a posed mesh and its distances, collapsed to moments.

Vertices are taken in blocks. A block's rest positions are one matrix product (basis times coefficients, by BLAS, always
of the same size so that it adds up in the same order); what follows uses that a vertex hangs on a few bones only.

Where a body's pose correctives are mostly zero, most of a product would be too. So a block has vertices that the same
joints correct, and only those columns of the basis in which it has anything. Nothing is approximated: what is left out
is zero. A body without such zeros keeps all columns in all blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
import torch

from fitting.lanes.state import LANES, POSED, SEEN, Record, kernel, part_of_kernels
from fitting.mesh import mesh_basis, sparse
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl

_BLOCK = 384  # vertices: fewer would make more calls, and their products are slower; more gain nothing
_BLOCK_COST = 2000  # what one more block takes beside its products, in columns of a vertex
_LARGE = 20_000  # entries of a matrix for which oneDNN pays
_SHAPED = 11  # columns of a basis before those of the pose: template and shape directions


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
    bones: np.ndarray, weights: np.ndarray, correctives: bool, pull: np.ndarray, posed: Record, seen: Record,
) -> None:  # fmt: skip
    """A block's residuals as `posed`, added to what is `seen` already; `pull` [V 3 L] becomes c R^T r."""
    transforms, seen = posed[0].transforms_short, seen[0]
    energy, total, largest, cross = seen.energy, seen.total, seen.largest, seen.cross
    turn, lever, residual = seen.vertex[0], seen.vertex[1], seen.vertex[2, 0]
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
def add_up(seen: Record, desk: Record, reduced: Record) -> None:
    """Adds the sums over some vertices to the visit's: a bone's are float32, what becomes of them is float64."""
    seen, desk, out = seen[0], desk[0], reduced[0]
    for lane in range(LANES):
        out.start_energy[lane] += seen.energy[lane]
        out.total[lane] += seen.total[lane]
        out.largest[lane] = max(out.largest[lane], np.float64(seen.largest[lane]))
    for m in range(24):
        for i in range(desk.three):
            for j in range(desk.four):
                for lane in range(LANES):
                    out.cross[m, i, j, lane] += seen.cross[m, i, j, lane]


@kernel
def take_off(rows: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Subtract values [K L] from the rows of `out` [R L] with these numbers [K]."""
    for n in range(len(rows)):
        row = out[rows[n]]
        for lane in range(LANES):
            row[lane] -= values[n, lane]


@kernel
def skin(
    rest: np.ndarray, numbers: np.ndarray, transforms: np.ndarray, starts: np.ndarray, bones: np.ndarray,
    weights: np.ndarray, shift: np.ndarray, turn: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Linear blend skinning of a block, moved by `shift` [3 L], to its `numbers` in the mesh `out` [V' 3 L].

    `turn` [3 4 L] is room to work in.
    """
    for v in range(len(rest)):
        _blend(transforms, bones, weights, starts[v], starts[v + 1], turn)
        x, y = rest[v], out[numbers[v]]
        for i in range(3):
            for lane in range(LANES):
                y[i, lane] = shift[i, lane] + (
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


@kernel
def take_in(
    mesh: np.ndarray, first: int, place: np.ndarray, turn: np.ndarray, shift: np.ndarray, out: np.ndarray
) -> None:
    """Vertices of meshes [L V 3] from the `first` on as `out` [V' 3 L], turned about `place` [3 L] by the inverse of
    `turn` [3 3 L], which leaves that point at `shift` [3 L]."""
    for v in range(len(out)):
        y = out[v]
        for lane in range(LANES):
            for i in range(3):
                y[i, lane] = mesh[lane, first + v, i]
        for lane in range(LANES):
            a, b, c = y[0, lane] - place[0, lane], y[1, lane] - place[1, lane], y[2, lane] - place[2, lane]
            y[0, lane] = shift[0, lane] + turn[0, 0, lane] * a + turn[1, 0, lane] * b + turn[2, 0, lane] * c
            y[1, lane] = shift[1, lane] + turn[0, 1, lane] * a + turn[1, 1, lane] * b + turn[2, 1, lane] * c
            y[2, lane] = shift[2, lane] + turn[0, 2, lane] * a + turn[1, 2, lane] * b + turn[2, 2, lane] * c


@dataclass(frozen=True)
class LaneBlock:
    """Some vertices of a body."""

    numbers: np.ndarray  # [V] in the body
    importance: np.ndarray  # [V] float32, c
    columns: torch.Tensor  # [K] of the body's basis
    basis: torch.Tensor  # [3V K] template, shape directions, pose correctives; rows by vertex, then xyz
    moved: np.ndarray  # [M] those by which a visit takes derivatives, counted without the template
    by_basis: torch.Tensor  # [M, 3V] their part of the basis, transposed
    weights: list[np.ndarray]  # [V 24], `fitting.mesh.sparse`


class LaneSurface:
    """Some vertices of a body, all if not said, by blocks."""

    def __init__(
        self, body: Smpl | Skel, vertices: torch.Tensor | None = None, importance: torch.Tensor | None = None,
        by_betas: bool = False,
    ) -> None:  # fmt: skip
        vertices = torch.arange(len(body.weights)) if vertices is None else vertices
        importance = torch.full((len(vertices),), 1 / len(vertices)) if importance is None else importance
        rows = mesh_basis(body)
        rows = rows[:, vertices]
        self.count, self.width = len(vertices), len(rows)
        self.blocks = []
        corrected = (rows[_SHAPED:] != 0).any(2).T  # [V P]
        for part in _alike(corrected.unflatten(1, (-1, 9)).any(2).numpy()):
            shaped = torch.ones(_SHAPED, dtype=torch.bool)
            columns = torch.cat((shaped, corrected[part].any(0))).nonzero().squeeze(1)
            moved = columns[1 if by_betas else _SHAPED :]
            self.blocks.append(
                LaneBlock(
                    numbers=vertices[part].numpy(),
                    importance=importance[part].numpy(),
                    columns=columns,
                    basis=rows[columns][:, part].flatten(1).T.contiguous(),
                    moved=(moved - 1).numpy(),
                    by_basis=rows[moved][:, part].flatten(1),
                    weights=[values.numpy() for values in sparse(body.weights[vertices[part]])],
                )
            )

    def posed(self, coefficients: torch.Tensor, transforms: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """See `fitting.mesh.BodySurface`."""
        mesh = torch.empty(len(coefficients), self.count, 3, LANES)
        turn = np.zeros((3, 4, LANES), np.float32)
        for block in self.blocks:  # as in a visit: a block's basis stays in the cache
            for c in range(len(mesh)):
                rest = rest_positions(block, coefficients[c])
                skin(
                    rest, block.numbers, transforms[c].numpy(), *block.weights, shift[c].numpy(), turn, mesh[c].numpy()
                )  # fmt: skip
        return mesh

    def visit(
        self, targets: torch.Tensor, posed: Any, correctives: bool, by_basis: torch.Tensor
    ) -> Iterator[tuple[slice, int, Any]]:
        """See `fitting.mesh.BodySurface`. All chunks are taken through a block before the next: its basis stays in a
        core's cache."""
        found = torch.zeros(len(targets), SEEN.itemsize, dtype=torch.uint8)
        meshes, poses, seen = targets.numpy(), posed.memory.numpy().view(POSED)[:, 0], found.numpy().view(SEEN)[:, 0]
        room, pulls = np.empty((_BLOCK, 3, LANES), np.float32), by_basis.zero_().numpy()
        for block in self.blocks:
            pull = room[: len(block.numbers)]
            for c in range(len(meshes)):
                pose = poses[c : c + 1]
                rest = rest_positions(block, torch.from_numpy(pose["coefficients"][0]))
                collapse(
                    rest, meshes[c], block.numbers, block.importance, *block.weights, correctives, pull, pose,
                    seen[c : c + 1],
                )  # fmt: skip
                if correctives and len(block.moved):
                    pulled = product(block.by_basis, torch.from_numpy(pull).view(-1, LANES))
                    take_off(block.moved, pulled.numpy(), pulls[c])
        yield slice(0, len(meshes)), 1, replace(posed, layout=SEEN, memory=found)


def _alike(joints: np.ndarray) -> list[np.ndarray]:
    """Numbers of the vertices in blocks that are corrected by much the same of `joints` [V J].

    Neighbours in the order of their joints are put together for as long as the columns that some of their vertices do
    not need cost less than a block.
    """
    sets, place = np.unique(joints, axis=0, return_inverse=True)
    groups = [np.flatnonzero(place == i) for i in range(len(sets))]
    while len(groups) > 1:
        size, joined = np.array([len(group) for group in groups]), sets[:-1] | sets[1:]
        more = joined.sum(1) * (size[:-1] + size[1:]) - (sets.sum(1) * size)[:-1] - (sets.sum(1) * size)[1:]
        best = int(more.argmin())
        if 9 * more[best] > _BLOCK_COST:
            break
        groups[best : best + 2] = [np.concatenate(groups[best : best + 2])]
        sets = np.concatenate((sets[:best], joined[best : best + 1], sets[best + 2 :]))
    return [np.sort(part) for group in groups for part in np.array_split(group, -(-len(group) // _BLOCK))]


def product(matrix: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """A matrix [M K] times [K L], float32.

    By oneDNN, if torch has it: there AMD's processors take half as long as by MKL, which does not use AVX-512 on them.
    A call takes some 10 us more, so small products go the usual way.
    """
    if matrix.numel() < _LARGE or not torch.backends.mkldnn.is_available():
        return matrix @ columns
    return torch.ops.mkldnn._linear_pointwise(matrix, columns.T, None, "none", [], "")


def rest_positions(block: LaneBlock, coefficients: torch.Tensor) -> np.ndarray:
    """[V 3 L] before posing; `coefficients` [1 + 10 + P, L]."""
    if len(block.columns) < len(coefficients):
        coefficients = coefficients[block.columns]
    return product(block.basis, coefficients).view(-1, 3, LANES).numpy()
