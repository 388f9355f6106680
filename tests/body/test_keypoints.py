import numpy as np
import pytest
import torch

from hmr_skel.body.joints import KEYPOINTS_44, SMPL_VERTEX_IDS
from hmr_skel.body.keypoints import keypoints_44, load_points_matrix
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from tests.body.test_smpl import params, smplx_forward

# What 4D-Humans and CameraHMR pick from smplx's 45 joints for OpenPose's 25 keypoints.
OPENPOSE_25 = [24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34]


@pytest.fixture(scope="module")
def j19(tmp_path_factory):
    path = tmp_path_factory.mktemp("j19") / "J19.npy"
    matrix = np.random.default_rng(0).random((19, 6890))
    np.save(path, matrix / matrix.sum(1, keepdims=True))
    return path


def test_keypoints_are_smplxs_joints_and_the_regressed_ones(smpl_file, j19):
    given = params(3)
    vertices, joints_45 = smplx_forward(smpl_file, torch.float64, *given)
    body = Smpl.load(smpl_file, dtype=torch.float64)(*given)
    found = keypoints_44(body.joints, load_points_matrix(j19, torch.float64) @ body.vertices)
    regressed = torch.from_numpy(np.load(j19)) @ vertices
    torch.testing.assert_close(found, torch.cat((joints_45[:, OPENPOSE_25], regressed), 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_batch_shape(batch, dtype):
    found = keypoints_44(torch.zeros(*batch, 24, 3, dtype=dtype), torch.ones(*batch, 40, 3, dtype=dtype))
    assert found.shape == (*batch, 44, 3)
    assert found.dtype == dtype
    from_mesh = found[..., 0] == 1
    assert from_mesh.sum().item() == (11 + 19) * max(1, int(np.prod(batch)))  # eleven of the 21 vertices are used


def test_points_are_21_vertices_then_19_regressed(j19):
    points = load_points_matrix(j19)
    assert points.shape == (40, 6890)
    assert points.dtype == torch.float32
    assert points[:21].argmax(1).tolist() == list(SMPL_VERTEX_IDS)
    torch.testing.assert_close(points.sum(1), torch.ones(40))


def test_a_missing_regressor_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no such file\. Run `hmr-skel doctor`"):
        load_points_matrix(tmp_path / "SMPL_to_J19.pkl")


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
        else:
            assert point[0].abs() < 0.03, name
    for higher, lower in (("OP Nose", "OP Neck"), ("OP Neck", "OP MidHip"), ("OP MidHip", "OP RKnee"),
                          ("Top of Head (LSP)", "Neck (LSP)"), ("Right Hip", "Right Knee"), ("Left Knee", "OP LHeel"),
                          ("Thorax (MPII)", "Pelvis (MPII)")):  # fmt: skip
        assert at[higher][1] > at[lower][1] + 0.05, (higher, lower)
    assert at["OP LBigToe"][2] > at["OP LHeel"][2] + 0.1
    for openpose, other in (("OP RAnkle", "Right Ankle"), ("OP LElbow", "Left Elbow"), ("OP RHip", "Right Hip")):
        assert (at[openpose] - at[other]).norm() < 0.08, (openpose, other)
