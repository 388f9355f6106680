"""The part of the mesh that a stage looks at: SKEL's posed vertices there, and their distances collapsed to moments.

All per-vertex work of the fit is here, in float32, laid out [B, 3, V] so that every contraction is one matrix product.
On a CPU the vertices are taken in blocks, all rows of the batch at once: a block's basis is then read from memory once
per batch, and what it produces stays in the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.kinematics import Pose
from hmr_skel.body.lbs import picked
from hmr_skel.body.skel import CORRECTIVE_JOINTS, Skel
from hmr_skel.body.smpl import Smpl

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

    def __init__(self, model: Smpl | Skel, vertices: Tensor | None = None) -> None:
        rows = torch.cat((model.template.flatten()[None], model.shapedirs, model.posedirs)).unflatten(-1, (-1, 3))
        weights = model.weights
        if vertices is not None:
            rows, weights = rows[:, vertices], weights[vertices]
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
        eye = torch.eye(3, dtype=local.dtype, device=local.device)
        coefficients = torch.cat((torch.ones_like(betas[:, :1]), betas, (local - eye).flatten(1)), 1)
        flat = transforms.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
        for vertices, basis, weights in self.blocks:
            rest = (coefficients @ basis).unflatten(-1, (3, -1))
            blended = (flat @ weights).unflatten(0, (-1, 3, 4))
            posed = blended[:, :, 3]
            for k in range(3):
                posed = torch.addcmul(posed, blended[:, :, k], rest[:, None, k])
            yield PosedBlock(vertices, basis, rest, posed, blended[:, :, :3])


@dataclass(frozen=True)
class Moments:
    """A visit to the vertices: the error there, and all that the reduced system needs to know of it."""

    energy: Tensor  # [B] sum_v c_v |y_v - v_v|^2, m^2
    cross: Tensor  # [B 24 4 3] B'_m = sum_v c_v w_vm [x; 1] (y - v)^T
    squared: Tensor  # [B V] |y_v - v_v|^2, m^2
    corrective: Tensor | None  # [B S 3 3] dE/2 by the local rotations that drive the S pose correctives, if asked for
    shape: Tensor | None  # [B 10] dE/2 by the betas, the bones held, if asked for


class Surface:
    """Some of SKEL's vertices, with the weight of each in the objective (they sum to 1)."""

    def __init__(self, skel: Skel, vertices: Tensor, importance: Tensor) -> None:
        self.vertices = vertices
        self.whole = len(vertices) == len(skel.weights)
        self.importance = importance
        self.blend = Blend(skel, vertices)
        self.weighted = (skel.weights[vertices] * importance[:, None]).contiguous()  # [V 24]

    def visit(
        self, target: Tensor, betas: Tensor, pose: Pose, correctives: bool = False, shape: bool = False
    ) -> Moments:
        """Moments of the residuals at a pose; with `correctives` how E changes through the pose correctives, and with
        `shape`, which goes with them, through the betas.

        `target` [B 3 V] and `betas` are float32, the pose any dtype.
        """
        cross, squared, feature = [], [], []
        first = 1 if shape else 11  # of the basis
        transforms = pose.transforms[..., :3, :].float()
        for part in self.blend.posed(betas, picked(pose.local, CORRECTED, 1).float(), transforms):
            numbers = part.vertices
            residual = target[:, :, numbers] - part.posed
            squared.append(residual.square().sum(1))
            # One product over vertices: rows are the 12 entries of [x; 1] r^T.
            lever = part.rest[:, :, None] * residual[:, None]
            terms = torch.cat((lever.flatten(1, 2), residual), 1).flatten(0, 1)
            cross.append(terms @ self.weighted[numbers])
            if correctives:
                pull = (part.rotations * residual[:, :, None]).sum(1) * self.importance[numbers]
                feature.append(-pull.flatten(1) @ part.basis[first:].T)
        dtype = pose.rotmat.dtype
        distances = torch.cat(squared, -1)
        moments = torch.stack(cross).sum(0).unflatten(0, (-1, 4, 3)).permute(0, 3, 1, 2)
        by_basis = torch.stack(feature).sum(0) if correctives else distances.new_zeros(len(distances), 0)
        return Moments(
            energy=(distances.double() @ self.importance.double()).to(dtype),
            cross=moments.to(dtype),
            squared=distances,
            corrective=by_basis[:, 11 - first :].unflatten(1, (-1, 3, 3)).to(dtype) if correctives else None,
            shape=by_basis[:, :10].to(dtype) if shape else None,
        )


def spread(parts: Tensor, count: int) -> Tensor:
    """`count` vertices spread evenly over the bones, as sorted numbers into `parts` [V] (a bone number per vertex).

    Vertices are ordered by bone and every n-th is taken, so that each bone keeps its share.
    """
    order = torch.argsort(parts, stable=True)
    picked = torch.linspace(0, len(order) - 1, count, dtype=torch.float64).round().long()
    return order[picked.to(order.device)].unique()
