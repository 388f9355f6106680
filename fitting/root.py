"""The root in closed form: SKEL's pelvis takes SMPL's global orientation, its translation the matching place.

SMPL turns about its pelvis joint, SKEL about its own, some centimetres away, so neither the axis-angle nor the
translation can be copied: `skel-model`'s root angles are Euler angles in the pelvis bone's frame N = K_0 A_0^T.
"""

import torch
from torch import Tensor


def root_dofs(global_rotmat: Tensor, dof_frame: Tensor) -> Tensor:
    """q[0:3] (tilt, list, rotation) [*b 3] whose pelvis rotation N P N^T is `global_rotmat` [*b 3 3]. N is [*b 3 3].

    P = Ry(rotation) Rx(list) Rz(tilt). At a list of 90 degrees tilt and rotation turn about one axis: tilt is set to 0.
    """
    p = dof_frame.mT @ global_rotmat @ dof_frame
    sine = -p[..., 1, 2]
    cosine = torch.hypot(p[..., 1, 0], p[..., 1, 1])
    tilt = torch.atan2(p[..., 1, 0], p[..., 1, 1])
    rotation = torch.atan2(p[..., 0, 2], p[..., 2, 2])
    locked = cosine < 1e-6
    tilt = torch.where(locked, torch.zeros_like(tilt), tilt)
    rotation = torch.where(locked, torch.atan2(-p[..., 2, 0], p[..., 0, 0]), rotation)
    return torch.stack((tilt, torch.atan2(sine, cosine), rotation), -1)


def root_transl(
    smpl_transl: Tensor, global_rotmat: Tensor, smpl_pelvis: Tensor, skel_pelvis: Tensor, body_offset: Tensor
) -> Tensor:
    """SKEL's translation [*b 3], m: bodies that are `body_offset` apart in the T-pose then coincide in the world.

    `smpl_pelvis` and `skel_pelvis` [*b 3] are the two root joints at rest.
    """
    apart = smpl_pelvis - skel_pelvis
    return smpl_transl + apart + (global_rotmat @ (body_offset - apart).unsqueeze(-1)).squeeze(-1)
