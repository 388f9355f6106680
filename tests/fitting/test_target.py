"""The annotated mesh in SKEL's pelvis frame, and what is reported of it in the world."""

import pytest
import torch

from fitting.mesh import unstacked
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.body.skel import root_transl


@pytest.fixture(scope="module")
def case(model, people):
    points = torch.zeros(3, 6890)
    points[0, 332], points[1, 3387] = 1, 1
    points[2, :4] = 0.25
    return points, model.targets(people, model.shape(people.betas), points)


def _vertices(target):
    """[B V 3]"""
    return unstacked(target.vertices.chunks, len(target.vertices))


def test_mesh_joints_and_points_are_those_of_the_annotated_body(case, people, smpl, skel, model):
    """The mesh is y - d in the pelvis's frame; with d added and the root applied it is SMPL as annotated."""
    points, target = case
    annotated = smpl(people.global_orient, people.body_pose, people.betas, people.transl)
    local = _vertices(target) + target.offset[:, None] - target.pelvis[:, None]
    world = local @ rotvec_to_rotmat(people.global_orient).mT + (target.pelvis + people.transl)[:, None]
    torch.testing.assert_close(world, annotated.vertices, rtol=0, atol=5e-6)
    torch.testing.assert_close(target.joints_world, annotated.joints, rtol=0, atol=5e-6)
    torch.testing.assert_close(target.points_world, points @ annotated.vertices, rtol=0, atol=5e-6)
    # d is that of the T-poses. The regressor's rows sum to 1, so d may be taken off before or after.
    apart = smpl.shaped(people.betas)[0] - skel.prepare_shape(model.shape(people.betas)).rest
    torch.testing.assert_close(target.offset, apart.mean(1), rtol=0, atol=1e-6)
    expected = skel.joint_regressor @ _vertices(target)
    torch.testing.assert_close(target.anatomical_joints, expected, rtol=0, atol=5e-6)


def test_bone_rotations_leave_the_root_out(case, people):
    _, target = case
    assert torch.equal(target.rotmat[:, 0], torch.eye(3).expand(4, 3, 3))
    left_hip = rotvec_to_rotmat(people.body_pose[:, 0])
    torch.testing.assert_close(target.rotmat[:, 1], left_hip)
    torch.testing.assert_close(target.rotmat[:, 4], left_hip @ rotvec_to_rotmat(people.body_pose[:, 3]))
    torch.testing.assert_close(target.global_rotmat, rotvec_to_rotmat(people.global_orient))


def test_moving_the_pelvis_takes_target_and_root_along(case, people):
    """A body that fits the moved target, put where the moved root is, fits the annotation."""
    _, target = case
    generator = torch.Generator().manual_seed(1)
    rotmat = rotvec_to_rotmat(0.3 * torch.randn(4, 3, generator=generator))
    shift = 0.1 * torch.randn(4, 3, generator=generator)
    moved = target.moved(rotmat, shift)
    torch.testing.assert_close(_vertices(moved) @ rotmat.mT + shift[:, None], _vertices(target), rtol=0, atol=2e-6)
    joints = moved.anatomical_joints @ rotmat.mT + shift[:, None]
    torch.testing.assert_close(joints, target.anatomical_joints, rtol=0, atol=2e-6)
    torch.testing.assert_close(rotmat[:, None] @ moved.rotmat, target.rotmat, rtol=0, atol=2e-6)
    pelvis = torch.randn(4, 3, generator=generator)  # SKEL's, at rest
    places = []
    for seen in (target, moved):
        transl = root_transl(people.transl, seen.global_rotmat, seen.pelvis, pelvis, seen.offset)
        apart = (_vertices(seen) - pelvis[:, None]) @ seen.global_rotmat.mT
        places.append(apart + (pelvis + transl)[:, None])
    torch.testing.assert_close(places[1], places[0], rtol=0, atol=5e-6)
