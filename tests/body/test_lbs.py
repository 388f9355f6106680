import pytest
import torch

from hmr_skel.body.joints import SKEL_PARENTS, SMPL_PARENTS
from hmr_skel.body.lbs import blend, bone_transforms, chain, levels, skin
from hmr_skel.body.rotations import rotvec_to_rotmat

BATCHES = ((), (3,), (2, 3))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("parents", [SMPL_PARENTS, SKEL_PARENTS, (-1, 0, 1, 2), (-1, 0, 0, 0)])
@pytest.mark.parametrize("batch", BATCHES)
def test_chain_multiplies_transforms_from_the_root_down(parents, batch, generator):
    rotmat = rotvec_to_rotmat(normal(generator, *batch, len(parents), 3))
    transl = normal(generator, *batch, len(parents), 3)
    world_r, world_p = chain(rotmat, transl, parents)
    for j, parent in enumerate(parents):
        if parent < 0:
            expected_r, expected_p = rotmat[..., j, :, :], transl[..., j, :]
        else:
            expected_r = world_r[..., parent, :, :] @ rotmat[..., j, :, :]
            offset = world_r[..., parent, :, :] @ transl[..., j, :, None]
            expected_p = world_p[..., parent, :] + offset.squeeze(-1)
        torch.testing.assert_close(world_r[..., j, :, :], expected_r)
        torch.testing.assert_close(world_p[..., j, :], expected_p)


def test_one_skeleton_in_many_poses_broadcasts(generator):
    rotmat = rotvec_to_rotmat(normal(generator, 5, 24, 3))
    offsets = normal(generator, 24, 3)
    once, each = chain(rotmat, offsets, SKEL_PARENTS), chain(rotmat, offsets.expand(5, -1, -1), SKEL_PARENTS)
    torch.testing.assert_close(once, each)


def test_levels_hold_every_joint_once_after_its_parent():
    for parents in (SMPL_PARENTS, SKEL_PARENTS):
        order = [joint for level in levels(parents) for joint in level]
        assert sorted(order) == list(range(24))
        assert all(order.index(parents[j]) < order.index(j) for j in range(1, 24))


@pytest.mark.parametrize("batch", BATCHES)
def test_skin_is_the_weighted_mean_of_what_each_bone_does(batch, generator):
    num_joints, num_vertices = 4, 7
    weights = normal(generator, num_vertices, num_joints).abs()
    weights = weights / weights.sum(1, keepdim=True)
    rotmat = rotvec_to_rotmat(normal(generator, *batch, num_joints, 3))
    position = normal(generator, *batch, num_joints, 3)
    rest_joints, rest = normal(generator, num_joints, 3), normal(generator, *batch, num_vertices, 3)
    found = skin(weights, bone_transforms(rotmat, position, rest_joints), rest)
    expected = torch.zeros_like(rest)
    for j in range(num_joints):
        from_joint = rest - rest_joints[j]
        moved = (rotmat[..., j, None, :, :] @ from_joint.unsqueeze(-1)).squeeze(-1) + position[..., j, None, :]
        expected += weights[:, j, None] * moved
    torch.testing.assert_close(found, expected)


def test_a_rest_joint_goes_where_its_bone_goes(generator):
    rotmat, position = rotvec_to_rotmat(normal(generator, 3, 5, 3)), normal(generator, 3, 5, 3)
    rest = normal(generator, 5, 3)
    found = skin(torch.eye(5, dtype=torch.float64), bone_transforms(rotmat, position, rest), rest)
    torch.testing.assert_close(found, position)


@pytest.mark.parametrize("batch", BATCHES)
def test_blend_sums_vertex_offsets(batch, generator):
    offsets, coefficients = normal(generator, 10, 6, 3), normal(generator, *batch, 10)
    found = blend(offsets.flatten(1), coefficients)
    torch.testing.assert_close(found, torch.einsum("...k,kvc->...vc", coefficients, offsets))
