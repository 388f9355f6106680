import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat, shortest_arc

DTYPES = {torch.float32: 2e-6, torch.float64: 1e-12}
# Both sides of every threshold between a series and its closed form, and the ends.
ANGLES = (0.0, 1e-30, 1e-8, 1.9e-5, 2.1e-5, 0.00999, 0.01001, 1.0, 3.0, np.pi - 1e-4, np.pi - 1e-9)
AXIS = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)

coordinate = st.floats(-1, 1, allow_subnormal=False)
directions = st.tuples(coordinate, coordinate, coordinate).filter(lambda v: np.linalg.norm(v) > 1e-3)


def rotvecs(*batch: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*batch, 3)) * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_rotvec_to_rotmat_is_scipys_for_any_batch_shape(batch, dtype):
    rotvec = rotvecs(*batch, scale=2)
    found = rotvec_to_rotmat(rotvec.to(dtype))
    assert found.shape == (*batch, 3, 3)
    assert found.dtype == dtype
    expected = Rotation.from_rotvec(rotvec.reshape(-1, 3).numpy()).as_matrix().reshape(*batch, 3, 3)
    np.testing.assert_allclose(found.double().numpy(), expected, atol=DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=30)
@given(direction=directions, angle=st.sampled_from(ANGLES) | st.floats(0, np.pi - 1e-3, allow_subnormal=False))
def test_rotvec_survives_the_way_to_a_matrix_and_back(dtype, direction, angle):
    rotvec = torch.tensor(np.array(direction) / np.linalg.norm(direction) * angle, dtype=dtype)
    back = rotmat_to_rotvec(rotvec_to_rotmat(rotvec))
    if angle > np.pi - 1e-3 and (back @ rotvec) < 0:
        back = back * (1 - 2 * np.pi / back.norm())  # the same rotation, named from the other side of pi
    torch.testing.assert_close(back, rotvec, atol=20 * DTYPES[dtype], rtol=0)


def test_half_turns_keep_their_axis():
    for axis in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, -0.8, 0), (-0.48, 0.6, 0.64)):
        found = rotmat_to_rotvec(torch.from_numpy(2 * np.outer(axis, axis) - np.eye(3)))
        assert [abs(found.numpy() @ np.array(axis)), found.norm().item()] == pytest.approx([np.pi] * 2)


@pytest.mark.parametrize("angle", ANGLES)
def test_gradients_agree_with_finite_differences_and_are_finite_at_zero(angle):
    rotvec = (AXIS * angle).requires_grad_()
    assert torch.autograd.gradcheck(rotvec_to_rotmat, rotvec)
    rotmat = rotvec_to_rotmat(rotvec.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(rotmat_to_rotvec(rotmat).sum(), rotmat)
    assert gradient.isfinite().all()
    if angle < 3.1:  # at pi the rotation vector jumps
        assert torch.autograd.gradcheck(lambda v: rotmat_to_rotvec(rotvec_to_rotmat(v)), rotvec)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=30)
@given(a=directions, b=directions)
def test_shortest_arc_turns_a_into_b_about_their_normal(dtype, a, b):
    a, b = (torch.tensor(v, dtype=dtype) for v in (a, b))
    a_unit, b_unit = a / a.norm(), b / b.norm()
    if a_unit @ b_unit < -0.999:
        return  # opposite directions have no shortest arc
    r = shortest_arc(a, b)
    tolerance = 1e3 * DTYPES[dtype]  # 1 / (1 + cos) magnifies rounding near the opposite direction
    torch.testing.assert_close(r @ a_unit, b_unit, atol=tolerance, rtol=0)
    torch.testing.assert_close(r @ r.mT, torch.eye(3, dtype=dtype), atol=tolerance, rtol=0)
    normal = torch.linalg.cross(a_unit, b_unit)
    torch.testing.assert_close(r @ normal, normal, atol=tolerance, rtol=0)


def test_shortest_arc_has_finite_values_and_gradients_in_the_degenerate_cases():
    x = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    for a, b in ((x, 2 * x), (x, -x), (x, 0 * x), (0 * x, x)):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        r = shortest_arc(a, b)
        assert r.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(r.sum(), (a, b)))
    assert torch.autograd.gradcheck(shortest_arc, (x.requires_grad_(), rotvecs(seed=3).requires_grad_()))
