"""Pose SKEL's skeleton for the solver: transforms of the bones, and their derivatives by every dof, in closed form.

The root is left out: the frame is that of the T-pose, in which the pelvis does not turn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.batch import Rows
from hmr_skel.body.dofs import DOFS
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.lbs import blend, chain, picked, relative
from hmr_skel.body.moving_joints import MOVING_JOINTS, moving_offsets, moving_velocities
from hmr_skel.body.rotations import skew
from hmr_skel.body.skel import CORRECTIVE_JOINTS, Skel
from hmr_skel.body.skel_shape import bone_orientation

CORRECTED = [j for j in CORRECTIVE_JOINTS if j >= 0]  # joints whose rotations drive the pose correctives
_PARENT = [max(parent, 0) for parent in SKEL_PARENTS]
_ORDER = [sum(d.joint == dof.joint for d in DOFS[:k]) for k, dof in enumerate(DOFS)]  # among the dofs of its joint


@dataclass(frozen=True)
class Skeleton(Rows):
    """A body's skeleton at rest, which `Kinematics.pose` poses. Any float dtype, m."""

    joints: Tensor  # [B 24 3] J
    offsets: Tensor  # [B 24 3] from the parent
    dof_frame: Tensor  # [B 24 3 3] N = K A^T

    @classmethod
    def of(cls, skel: Skel, betas: Tensor) -> "Skeleton":
        """The skeletons of betas [B 10], in float64, the dtype of the reduced system."""
        joints = skel.joint_template.double() + blend(skel.joint_shapedirs.double(), betas.double())
        offsets = relative(joints, SKEL_PARENTS)
        bones = bone_orientation(offsets, skel.learned_rotmat.double(), skel.apose_offset.double())
        return cls(joints, offsets, bones @ skel.apose_rotmat.double().mT)


@dataclass(frozen=True)
class Pose(Rows):
    """A posed skeleton, with the root at rest, m."""

    local: Tensor  # [B 24 3 3] L
    rotmat: Tensor  # [B 24 3 3] R
    position: Tensor  # [B 24 3] p
    transforms: Tensor  # [B 24 4 4] G, maps a rest point of a bone to its position
    parts: Tensor  # [B 24 3 3 3] axis rotations, first, second, third
    parent_frame: Tensor  # [B 24 3 3] R_parent N


class Kinematics:
    """Poses skeletons, with constants on one device and in one dtype."""

    def __init__(self, axes: Tensor, dof_index: Tensor) -> None:
        """`axes` [24 3 3] and `dof_index` [24 3] are those of `hmr_skel.body.Skel`, by joint and order."""
        length = axes.norm(dim=-1)
        unit = axes / torch.where(length > 0, length, torch.ones_like(length)).unsqueeze(-1)
        self.length = length
        self.unit = unit
        self.skew = skew(unit)  # [24 3 3 3]
        self.skew_squared = self.skew @ self.skew
        self.dof_index = dof_index
        self.dof_order = torch.tensor(_ORDER, device=axes.device)
        # The moving dofs are the first two of their joints, joint by joint.
        self.moving_joints = torch.tensor(MOVING_JOINTS, device=axes.device)
        self.moving_parents = torch.tensor([_PARENT[j] for j in MOVING_JOINTS], device=axes.device)

    def pose(self, q: Tensor, skeleton: Skeleton) -> Pose:
        """Pose a skeleton by q [B 46], whose first three entries are ignored."""
        padded = torch.cat((q, torch.zeros_like(q[:, :1])), 1)
        angle = padded[:, self.dof_index] * self.length  # [B 24 3]
        # Rodrigues with constant axes: I + sin [u]x + (1 - cos) [u]x^2.
        parts = angle.sin()[..., None, None] * self.skew
        parts = parts + (2 * (angle / 2).sin() ** 2)[..., None, None] * self.skew_squared
        parts.diagonal(dim1=-2, dim2=-1).add_(1)
        product = parts[:, :, 2] @ parts[:, :, 1] @ parts[:, :, 0]
        local = skeleton.dof_frame @ product @ skeleton.dof_frame.mT
        local[:, 0] = torch.eye(3, dtype=q.dtype, device=q.device)
        step = skeleton.offsets + moving_offsets(q, skeleton.joints)
        rotmat, position = chain(local, step, SKEL_PARENTS)
        transforms = torch.zeros(*local.shape[:2], 4, 4, dtype=q.dtype, device=q.device)
        transforms[..., :3, :3] = rotmat
        transforms[..., :3, 3] = position - (rotmat @ skeleton.joints.unsqueeze(-1)).squeeze(-1)
        transforms[..., 3, 3] = 1
        return Pose(local, rotmat, position, transforms, parts, picked(rotmat, _PARENT, 1) @ skeleton.dof_frame)

    def twists(self, q: Tensor, skeleton: Skeleton, pose: Pose) -> Tensor:
        """The motion that each dof gives to the points below its joint, p' = [w]x p + u with u = t - w x p_joint, as
        [[w]x | u] [B 24 3 3 4] by joint and order; zero for orders that a joint lacks.

        t is the motion of the joint itself, for spine and scapulae.
        """
        third = self.unit[:, 2].expand(len(q), -1, -1)
        second = (pose.parts[:, :, 2] @ self.unit[:, 1].unsqueeze(-1)).squeeze(-1)
        first = (pose.parts[:, :, 2] @ (pose.parts[:, :, 1] @ self.unit[:, 0].unsqueeze(-1))).squeeze(-1)
        axis = torch.stack((first, second, third), -1) * self.length.unsqueeze(-2)  # [B 24 xyz order]
        axis = (pose.parent_frame @ axis).mT  # [B 24 order xyz]
        parents = pose.rotmat[:, self.moving_parents]
        velocity = torch.zeros_like(axis)
        glide = moving_velocities(q, skeleton.joints).unflatten(1, (5, 2))
        velocity[:, self.moving_joints, :2] = glide @ parents.mT
        linear = velocity - torch.linalg.cross(axis, pose.position.unsqueeze(2).expand_as(axis), dim=-1)
        return torch.cat((skew(axis), linear.unsqueeze(-1)), -1)
