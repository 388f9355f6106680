"""The part of the mesh that a stage looks at, and SKEL's vertices posed in torch, for `fitting.refine`.

Vertices are float32, laid out [B, 3, V] so that every contraction is one matrix product. On a CPU they are taken in
blocks, all rows of the batch at once: a block's basis is then read from memory once per batch, and what it produces
stays in the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.mesh import mesh_basis, mesh_coefficients
from hmr_skel.body.skel import CORRECTIVE_JOINTS, Skel

CORRECTED = [j for j in CORRECTIVE_JOINTS if j >= 0]  # SKEL joints whose rotations drive the correctives
_CPU_BLOCK = 576  # vertices


@dataclass(frozen=True)
class PosedBlock:
    """Some vertices of a body in a pose: at rest, posed [B 3 V], and the rotations between the two [B 3 3 V]."""

    vertices: slice
    basis: Tensor  # [1 + 10 + P, 3V] template, shape directions, pose correctives; columns ordered xyz, then vertex
    rest: Tensor
    posed: Tensor
    rotations: Tensor


class Blend:
    """Linear blend skinning of some vertices of a body, block by block."""

    def __init__(self, skel: Skel, vertices: Tensor) -> None:
        rows, weights = mesh_basis(skel)[:, vertices], skel.weights[vertices]
        self.count = len(weights)
        size = _CPU_BLOCK if weights.device.type == "cpu" else self.count
        self.blocks = []  # of vertices, basis, weights [24 V]
        for first in range(0, self.count, size):
            part = slice(first, min(first + size, self.count))
            basis = rows[:, part].transpose(1, 2).flatten(1).contiguous()
            self.blocks.append((part, basis, weights[part].T.contiguous()))

    def posed(self, betas: Tensor, local: Tensor, transforms: Tensor) -> Iterator[PosedBlock]:
        """The blocks, posed.

        Args:
            betas: [B 10].
            local: [B P/9 3 3] local rotations that drive the pose correctives.
            transforms: [B 24 3 4] of the bones.
        """
        coefficients = mesh_coefficients(betas, local)
        flat = transforms.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
        for vertices, basis, weights in self.blocks:
            rest = (coefficients @ basis).unflatten(-1, (3, -1))
            blended = (flat @ weights).unflatten(0, (-1, 3, 4))
            posed = blended[:, :, 3]
            for k in range(3):
                posed = torch.addcmul(posed, blended[:, :, k], rest[:, None, k])
            yield PosedBlock(vertices, basis, rest, posed, blended[:, :, :3])


class Surface:
    """Some of SKEL's vertices, with the weight of each in the objective (they sum to 1)."""

    def __init__(self, skel: Skel, vertices: Tensor, importance: Tensor) -> None:
        self.vertices = vertices
        self.whole = len(vertices) == len(skel.weights)
        self.importance = importance


def spread(parts: Tensor, count: int) -> Tensor:
    """`count` vertices spread evenly over the bones, as sorted numbers into `parts` [V] (a bone number per vertex).

    Vertices are ordered by bone and every n-th is taken, so that each bone keeps its share.
    """
    order = torch.argsort(parts, stable=True)
    picked = torch.linspace(0, len(order) - 1, count, dtype=torch.float64).round().long()
    return order[picked.to(order.device)].unique()
