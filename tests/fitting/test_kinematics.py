"""The solver's skeleton is SKEL's, in float64 and with the root at rest, and its twists are true derivatives."""

import copy

import pytest
import torch

from fitting.kinematics import Kinematics, Skeleton
from hmr_skel.body.dofs import DOF_JOINTS, DOF_NAMES
from hmr_skel.body.joints import SKEL_PARENTS, subtree
from hmr_skel.body.lbs import skin


@pytest.fixture(scope="module")
def skel64(skel):
    return copy.deepcopy(skel).double()


@pytest.fixture(scope="module")
def case(skel64):
    """Kinematics, wide poses with the root at rest, betas, and their skeletons."""
    generator = torch.Generator().manual_seed(1)
    q = 0.8 * torch.randn(5, 46, dtype=torch.float64, generator=generator)
    q[:, :3] = 0
    q[4, 3:] = 0
    betas = 2 * torch.randn(5, 10, dtype=torch.float64, generator=generator)
    return Kinematics(skel64.axes, skel64.dof_index), q, betas, Skeleton.of(skel64, betas)


def test_pose_is_that_of_skel(skel64, case):
    kinematics, q, betas, skeleton = case
    pose = kinematics.pose(q, skeleton)
    shape = skel64.prepare_shape(betas)
    expected = skel64.pose(q, shape, torch.zeros(5, 3, dtype=torch.float64))
    torch.testing.assert_close(pose.position, expected.joints, rtol=0, atol=1e-12)
    torch.testing.assert_close(pose.rotmat @ shape.bone_rotmat, expected.joint_frames, rtol=0, atol=1e-12)
    torch.testing.assert_close(pose.local, skel64.local_rotmat(q, shape), rtol=0, atol=1e-12)
    rest = shape.rest + skel64.correctives(pose.local)
    vertices = skin(skel64.weights, pose.transforms[:, :, :3], rest)
    torch.testing.assert_close(vertices, expected.vertices, rtol=0, atol=1e-12)
    turned = q.clone()
    turned[:, :3] = 1  # the root's dofs are ignored
    assert torch.equal(kinematics.pose(turned, skeleton).transforms, pose.transforms)


def test_twists_are_derivatives_of_the_transforms(case):
    """dG/dq_k = twist_k G for the bones below the joint of k, and 0 for all others."""
    kinematics, q, _, skeleton = case
    pose = kinematics.pose(q, skeleton)
    twists = kinematics.twists(q, skeleton, pose)
    for dof in range(3, 46):
        step = torch.zeros(46, dtype=torch.float64)
        step[dof] = 1e-5
        ahead, behind = (kinematics.pose(q + sign * step, skeleton).transforms for sign in (1, -1))
        below = torch.zeros(24, 1, 1, dtype=torch.float64)
        below[subtree(SKEL_PARENTS, DOF_JOINTS[dof])] = 1
        expected = below * (twists[:, None, DOF_JOINTS[dof], kinematics.dof_order[dof]] @ pose.transforms)
        # A model file's rotations are orthogonal to float32: the closed form takes them for exact.
        rate = (ahead - behind)[:, :, :3] / 2e-5
        torch.testing.assert_close(rate, expected, rtol=0, atol=1e-6, msg=lambda m, k=dof: DOF_NAMES[k] + m)
        assert float(expected.abs().max()) > 0.1
