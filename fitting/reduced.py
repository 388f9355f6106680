"""The problem without its mesh: energy, gradient and Gauss-Newton matrix over the dofs, from moments alone.

With rest vertices held, every skinned vertex is linear in the bone transforms G, so the squared distances are
    E(G) = E_0 + sum_mn tr(D_m M_mn D_n^T) - 2 sum_m tr(D_m B'_m),   D = G - G_0,
with the moments taken at G_0. A dof turns the points below its joint by one twist, so gradient and matrix are sums of
M over pairs of subtrees: no vertex is visited, and no Jacobian is formed. Energies are halved in derivatives
throughout: `gradient` is dE/2, `hessian` d2E/2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.kinematics import Kinematics, Pose, Skeleton
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_PARENTS, subtree


class MovingPart:
    """The dofs that a stage moves, their joints, and who hangs below whom. On one device."""

    def __init__(self, dofs: list[int], kinematics: Kinematics) -> None:
        device = kinematics.unit.device
        joints = sorted({DOF_JOINTS[k] for k in dofs})
        self.dofs = torch.tensor(dofs, device=device)
        self.joints = torch.tensor(joints, device=device)
        self.bones = sorted({bone for joint in joints for bone in subtree(SKEL_PARENTS, joint)})
        # Each joint has room for three dofs; `slots` are those in use.
        self.slots = torch.tensor(
            [3 * joints.index(DOF_JOINTS[k]) + int(kinematics.dof_order[k]) for k in dofs], device=device
        )
        below = torch.zeros(len(joints), 24, device=device)
        for row, joint in enumerate(joints):
            below[row, subtree(SKEL_PARENTS, joint)] = 1
        self.below = below  # [J 24]


@dataclass(frozen=True)
class ReducedProblem:
    """One refresh's quadratic in D, with the prior. Rows are independent throughout."""

    part: MovingPart
    kinematics: Kinematics
    skeleton: Skeleton
    first: Tensor  # [P] bone pairs of `second_moments`
    second: Tensor  # [P]
    second_moments: Tensor  # [B P 4 4] M_mn, float32
    second_moments_exact: Tensor  # the same in the solver's dtype, for energies and gradients
    cross: Tensor  # [B 24 4 3] B'
    start: Tensor  # [B 24 4 4] G_0
    energy_start: Tensor  # [B] E_0 without the prior
    prior: Tensor  # [D] weight over squared scale, per dof of the part

    def __getitem__(self, rows: Tensor) -> "ReducedProblem":
        return ReducedProblem(
            self.part, self.kinematics, self.skeleton[rows], self.first, self.second, self.second_moments[rows],
            self.second_moments_exact[rows], self.cross[rows], self.start[rows], self.energy_start[rows], self.prior,
        )  # fmt: skip

    def pose(self, q: Tensor) -> Pose:
        return self.kinematics.pose(q, self.skeleton)

    def energy(self, q: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        """E [B] and its derivative by the transforms, halved, [B 24 3 4]."""
        moved = (pose.transforms - self.start)[:, :, :3]  # D
        # sum_n M_mn D_n^T, pairs m < n serving both ways.
        across = self.second_moments_exact @ moved[:, self.second].mT
        pull = torch.zeros_like(self.cross)
        pull.index_add_(1, self.first, across)
        off = self.first != self.second
        back = self.second_moments_exact[:, off].mT @ moved[:, self.first[off]].mT
        pull.index_add_(1, self.second[off], back)
        force = pull - self.cross
        values = (moved.mT * (force - self.cross)).flatten(1).sum(1)
        free = q[:, self.part.dofs]
        prior = (self.prior * free.square()).sum(1)
        return self.energy_start + values + prior, force.mT

    def derivatives(self, q: Tensor, pose: Pose, force: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [B D] and Gauss-Newton matrix [B D D] over the part's dofs, both halved."""
        part = self.part
        twists = self.kinematics.twists(q, self.skeleton, pose)[:, part.joints]  # [B J 3 3 4]
        wrench = part.below.to(force) @ (force @ pose.transforms.mT).flatten(2)  # [B J 12]
        gradient = (twists.flatten(3) * wrench.unsqueeze(2)).sum(-1).flatten(1)[:, part.slots]
        gradient = gradient + self.prior * q[:, part.dofs]
        hessian = self._hessian(twists.float(), pose.transforms.float()).to(q.dtype)
        hessian.diagonal(dim1=-2, dim2=-1).add_(self.prior)
        return gradient, hessian

    def _hessian(self, twists: Tensor, transforms: Tensor) -> Tensor:
        part, batch, count = self.part, len(twists), len(self.part.joints)
        world = transforms[:, self.first] @ self.second_moments @ transforms[:, self.second].mT  # Q [B P 4 4]
        dense = torch.zeros(batch, 24, 24, 16, dtype=world.dtype, device=world.device)
        dense[:, self.first, self.second] = world.flatten(2)
        dense[:, self.second, self.first] = world.mT.flatten(2)
        # C_jl: sums over pairs of subtrees, first over one side, then over the other.
        half = (part.below @ dense.flatten(2)).unflatten(2, (24, 16))
        sums = part.below @ half  # [B J(j) J(l) 16]
        sums = sums.unflatten(3, (4, 4)).transpose(2, 3).flatten(3)  # [B j c (l d)]
        left = twists.flatten(2, 3) @ sums  # [B j (order i) (l d)]
        left = left.unflatten(2, (3, 3)).unflatten(4, (count, 4))  # [B j order i l d]
        left = left.permute(0, 4, 1, 2, 3, 5).flatten(4).flatten(2, 3)  # [B l (j order) (i d)]
        hessian = left @ twists.flatten(3).mT  # [B l (j order) order']
        hessian = hessian.permute(0, 2, 1, 3).flatten(2)
        return hessian[:, part.slots][:, :, part.slots]
