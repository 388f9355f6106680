"""The root in closed form: SKEL's pelvis turns and stands as SMPL's, through gimbal lock too."""

from math import pi

import pytest
import torch

from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.body.skel import root_dofs, root_transl


def _pelvis_rotmat(skel, q3, betas):
    """The world rotation of SKEL's pelvis, from SKEL itself."""
    q = torch.cat((q3, torch.zeros(len(q3), 43).to(q3)), 1)
    frame = skel(q, betas, torch.zeros(len(q3), 3).to(q3)).joint_frames[:, 0]
    return frame @ skel.prepare_shape(betas).bone_rotmat[:, 0].mT


def test_any_rotation_is_reproduced(skel64):
    generator = torch.Generator().manual_seed(8)
    rotvec = 2 * torch.randn(50, 3, dtype=torch.float64, generator=generator)
    betas = torch.randn(50, 10, dtype=torch.float64, generator=generator)
    wanted = rotvec_to_rotmat(rotvec)
    q3 = root_dofs(wanted, skel64.prepare_shape(betas).dof_frame[:, 0])
    torch.testing.assert_close(_pelvis_rotmat(skel64, q3, betas), wanted, rtol=0, atol=1e-6)
    assert float(q3[:, 1].abs().max()) <= pi / 2


@pytest.mark.parametrize(("sign", "off"), [(1, 0.0), (-1, 1e-9), (1, 1e-7), (-1, 1e-4)])
def test_gimbal_lock(skel64, sign, off):
    """List of 90 degrees: tilt and rotation turn about one axis, and only their sum or difference is known."""
    q3 = torch.tensor([[0.7, sign * (pi / 2 - off), -1.9], [-2.0, sign * (pi / 2 - off), 0.4]], dtype=torch.float64)
    betas = torch.zeros(2, 10, dtype=torch.float64)
    wanted = _pelvis_rotmat(skel64, q3, betas)
    found = root_dofs(wanted, skel64.prepare_shape(betas).dof_frame[:, 0])
    assert bool(found.isfinite().all())
    torch.testing.assert_close(_pelvis_rotmat(skel64, found, betas), wanted, rtol=0, atol=2e-6)
    if off < 1e-6:
        assert torch.equal(found[:, 0], torch.zeros(2, dtype=torch.float64))
    else:
        torch.testing.assert_close(found, q3, rtol=0, atol=1e-9)


def test_both_bodies_stand_in_one_place(smpl64, skel64):
    """T-poses turned by any root differ by what they differ by unturned, their mean offset taken out."""
    generator = torch.Generator().manual_seed(9)
    orient = 2 * torch.randn(6, 3, dtype=torch.float64, generator=generator)
    betas = torch.randn(6, 10, dtype=torch.float64, generator=generator)
    transl = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    skel_betas = betas.flip(1)
    rest_smpl, joints = smpl64.shaped(betas)
    rest_skel = skel64.prepare_shape(skel_betas)
    offset = (rest_smpl - rest_skel.rest).mean(1)
    rotmat = rotvec_to_rotmat(orient)
    q = torch.cat((root_dofs(rotmat, rest_skel.dof_frame[:, 0]), torch.zeros(6, 43, dtype=torch.float64)), 1)
    skel_transl = root_transl(transl, rotmat, joints[:, 0], rest_skel.joints[:, 0], offset)
    world_smpl = smpl64(orient, torch.zeros(6, 23, 3, dtype=torch.float64), betas, transl).vertices
    world_skel = skel64(q, skel_betas, skel_transl).vertices
    apart = (rest_smpl - rest_skel.rest - offset[:, None]) @ rotmat.mT
    torch.testing.assert_close(world_smpl - world_skel, apart, rtol=0, atol=1e-6)
    assert float(offset.norm(dim=1).max()) > 1e-4  # else the test could not tell
