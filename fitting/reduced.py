"""The problem without its mesh: energy, gradient and Gauss-Newton matrix over the dofs, from moments alone.

With rest vertices held, every skinned vertex is linear in the bone transforms G, so the squared distances are
    E(G) = E_0 + sum_mn tr(D_m M_mn D_n^T) - 2 sum_m tr(D_m B'_m),   D = G - G_0,
with the moments taken at G_0. A dof turns the points below its joint by one twist, so gradient and matrix are sums of
M over pairs of subtrees: no vertex is visited, and no Jacobian is formed. Energies are halved in derivatives
throughout: `gradient` is dE/2, `hessian` d2E/2.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fitting.batch import Rows
from fitting.kinematics import Kinematics, Pose, Skeleton, Twists
from fitting.stages import BonePairs, MovingPart
from fitting.surface import CORRECTED
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.lbs import picked
from hmr_skel.body.moving_joints import moving_curvatures


@dataclass(frozen=True)
class ReducedProblem(Rows):
    """One refresh's quadratic in D, with the prior. Rows are independent throughout."""

    SHARED: ClassVar[tuple[str, ...]] = ("part", "kinematics", "pairs", "prior")

    part: MovingPart
    kinematics: Kinematics
    skeleton: Skeleton
    pairs: BonePairs
    second_moments: Tensor  # [B P 4 4] M_mn, float32
    second_moments_exact: Tensor  # the same in the solver's dtype, for energies and gradients
    cross: Tensor  # [B 24 4 3] B'
    start: Tensor  # [B 24 4 4] G_0
    energy_start: Tensor  # [B] E_0 without the prior
    prior: Tensor  # [D] weight over squared scale, per dof of the part
    anchor: Tensor  # [B 46] q where the moments were taken
    tilt: Tensor | None = None  # [B D] dE/2 there through the pose correctives, which D leaves out
    bend: Tensor | None = None  # [B D D] what earlier visits taught about the second derivative

    def pose(self, q: Tensor) -> Pose:
        return self.kinematics.pose(q, self.skeleton)

    def energy(self, q: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        """E [B] and its derivative by the transforms, halved, [B 24 3 4]."""
        moved = (pose.transforms - self.start)[:, :, :3]  # D
        # sum_n M_mn D_n^T; a pair m < n counts for both bones.
        across = self.second_moments_exact @ moved[:, self.pairs.second].mT
        pull = torch.zeros_like(self.cross)
        pull.index_add_(1, self.pairs.first, across)
        apart = self.pairs.apart
        back = self.second_moments_exact[:, apart].mT @ moved[:, self.pairs.first[apart]].mT
        pull.index_add_(1, self.pairs.second[apart], back)
        force = pull - self.cross
        values = (moved.mT * (force - self.cross)).flatten(1).sum(1)
        free = q[:, self.part.dofs]
        prior = (self.prior * free.square()).sum(1)
        return self.energy_start + values + prior + 2 * (self._added(q) * self._moved(q)).sum(1), force.mT

    def _moved(self, q: Tensor) -> Tensor:
        return (q - self.anchor)[:, self.part.dofs]

    def _added(self, q: Tensor, share: float = 0.5) -> Tensor:
        """What tilt and bend add: with half of the bend to the energy (per move, halved), with all to the gradient."""
        added = torch.zeros_like(self._moved(q)) if self.tilt is None else self.tilt
        if self.bend is not None:
            added = added + share * (self.bend @ self._moved(q).unsqueeze(-1)).squeeze(-1)
        return added

    def gradient(self, q: Tensor, pose: Pose, force: Tensor) -> tuple[Tensor, Twists, Tensor]:
        """dE/2 over the part's dofs [B D]; with it the twists of the dofs and the wrenches on the joints [B J 3 4]."""
        part = self.part
        twists = self.kinematics.twists(q, self.skeleton, pose)
        wrench = part.below.to(force) @ (force @ pose.transforms.mT).flatten(2)
        gradient = (twists.matrix[:, part.joints].flatten(3) * wrench.unsqueeze(2)).sum(-1).flatten(1)[:, part.slots]
        gradient = gradient + self.prior * q[:, part.dofs] + self._added(q, share=1.0)
        return gradient, twists, wrench.unflatten(2, (3, 4))

    def matrices(self, q: Tensor, pose: Pose, twists: Twists, wrench: Tensor) -> tuple[Tensor, Tensor]:
        """The Gauss-Newton matrix [B D D] and what Newton's adds to it [B D D], both halved."""
        part = self.part
        motion = twists.matrix[:, part.joints]
        gauss_newton = self.pairs.gauss_newton(motion.float(), pose.transforms.float(), self.second_moments).to(q.dtype)
        gauss_newton.diagonal(dim1=-2, dim2=-1).add_(self.prior)
        # The second derivative of a point by an outer and an inner dof is the outer axis cross the inner velocity: one
        # product of axes with moments of the force gives them all.
        moment = torch.linalg.cross(motion, wrench.unsqueeze(2).expand_as(motion), dim=-2).sum(-1)
        axes = twists.axis[:, part.joints].flatten(1, 2)[:, part.slots]
        half = (axes @ moment.flatten(1, 2)[:, part.slots].mT) * part.outer
        # A dof does not turn the glide of its own joint; that glide is curved itself.
        pull = wrench[..., 3]
        glide = twists.velocity[:, part.joints]
        glide = torch.linalg.cross(glide, pull.unsqueeze(2).expand_as(glide), dim=-1).flatten(1, 2)[:, part.slots]
        half = half - (axes @ glide.mT) * part.outer_own
        curvature = half + half.mT
        curvature.diagonal(dim1=-2, dim2=-1).mul_(0.5)
        curve = moving_curvatures(q, self.skeleton.joints)[:, part.moving]
        towards = (twists.moving_parents[:, part.moving].mT @ pull[:, part.moving_rows].unsqueeze(-1)).squeeze(-1)
        own = (curve * towards[:, :, None, None]).sum(-1)
        curvature[:, part.moving_slots[:, :, None], part.moving_slots[:, None, :]] += own
        if self.bend is not None:
            curvature = curvature + self.bend
        return gauss_newton, curvature

    def corrective_tilt(self, q: Tensor, pose: Pose, by_rotation: Tensor) -> Tensor:
        """dE/2 over the part's dofs [B D] from dE/2 over the local rotations [B S 3 3] of the joints `CORRECTED`."""
        axes = picked(self.kinematics.twists(q, self.skeleton, pose).axis, CORRECTED, 1)
        axes = axes @ picked(pose.rotmat, [SKEL_PARENTS[j] for j in CORRECTED], 1)  # in the parent's frame
        turn = torch.linalg.cross(picked(pose.local, CORRECTED, 1), by_rotation, dim=-2).sum(-1)
        tilt = (axes @ turn.unsqueeze(-1)).squeeze(-1)
        none = torch.zeros_like(tilt[:, 0])
        tilt = torch.stack([tilt[:, CORRECTED.index(j)] if j in CORRECTED else none for j in range(24)], 1)
        return tilt[:, self.part.joints].flatten(1)[:, self.part.slots]
