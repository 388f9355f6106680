"""The 44 keypoints of the label files, from a body's joints and mesh.

The first 25 (OpenPose's) are picked from SMPL's 24 joints and 21 vertices, the last 19 are regressed from the mesh by
`SMPL_to_J19.pkl`. Source: 4D-Humans, CameraHMR (order), smplx (vertex numbers).
"""

from pathlib import Path

import torch
from torch import Tensor

from hmr_skel.body.assets import load_regressor
from hmr_skel.body.joints import OPENPOSE_25_FROM_SMPL_45, SMPL_VERTEX_IDS
from hmr_skel.body.lbs import picked
from hmr_skel.shapes import Float


def load_points_matrix(j19_path: str | Path, dtype: torch.dtype = torch.float32) -> Float[Tensor, "40 6890"]:
    """The 40 mesh points that the keypoints need, as one matrix over vertices: 21 vertices, then the 19 regressed.

    Raises:
        UserError: the regressor file is missing, damaged or misshapen.
    """
    regressed = torch.from_numpy(load_regressor(j19_path, 19)).to(dtype)
    vertices = torch.zeros(len(SMPL_VERTEX_IDS), regressed.shape[1], dtype=dtype)
    vertices[torch.arange(len(SMPL_VERTEX_IDS)), torch.tensor(SMPL_VERTEX_IDS)] = 1
    return torch.cat((vertices, regressed))


def keypoints_44(
    joints: Float[Tensor, "*batch 24 3"], points: Float[Tensor, "*batch 40 3"]
) -> Float[Tensor, "*batch 44 3"]:
    """The 44 keypoints from SMPL's joints and the points of `load_points_matrix`, in their frame and unit."""
    all_45 = torch.cat((joints, points[..., :21, :]), -2)
    return torch.cat((picked(all_45, OPENPOSE_25_FROM_SMPL_45, -2), points[..., 21:, :]), -2)
