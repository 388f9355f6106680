import numpy as np
import pytest
import torch

from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from tests.body import stand_in

BATCHES = ((), (3,), (2, 3))
SMALL = {"posedirs": np.random.default_rng(9).integers(-3, 4, (6890, 3, 207)).astype(np.int8) * np.float32(1e-3)}


def params(*batch: int, seed: int = 0, betas: float = 2.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*batch, *shape, dtype=torch.float64, generator=generator) * scale

    return normal(3, scale=1.5), normal(23, 3, scale=0.6), normal(10, scale=betas), normal(3, scale=3.0)


def smplx_forward(path, dtype: torch.dtype, global_orient, body_pose, betas, transl):
    import smplx

    model = smplx.SMPL(str(path), dtype=dtype, batch_size=len(betas))
    out = model(global_orient=global_orient, body_pose=body_pose.flatten(1), betas=betas, transl=transl)
    return out.vertices.detach(), out.joints.detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
def test_forward_is_smplxs(dtype, tolerance, smpl_file):
    given = [x.to(dtype) for x in params(6)]
    given[2][0], given[1][1], given[0][1] = 5.0, 0.0, 0.0
    vertices, joints = smplx_forward(smpl_file, dtype, *given)
    found = Smpl.load(smpl_file, dtype=dtype)(*given)
    torch.testing.assert_close(found.vertices, vertices, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.joints, joints[:, :24], atol=tolerance, rtol=0)


@pytest.mark.parametrize("gender", ["NEUTRAL", "MALE", "FEMALE"])
def test_forward_of_the_open_body_is_smplxs(gender, open_body_dir):
    path = open_body_dir / f"SMPL_{gender}.pkl"
    given = [x.float() for x in params(4, seed=1)]
    vertices, joints = smplx_forward(path, torch.float32, *given)
    found = Smpl.load(path)(*given)
    torch.testing.assert_close(found.vertices, vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.joints, joints[:, :24], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", BATCHES)
def test_any_batch_shape(batch, dtype, smpl64):
    model = Smpl({name: getattr(smpl64, name).to(dtype) for name in smpl64._buffers}, smpl64.faces)
    given = [x.to(dtype) for x in params(*batch)]
    out = model(*given)
    assert out.vertices.shape == (*batch, 6890, 3)
    assert out.joints.shape == (*batch, 24, 3)
    assert out.vertices.dtype == out.joints.dtype == dtype
    if batch:
        last = model(*(x[(-1,) * len(batch)] for x in given))
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(out.vertices[(-1,) * len(batch)], last.vertices, atol=tolerance, rtol=0)


def test_zero_pose_is_the_shaped_template_and_transl_moves_all(smpl64):
    _, _, betas, transl = params(2)
    zero = torch.zeros(2, 23, 3, dtype=torch.float64)
    out = smpl64(zero[:, 0], zero, betas, transl)
    vertices, joints = smpl64.shaped(betas)
    torch.testing.assert_close(out.vertices - transl[:, None], vertices)
    torch.testing.assert_close(out.joints - transl[:, None], joints)
    torch.testing.assert_close(joints, smpl64.joint_regressor @ vertices)


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


def test_of_300_shape_columns_the_first_ten_count(tmp_path):
    wide = np.random.default_rng(0).normal(size=(6890, 3, 300)).astype(np.float32)
    model = small(tmp_path, shapedirs=wide)
    np.testing.assert_array_equal(model.shapedirs.numpy(), wide[:, :, :10].transpose(2, 0, 1).reshape(10, -1))


def test_the_root_may_be_written_as_minus_one(tmp_path):
    assert stand_in.smpl_arrays()["kintree_table"][0, 0] == 2**32 - 1
    signed = np.stack((np.array(SMPL_PARENTS), np.arange(24)))
    assert small(tmp_path, kintree_table=signed).template.shape == (6890, 3)


def test_another_tree_is_refused(tmp_path):
    tree = np.stack((np.array(SMPL_PARENTS), np.arange(24)))
    tree[0, 5] = 0
    with pytest.raises(UserError, match=r"SMPL\.pkl: its kinematic tree is not SMPL's"):
        small(tmp_path, kintree_table=tree)


def test_loading_says_nothing_and_keeps_nothing_for_checkpoints(smpl_file, capfd):
    model = Smpl.load(smpl_file)
    assert capfd.readouterr() == ("", "")
    assert dict(model.state_dict()) == {}
    assert list(model.parameters()) == []
    assert model.faces.dtype == np.int64
    assert model.faces.shape == (13776, 3)
