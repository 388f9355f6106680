"""How far SKEL's skin is from SMPL's mesh, vertex by vertex: both are of one topology."""

import numpy as np
import torch

from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SkelParams, SmplParams

_CHUNK = 256  # rows whose meshes are in memory at once


@torch.no_grad()
def mesh_distances_mm(
    smpl_params: SmplParams, smpl: Smpl, skel_params: SkelParams, skel: Skel
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and largest distance [N] of the vertices of N rows, mm. Rows may be on another device than the bodies."""
    device = smpl.template.device
    mean, largest = [], []
    for first in range(0, max(len(smpl_params.betas), 1), _CHUNK):
        ours = skel_params[first : first + _CHUNK].to(device)
        params = smpl_params[first : first + _CHUNK].to(device)
        target = smpl(params.global_orient, params.body_pose, params.betas, params.transl).vertices
        apart = (skel(ours.q, ours.betas, ours.transl).vertices - target).norm(dim=-1) * 1000
        mean.append(apart.mean(1).cpu().numpy())
        largest.append(apart.amax(1).cpu().numpy())
    return np.concatenate(mean), np.concatenate(largest)
