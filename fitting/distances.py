"""Distances of SKEL's skin from annotated meshes, for any parameters, with the fast posing of the fit."""

import torch
from torch import Tensor

from fitting.kinematics import CORRECTED, Skeleton
from fitting.many import Meshes, one_thread_each
from fitting.mesh import Placed
from fitting.model import FitModel
from hmr_skel.body.lbs import picked
from hmr_skel.rows import SkelParams, SmplParams

_ROWS = 256  # rows whose meshes are in memory at once, per core


def mesh_distances_mm(
    params: SmplParams, fitted: SkelParams, model: FitModel, mesh: Meshes | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and largest distance [N], mm, between corresponding vertices of SKEL's skin and SMPL's mesh.

    Args:
        params: [N] annotations, on any device.
        fitted: [N] parameters of `model.skel`, any pose, root and shape.
        mesh: [N] as in `fitting.fit_many`, if the meshes are not SMPL posed by `params`.

    Returns:
        float32, on the CPU.
    """

    def part(first: int) -> Tensor:
        rows = slice(first, first + _ROWS)
        given = None if mesh is None else mesh[rows].to(model.device)
        distance = _distances(params[rows].to(model.device), fitted[rows].to(model.device), model, given)
        return torch.stack((distance.mean(1), distance.amax(1))).cpu() * 1000

    starts = range(0, max(len(params.betas), 1), _ROWS)
    if model.device.type == "cpu":
        with one_thread_each() as (pool, _):
            parts = list(pool.map(part, starts))
    else:
        parts = list(map(part, starts))
    mean, largest = torch.cat(parts, 1)
    return mean, largest


def _distances(params: SmplParams, fitted: SkelParams, model: FitModel, mesh: Placed | None) -> Tensor:
    """Distances [B V], m. In the target's frame SMPL's root is at rest, and SKEL's root has the remaining motion."""
    target = model.targets(params, fitted.betas, None, mesh)
    q, skeleton = fitted.q.double(), Skeleton.of(model.skel, fitted.betas)
    pose = model.kinematics.pose(q, skeleton)
    tilt, list_, rotation = pose.parts[:, 0].unbind(1)
    frame, pelvis, pivot = skeleton.dof_frame[:, 0], target.pelvis.double(), skeleton.joints[:, 0]
    root = frame @ rotation @ list_ @ tilt @ frame.mT
    back = target.global_rotmat.double().mT
    apart = fitted.transl.double() - params.transl + pivot - pelvis - (root @ pivot.unsqueeze(-1)).squeeze(-1)
    transforms = (back @ root).unsqueeze(1) @ pose.transforms[:, :, :3]
    transforms[..., 3] += ((back @ apart.unsqueeze(-1)).squeeze(-1) + pelvis).unsqueeze(1)
    local = picked(pose.local, CORRECTED, 1).float()
    return model.skin(fitted.betas, local, transforms.float(), target.offset, None)[0].distance(target.vertices)
