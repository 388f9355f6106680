"""q, six numbers per joint, and rotations, into one another."""

import math

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from hmr_skel.body.dofs import HSMR_MEAN_Q
from hmr_skel.model.pose_rep import (
    HINGE_JOINTS,
    WRIST_JOINTS,
    q_to_rep,
    q_to_rotmat,
    rep_to_q,
    rep_to_rotmat,
    rows_to_rotmat,
)

MIDDLE_DOFS = [1, 4, 11, 18, 21, 24, 27, 30, 37, 40]

# Evaluated independently from the definition, to four digits.
MEAN_REP = {
    0: [-1, 0, 0, 0, -1, 0], 1: [0.9633, -0.2538, -0.0875, 0.2553, 0.9668, 0.0071], 2: [0.8901, -0.4557],
    3: [0.9839, -0.1787], 4: [0.9961, 0.0888], 5: [0.9858, -0.1678],
    6: [0.9762, -0.2152, 0.0257, 0.2162, 0.9754, -0.0426], 7: [0.9209, -0.3898], 8: [0.9751, -0.2216],
    9: [0.9918, 0.1278], 10: [0.9953, -0.0973], 11: [0.9845, 0.1749, 0.0114, -0.1748, 0.9846, -0.0079],
    12: [0.9996, 0.0141, -0.0250, -0.0140, 0.9999, 0.0050], 13: [0.9974, 0.0707, 0.0094, -0.0704, 0.9970, -0.0333],
    14: [0.9691, 0.2186, 0.1140, -0.1968, 0.9644, -0.1765], 15: [0.9365, -0.3238, 0.1346, 0.3170, 0.6177, -0.7197],
    16: [0.6395, -0.7688], 17: [1.0000, -0.0029], 18: [0.0093, -0.1357],
    19: [0.9757, 0.2075, -0.0706, -0.1884, 0.9585, 0.2138], 20: [0.9215, -0.3230, -0.2158, 0.3791, 0.6269, 0.6806],
    21: [0.6188, -0.7856], 22: [0.9997, 0.0237], 23: [-0.0298, -0.1886],
}  # fmt: skip


def test_the_mean_pose():
    expected = torch.tensor([row + [0.0] * (6 - len(row)) for row in MEAN_REP.values()])
    torch.testing.assert_close(q_to_rep(torch.tensor(HSMR_MEAN_Q)), expected, rtol=0, atol=1e-4)


def test_hinges_and_wrists_ignore_what_they_do_not_use():
    q = torch.randn(46, dtype=torch.float64)
    rep = q_to_rep(q)
    spoiled = rep.clone()
    spoiled[HINGE_JOINTS, 2:] = 7.0
    spoiled[WRIST_JOINTS, 2:] = -3.0
    spoiled[HINGE_JOINTS, :2] *= 5  # only their direction counts
    torch.testing.assert_close(rep_to_q(spoiled), rep_to_q(rep))
    torch.testing.assert_close(rep_to_rotmat(spoiled), rep_to_rotmat(rep))


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.tuples(*(st.floats(-3.14, 3.14),) * 46))
def test_round_trip_everywhere(angles):
    """Where middle dofs are beyond a right angle, q comes back as other angles of the same rotation."""
    q = torch.tensor(angles, dtype=torch.float64)
    again = rep_to_q(q_to_rep(q))
    torch.testing.assert_close(q_to_rotmat(again), q_to_rotmat(q), rtol=0, atol=1e-9)
    assert (again.abs() <= math.pi).all()
    assert (again[MIDDLE_DOFS].abs() <= math.pi / 2 + 1e-9).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_any_batch_shape_and_type(dtype, tolerance):
    for batch in ((), (2, 3)):
        q = torch.randn(*batch, 46, dtype=dtype).clamp(-1.5, 1.5)
        torch.testing.assert_close(rep_to_q(q_to_rep(q)), q, rtol=0, atol=tolerance)
        torch.testing.assert_close(rep_to_rotmat(q_to_rep(q)), q_to_rotmat(q), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("sign", "off"), [(1, 0.0), (-1, 1e-6), (1, 1e-3)])
def test_gimbal_lock_keeps_rotation_and_gradients(sign, off):
    """Where the middle angle is a right angle, also in float32, whose sines then round to 1."""
    q = 0.4 * torch.randn(46, generator=torch.Generator().manual_seed(0))
    q[MIDDLE_DOFS] = sign * (math.pi / 2 - off)
    rep = q_to_rep(q).requires_grad_()
    again = rep_to_q(rep)
    torch.testing.assert_close(q_to_rotmat(again), q_to_rotmat(q), rtol=0, atol=3e-6)
    (again * torch.arange(1.0, 47)).sum().backward()
    assert rep.grad.isfinite().all()
    assert rep.grad.abs().max() < 1e6


@pytest.mark.parametrize(
    "rep",
    [torch.zeros(24, 6), torch.ones(24, 6), torch.eye(6)[:1].expand(24, 6), 1e-20 * torch.ones(24, 6)],
    ids=["zero", "parallel", "one vector", "tiny"],
)
def test_gradients_are_finite_where_six_numbers_span_no_plane(rep):
    rep = rep.clone().requires_grad_()
    (rep_to_q(rep).square().sum() + rep_to_rotmat(rep).square().sum()).backward()
    assert rep.grad.isfinite().all()


def test_gradients_against_finite_differences():
    rep = torch.randn(24, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(rep_to_q, rep, fast_mode=True)
    assert torch.autograd.gradcheck(rep_to_rotmat, rep, fast_mode=True)
    assert torch.autograd.gradcheck(rows_to_rotmat, rep)


def test_near_gimbal_lock_the_gradient_of_the_rotation_is_right():
    """Angles turn wild there, the rotation made of them does not: damping must not spoil it at 0.06 degrees."""
    q = torch.zeros(46, dtype=torch.float64)
    q[MIDDLE_DOFS] = math.pi / 2 - 1.1e-3
    rep = q_to_rep(q).requires_grad_()
    weights = torch.randn(24, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    via_q, direct = (
        torch.autograd.grad((f(rep) * weights).sum(), rep)[0]
        for f in (lambda r: q_to_rotmat(rep_to_q(r)), rep_to_rotmat)
    )
    torch.testing.assert_close(via_q, direct, rtol=0, atol=1e-6)
