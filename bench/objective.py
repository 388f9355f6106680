"""The objective E of a fit in float64, straight from the body models: what the solver's result is judged by.

A second way to the same numbers: nothing of the solver is used (no moments, no twists, no closed form of a derivative).
SKEL itself poses the mesh, and automatic differentiation gives the true Jacobian, pose correctives included.
Both roots are set to the identity, which changes no distance: SKEL's translation is then d, the mean offset of the
T-poses.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fitting.model import FitModel
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.lbs import bone_transforms, chain, picked
from hmr_skel.body.moving_joints import moving_offsets
from hmr_skel.body.skel import CORRECTIVE_JOINTS, Skel
from hmr_skel.body.skel_shape import SkelShape
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams
from hmr_skel.shapes import Float, Int

_BODY = slice(3, 46)
_CORRECTIVES = [j for j in CORRECTIVE_JOINTS if j >= 0]
# Per joint that drives correctives: its nine features, and its dofs (consecutive) in a body's 43.
_CORRECTED = [
    (slice(9 * i, 9 * i + 9), slice(DOF_JOINTS.index(joint) - 3, DOF_JOINTS.index(joint) - 3 + DOF_JOINTS.count(joint)))
    for i, joint in enumerate(_CORRECTIVES)
]
_SIZES = (24 * 12, 19 * 9, 24 * 3)  # bone transforms, features of the correctives, joints
# Bytes of one Jacobian that are worked on at once.
_CHUNK_BYTES = 60e6


@dataclass(frozen=True)
class Objective:
    """E of [N] rows as a sum of squares, on the CPU: weights, targets and shapes. Metres, radians, float64."""

    skel: Skel  # of the vertices that count
    shape: SkelShape  # [N]
    transl: Float[Tensor, "N 3"]  # d
    target: Float[Tensor, "N V 3"]
    target_joints: Float[Tensor, "N 24 3"]
    vertex_weight: Float[Tensor, "V"]
    joint_weight: Float[Tensor, "24"]
    prior: Float[Tensor, "43"]
    low: Float[Tensor, "43"]
    high: Float[Tensor, "43"]

    @classmethod
    def of(cls, params: SmplParams, skel_betas: Float[Tensor, "N 10"], smpl: Smpl, model: FitModel) -> "Objective":
        """What the last stage of `model` minimises for these rows at these SKEL betas. `smpl` poses the targets."""
        stage = model.stages[-1]
        smpl, skel = copy.deepcopy(smpl).cpu().double(), copy.deepcopy(model.skel).cpu().double()
        params, skel_betas = params.to("cpu", torch.float64), skel_betas.to("cpu", torch.float64)
        zero = torch.zeros_like(params.transl)
        target = smpl(zero, params.body_pose, params.betas, zero).vertices
        shape = skel.prepare_shape(skel_betas)
        weight = torch.zeros(len(skel.weights), dtype=torch.float64)
        weight[stage.vertices.cpu()] = stage.importance.cpu().double()
        return cls(
            skel=skel,
            shape=shape,
            transl=smpl.shaped(params.betas)[0].mean(1) - shape.rest.mean(1),
            target=target,
            target_joints=skel.joint_regressor @ target,
            vertex_weight=weight,
            joint_weight=stage.joint_importance.cpu().double(),
            prior=stage.prior.cpu().double(),
            low=model.low[_BODY].cpu(),
            high=model.high[_BODY].cpu(),
        )

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: Tensor | slice) -> "Objective":
        shape = SkelShape(*(getattr(self.shape, name)[rows] for name in SkelShape.__dataclass_fields__))
        names = ("transl", "target", "target_joints")
        return replace(self, shape=shape, **{name: getattr(self, name)[rows] for name in names})

    def coarse(self, vertices: Int[Tensor, "K"]) -> "Objective":
        """The same with fewer vertices, each standing for its share of the others of its bone: to look around."""
        bone = self.skel.weights.argmax(1)
        share = torch.zeros(24, dtype=torch.float64).index_add(0, bone, self.vertex_weight)
        chosen = torch.zeros(24, dtype=torch.float64).index_add(0, bone[vertices], self.vertex_weight[vertices])
        weight = self.vertex_weight[vertices] * (share / chosen.clamp_min(1e-30))[bone[vertices]]
        shape = replace(self.shape, rest=self.shape.rest[:, vertices])
        return replace(
            self,
            skel=self.skel.at_vertices(vertices),
            shape=shape,
            target=self.target[:, vertices],
            vertex_weight=weight,
        )

    def residuals(self, q: Float[Tensor, "N 43"]) -> Float[Tensor, "N M"]:
        """The square roots of E's terms: E is the sum of their squares."""
        posed = self.skel.pose(torch.cat((torch.zeros_like(q[:, :3]), q), 1), self.shape, self.transl)
        vertices = (posed.vertices - self.target) * self.vertex_weight.sqrt()[:, None]
        joints = (posed.joints - self.target_joints) * self.joint_weight.sqrt()[:, None]
        return torch.cat((vertices.flatten(1), joints.flatten(1), q * self.prior.sqrt()), 1)

    def energy(self, q: Float[Tensor, "N 43"]) -> Float[Tensor, "N"]:
        """E, m^2."""
        return torch.cat([self[part].residuals(q[part]).square().sum(1) for part in self._passes()])

    def derivatives(self, q: Float[Tensor, "N 43"]) -> tuple[Tensor, Tensor, Tensor]:
        """E [N], half its true gradient [N 43], and J^T J [N 43 43], J the true Jacobian of the residuals."""
        found = [self[part]._derivatives(q[part]) for part in self._passes()]
        energy, gradient, hessian = (torch.cat(values) for values in zip(*found, strict=True))
        return energy, gradient, hessian

    def _derivatives(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The skeleton is differentiated automatically; the mesh is bilinear in transforms and correctives."""

        def along(direction: Tensor) -> Tensor:
            return torch.func.jvp(self._skeleton, (q,), (direction.expand_as(q),))[1]

        weights, count = self.skel.weights, q.shape[1]
        with warnings.catch_warnings():
            # torch's own forward derivatives still load a part of it that torch calls deprecated.
            warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
            by_dof = torch.func.vmap(along)(torch.eye(count, dtype=q.dtype)).permute(1, 2, 0)  # [N 531 43]
        transforms, feature, _ = self._skeleton(q).split(_SIZES, 1)
        by_transforms, by_feature, by_joints = by_dof.split(_SIZES, 1)
        rest = self.shape.rest + (feature @ self.skel.posedirs).unflatten(1, (-1, 3))
        rotmats = (weights @ transforms.unflatten(1, (24, 12))).unflatten(2, (3, 4))[..., :3]  # [N V 3 3]
        points = torch.cat((rest, torch.ones_like(rest[..., :1])), -1)
        levers = weights.unsqueeze(-1) * points.unsqueeze(2)  # [N V 24 4]
        moved = by_transforms.unflatten(1, (24, 3, 4)).transpose(2, 3).flatten(3).flatten(1, 2)  # [N (24 4) (3 43)]
        mesh = (levers.flatten(2) @ moved).unflatten(2, (3, count))  # [N V 3 43]
        for part, columns in _CORRECTED:  # a joint's rotation, and so its correctives, depends on its own dofs alone
            bent = self.skel.posedirs[part].mT @ by_feature[:, part, columns]
            mesh[..., columns] += rotmats @ bent.unflatten(1, (-1, 3))
        mesh *= self.vertex_weight.sqrt()[:, None, None]
        joints = by_joints * self.joint_weight.sqrt().repeat_interleave(3)[:, None]
        prior = torch.diag(self.prior.sqrt()).expand(len(q), -1, -1)
        jacobian = torch.cat((mesh.flatten(1, 2), joints, prior), 1)  # [N M 43]
        residuals = self.residuals(q)
        gradient = (jacobian.mT @ residuals.unsqueeze(-1)).squeeze(-1)
        return residuals.square().sum(1), gradient, jacobian.mT @ jacobian

    def _skeleton(self, q: Tensor) -> Tensor:
        """What the mesh is linear in: bone transforms, the features of the correctives, and joints. [N 531]"""
        q = torch.cat((torch.zeros_like(q[:, :3]), q), 1)
        local = self.skel.local_rotmat(q, self.shape)
        rotmat, position = chain(local, self.shape.offsets + moving_offsets(q, self.shape.joints), SKEL_PARENTS)
        transforms = bone_transforms(rotmat, position, self.shape.joints)
        feature = picked(local, _CORRECTIVES, 1) - torch.eye(3, dtype=q.dtype)
        return torch.cat((transforms.flatten(1), feature.flatten(1), position.flatten(1)), 1)

    def v2v_mm(self, q: Float[Tensor, "N 43"]) -> Float[Tensor, "N"]:
        """Mean distance of all vertices to the target."""
        return torch.cat([self[part].distances_mm(q[part]).mean(1) for part in self._passes()])

    def distances_mm(self, q: Float[Tensor, "N 43"]) -> Float[Tensor, "N V"]:
        posed = self.skel.pose(torch.cat((torch.zeros_like(q[:, :3]), q), 1), self.shape, self.transl)
        return (posed.vertices - self.target).norm(dim=-1) * 1000

    def _passes(self) -> Iterator[slice]:
        size = max(int(_CHUNK_BYTES / (43 * 8 * 3 * len(self.vertex_weight))), 1)
        return (slice(first, first + size) for first in range(0, len(self), size))
