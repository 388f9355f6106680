import copy

import numpy as np
import pytest
import smplx
import torch

from hmr_skel.body.joints import KEYPOINTS_44, SMPL_PARENTS
from hmr_skel.body.smpl import Smpl, keypoints_44, load_points_matrix
from hmr_skel.errors import UserError
from tests.body import stand_in
from tests.body.stand_in import SMALL


def params(*batch: int, seed: int = 0, betas: float = 2.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*batch, *shape, dtype=torch.float64, generator=generator) * scale

    return normal(3, scale=1.5), normal(23, 3, scale=0.6), normal(10, scale=betas), normal(3, scale=3.0)


def smplx_forward(path, dtype: torch.dtype, global_orient, body_pose, betas, transl):
    model = smplx.SMPL(str(path), dtype=dtype, batch_size=len(betas))
    out = model(global_orient=global_orient, body_pose=body_pose.flatten(1), betas=betas, transl=transl)
    return out.vertices.detach(), out.joints.detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
def test_forward_is_smplxs(dtype, tolerance, smpl_file, smpl64):
    given = [x.to(dtype) for x in params(6)]
    given[2][0], given[1][1], given[0][1] = 5.0, 0.0, 0.0
    vertices, joints = smplx_forward(smpl_file, dtype, *given)
    found = copy.deepcopy(smpl64).to(dtype)(*given)
    torch.testing.assert_close(found.vertices, vertices, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.joints, joints[:, :24], atol=tolerance, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.0], ids=["random", "zero pose"])
def test_gradients_agree_with_finite_differences(scale, smpl64):
    orient, pose, betas, transl = params()
    generator = torch.Generator().manual_seed(1)
    w_vertices = torch.randn(6890, 3, dtype=torch.float64, generator=generator) / 80
    w_joints = torch.randn(24, 3, dtype=torch.float64, generator=generator)

    def project(*given: torch.Tensor) -> torch.Tensor:
        out = smpl64(*given)
        return (out.vertices * w_vertices).sum() + (out.joints * w_joints).sum()

    inputs = [x.clone().requires_grad_() for x in (orient * scale, pose * scale, betas, transl)]
    assert torch.autograd.gradcheck(project, inputs, atol=1e-6, fast_mode=True)  # along random directions


def small(tmp_path, **changes) -> Smpl:
    return Smpl.load(stand_in.write(tmp_path / "SMPL.pkl", stand_in.smpl_arrays() | SMALL | changes))


def test_trees_and_shape_spaces_as_other_files_have_them(tmp_path):
    """The root as a signed -1, 300 shape columns of which the first ten count."""
    assert stand_in.smpl_arrays()["kintree_table"][0, 0] == 2**32 - 1
    signed = np.stack((np.array(SMPL_PARENTS), np.arange(24)))
    wide = np.random.default_rng(0).normal(size=(6890, 3, 300)).astype(np.float32)
    model = small(tmp_path, kintree_table=signed, shapedirs=wide)
    np.testing.assert_array_equal(model.shapedirs.numpy(), wide[:, :, :10].transpose(2, 0, 1).reshape(10, -1))
    signed[0, 5] = 0
    with pytest.raises(UserError, match=r"SMPL\.pkl: its kinematic tree is not SMPL's"):
        small(tmp_path, kintree_table=signed)


# --- keypoints ---

# What 4D-Humans and CameraHMR pick from smplx's 45 joints for OpenPose's 25 keypoints.
OPENPOSE_25 = [24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34]


@pytest.fixture(scope="module")
def j19(tmp_path_factory):
    path = tmp_path_factory.mktemp("j19") / "J19.npy"
    matrix = np.random.default_rng(0).random((19, 6890))
    np.save(path, matrix / matrix.sum(1, keepdims=True))
    return path


def test_keypoints_are_smplxs_joints_and_the_regressed_ones(smpl_file, smpl64, j19):
    given = params(3)
    vertices, joints_45 = smplx_forward(smpl_file, torch.float64, *given)
    body = smpl64(*given)
    found = keypoints_44(body.joints, load_points_matrix(j19, torch.float64) @ body.vertices)
    regressed = torch.from_numpy(np.load(j19)) @ vertices
    torch.testing.assert_close(found, torch.cat((joints_45[:, OPENPOSE_25], regressed), 1), atol=1e-6, rtol=0)


def test_keypoints_of_the_open_body_lie_where_their_names_say(open_body_dir):
    zero = torch.zeros(23, 3)
    body = Smpl.load(open_body_dir / "SMPL_NEUTRAL.pkl")(zero[0], zero, torch.zeros(10), zero[0])
    points = load_points_matrix(open_body_dir / "SMPL_to_J19.pkl") @ body.vertices
    at = dict(zip(KEYPOINTS_44, keypoints_44(body.joints, points), strict=True))
    for name, point in at.items():  # T-pose: the body's left is +x
        if name.startswith(("OP L", "Left")):
            assert point[0] > 0.01, name
        elif name.startswith(("OP R", "Right")):
            assert point[0] < -0.01, name
    for higher, lower in (("OP Nose", "OP Neck"), ("OP Neck", "OP MidHip"), ("OP MidHip", "OP RKnee"),
                          ("Top of Head (LSP)", "Neck (LSP)"), ("Right Hip", "Right Knee"), ("Left Knee", "OP LHeel"),
                          ("Thorax (MPII)", "Pelvis (MPII)")):  # fmt: skip
        assert at[higher][1] > at[lower][1] + 0.05, (higher, lower)
    assert at["OP LBigToe"][2] > at["OP LHeel"][2] + 0.1
    for openpose, other in (("OP RAnkle", "Right Ankle"), ("OP LElbow", "Left Elbow"), ("OP RHip", "Right Hip")):
        assert (at[openpose] - at[other]).norm() < 0.08, (openpose, other)
