"""The target of a fit: the annotated SMPL mesh in the frame in which SKEL's pelvis is at rest.

The roots of both bodies are tied in closed form, so the fit does not depend on global orientation and translation. With
p_skel = R (v - J_0) + J_0 + transl_skel and the translation of `root_transl`, the distance of two vertices in the world
is that of v and y - d, with y the SMPL mesh without global orientation and d the mean offset of the T-poses.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fitting.batch import Rows
from fitting.kinematics import Skeleton
from fitting.mesh import Mesher, Placed
from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.lbs import blend, bone_transforms, chain, relative
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams


@dataclass(frozen=True)
class Target(Rows):
    """The targets of a batch, float32, m. The frame is SKEL's pelvis, or the world for names with `world`."""

    vertices: Any  # a `Mesh`; None when no longer needed
    anatomical_joints: Tensor  # [B 24 3] SKEL's joint regressor on the target mesh
    rotmat: Tensor  # [B 24 3 3] world rotations of SMPL's bones, without the global orientation
    global_rotmat: Tensor  # [B 3 3] SMPL's root, as annotated
    pelvis: Tensor  # [B 3] SMPL's root joint at rest
    offset: Tensor  # [B 3] d
    joints_world: Tensor  # [B 24 3] SMPL's joints as annotated
    points_world: Tensor | None  # [B K 3] the requested points of the annotated mesh

    def moved(self, rotmat: Tensor, shift: Tensor) -> "Target":
        """The same annotation for a SKEL whose pelvis is turned by R `rotmat` [B 3 3] and moved by s `shift` [B 3].

        Fitting the body R v + s to y means fitting v to R^T (y - s). In the world, SKEL's root is then that of an
        annotation with the global orientation times R and the offset R^T (d + s).
        """
        apart = self.offset + shift - self.pelvis
        return replace(
            self,
            vertices=self.vertices.moved(rotmat, shift),
            anatomical_joints=(self.anatomical_joints - shift.unsqueeze(1)) @ rotmat,
            rotmat=rotmat.mT.unsqueeze(1) @ self.rotmat,
            global_rotmat=self.global_rotmat @ rotmat,
            offset=self.pelvis + (rotmat.mT @ apart.unsqueeze(-1)).squeeze(-1),
        )


@dataclass(frozen=True)
class FitRows(Rows):
    """The data of [B] rows that are fitted together."""

    target: Target
    betas: Tensor  # [B 10] of SKEL
    skeleton: Skeleton


class TargetMaker:
    """Makes the targets of rows, with tables of one pair of models."""

    def __init__(self, smpl: Smpl, skel: Skel, mesher: Mesher) -> None:
        self.smpl = smpl
        self.mesher = mesher
        smpl_mean = torch.cat((smpl.template.flatten()[None], smpl.shapedirs)).unflatten(-1, (-1, 3)).mean(1)
        skel_mean = torch.cat((skel.template.flatten()[None], skel.shapedirs)).unflatten(-1, (-1, 3)).mean(1)
        self.smpl_mean, self.skel_mean = smpl_mean, skel_mean  # [11 3] centroids of the T-poses, affine in betas

    def __call__(
        self, params: SmplParams, skel_betas: Tensor, points: Tensor | None = None, mesh: Placed | None = None
    ) -> Target:
        """The targets of [B] rows.

        `skel_betas` [B 10] decide d; `points` [K V] is a regressor of points to return from the annotated mesh. `mesh`
        is that mesh, in the frame of `params`; without it, SMPL is posed.
        """
        smpl = self.smpl
        local = rotvec_to_rotmat(params.body_pose)
        identity = torch.eye(3, dtype=local.dtype, device=local.device)
        rest_joints = smpl.joint_template + blend(smpl.joint_shapedirs, params.betas)
        unturned = torch.cat((identity.expand(len(local), 1, 3, 3), local), 1)
        rotmat, position = chain(unturned, relative(rest_joints, SMPL_PARENTS), SMPL_PARENTS)
        transforms = bone_transforms(rotmat, position, rest_joints)
        offset = _affine(self.smpl_mean, params.betas) - _affine(self.skel_mean, skel_betas)
        global_rotmat = rotvec_to_rotmat(params.global_orient)
        pelvis = rest_joints[:, 0]
        if mesh is None:
            vertices, joints, picked = self.mesher(params.betas, local, transforms, offset, points)
        else:
            vertices, joints, picked = self.mesher.given(mesh, pelvis, offset, points)

        def to_world(p: Tensor) -> Tensor:  # [B N 3]
            return (p - pelvis[:, None]) @ global_rotmat.mT + (pelvis + params.transl)[:, None]

        return Target(
            vertices=vertices,
            anatomical_joints=joints,
            rotmat=rotmat,
            global_rotmat=global_rotmat,
            pelvis=pelvis,
            offset=offset,
            joints_world=to_world(position),
            points_world=None if picked is None else to_world(picked),
        )


def _affine(table: Tensor, betas: Tensor) -> Tensor:
    return table[0] + betas @ table[1:]
