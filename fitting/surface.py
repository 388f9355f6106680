"""The part of the mesh that a stage looks at: SKEL's posed vertices there, and their distances collapsed to moments.

All per-vertex work of the fit is here, in float32, laid out [B, 3, V] so that every contraction is one matrix product.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.kinematics import Pose
from hmr_skel.body.skel import CORRECTIVE_JOINTS, Skel
from hmr_skel.body.smpl import Smpl

_SLOTS = [j for j in CORRECTIVE_JOINTS if j >= 0]


@dataclass(frozen=True)
class Blend:
    """A linear basis of rest vertices and the skin weights of some vertices of a body.

    `basis` [1 + 10 + P, 3V]: template, shape directions, pose correctives, columns ordered xyz then vertex.
    `weights` [24 V].
    """

    basis: Tensor
    weights: Tensor

    @classmethod
    def of(cls, model: Smpl | Skel, vertices: Tensor | None = None) -> "Blend":
        rows = torch.cat((model.template.flatten()[None], model.shapedirs, model.posedirs)).unflatten(-1, (-1, 3))
        weights = model.weights
        if vertices is not None:
            rows, weights = rows[:, vertices], weights[vertices]
        return cls(rows.transpose(1, 2).flatten(1).contiguous(), weights.T.contiguous())

    def rest(self, betas: Tensor, feature: Tensor) -> Tensor:
        """Rest vertices with correctives [B 3 V] of betas [B 10] and the pose feature [B P]."""
        ones = torch.ones_like(betas[:, :1])
        return (torch.cat((ones, betas, feature), 1) @ self.basis).unflatten(-1, (3, -1))

    def skin(self, rest: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
        """Posed vertices [B 3 V] and the blended rotations [B 3 3 V] of bone transforms [B 24 3 4]."""
        flat = transforms.permute(0, 2, 3, 1).flatten(0, 2)
        blended = (flat @ self.weights).unflatten(0, (-1, 3, 4))
        posed = blended[:, :, 3]
        for k in range(3):
            posed = torch.addcmul(posed, blended[:, :, k], rest[:, None, k])
        return posed, blended[:, :, :3]


@dataclass(frozen=True)
class Moments:
    """A visit to the vertices: the error there, and all that the reduced system needs to know of it."""

    energy: Tensor  # [B] sum_v c_v |y_v - v_v|^2, m^2
    cross: Tensor  # [B 24 4 3] B'_m = sum_v c_v w_vm [x; 1] (y - v)^T


class Surface:
    """Some of SKEL's vertices, with the weight of each in the objective (they sum to 1)."""

    def __init__(self, skel: Skel, vertices: Tensor, importance: Tensor) -> None:
        self.vertices = vertices
        self.whole = len(vertices) == len(skel.weights)
        self.importance = importance
        self.blend = Blend.of(skel, vertices)
        self.weighted = (self.blend.weights * importance).T.contiguous()  # [V 24]

    def visit(self, target: Tensor, betas: Tensor, pose: Pose) -> Moments:
        """Moments of the residuals at a pose. `target` [B 3 V] and `betas` are float32, the pose any dtype."""
        rest, posed = self._posed(betas, pose)
        residual = target - posed
        energy = (residual.square().sum(1) @ self.importance).to(pose.rotmat.dtype)
        # One product over vertices: rows are the 12 entries of [x; 1] r^T.
        lever = (rest[:, :, None] * residual[:, None]).flatten(1, 2)
        cross = torch.cat((lever, residual), 1).flatten(0, 1) @ self.weighted
        return Moments(energy, cross.unflatten(0, (-1, 4, 3)).permute(0, 3, 1, 2).to(pose.rotmat.dtype))

    def residual(self, target: Tensor, betas: Tensor, pose: Pose) -> Tensor:
        """y - v, [B 3 V]."""
        return target - self._posed(betas, pose)[1]

    def _posed(self, betas: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        local = pose.local[:, _SLOTS].float()
        feature = (local - torch.eye(3, device=local.device)).flatten(1)
        rest = self.blend.rest(betas, feature)
        return rest, self.blend.skin(rest, pose.transforms[..., :3, :].float())[0]


def spread(parts: Tensor, count: int) -> Tensor:
    """`count` vertices spread evenly over the bones, as sorted numbers into `parts` [V] (a bone number per vertex).

    Vertices are ordered by bone and every n-th is taken, so that each bone keeps its share.
    """
    order = torch.argsort(parts, stable=True)
    picked = torch.linspace(0, len(order) - 1, count, dtype=torch.float64).round().long()
    return order[picked.to(order.device)].unique()
