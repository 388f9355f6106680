"""The first pose: SKEL's own bone rotations give back the dofs that made them."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from fitting.kinematics import Skeleton
from fitting.starts import _euler, initial_q
from hmr_skel.body.dofs import DOF_NAMES, DOFS
from hmr_skel.body.joints import SKEL_TO_SMPL
from hmr_skel.body.rotations import rotvec_to_rotmat

_EULER_AXES = sorted({tuple(d.axis for d in DOFS if d.joint == j) for j in (1, 6, 11, 14, 15, 19)})
_HANDS = [((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)), ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))]


def _product(axes, angles):
    """Rot(axis_3) Rot(axis_2) Rot(axis_1) of angles [B 3]."""
    first, second, third = (
        rotvec_to_rotmat(angles[:, i, None] * torch.tensor(axis, dtype=angles.dtype)) for i, axis in enumerate(axes)
    )
    return third @ second @ first


def _smpl_like(model, skeleton, q):
    """World rotations of SMPL bones that turn as SKEL's do in the pose q."""
    rotmat = model.kinematics.pose(q, skeleton).rotmat
    smpl = torch.eye(3, dtype=q.dtype).repeat(len(q), 24, 1, 1)
    smpl[:, list(SKEL_TO_SMPL)] = rotmat
    return smpl


@pytest.fixture(scope="module")
def case(model, skel):
    """Random q inside the limits that SMPL's bones can say all of: no subtalar or wrist turn, no shoulder beyond 85."""
    generator = torch.Generator().manual_seed(10)
    low, high = model.low[3:], model.high[3:]
    q = torch.zeros(50, 46, dtype=torch.float64)
    q[:, 3:] = low + (high - low) * torch.rand(50, 43, dtype=torch.float64, generator=generator)
    for k, name in enumerate(DOF_NAMES):
        if name.startswith(("subtalar", "wrist")):
            q[:, k] = 0  # talus and calcaneus share one SMPL bone, forearm and hand another
        if name in ("shoulder_r_y", "shoulder_l_y"):
            q[:, k] *= 80 / 105
    betas = torch.randn(50, 10, generator=generator)
    return q, Skeleton.of(skel, betas)


def test_recovers_what_skel_itself_would_show(model, case):
    q, skeleton = case
    found = initial_q(model, _smpl_like(model, skeleton, q), skeleton)
    torch.testing.assert_close(found, q, rtol=0, atol=1e-6)


def test_clamps_into_the_limits_and_children_make_up(model, case):
    q, skeleton = case
    smpl = _smpl_like(model, skeleton, 3 * q)
    found = initial_q(model, smpl, skeleton)
    assert bool(((found >= model.low) & (found <= model.high)).all())
    # The head still looks where SMPL's does where the trunk could not follow: its own range allows.
    trunk = torch.zeros(1, 46, dtype=torch.float64)
    trunk[0, DOF_NAMES.index("thorax_extension")] = model.high[DOF_NAMES.index("thorax_extension")] + 0.3
    one = skeleton[torch.tensor([0])]
    found = initial_q(model, _smpl_like(model, one, trunk), one)
    assert float(found[0, DOF_NAMES.index("thorax_extension")]) == model.high[DOF_NAMES.index("thorax_extension")]
    assert float(found[0, DOF_NAMES.index("head_extension")]) == pytest.approx(0.3, abs=0.1)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.sampled_from(_EULER_AXES + _HANDS), st.lists(st.floats(-3.1, 3.1), min_size=3, max_size=3))
def test_euler_angles_of_either_branch_make_the_rotation(axes, angles):
    """The middle angle is within 90 degrees in the one, beyond in the other, which these limits ask for."""
    rotmat = _product(axes, torch.tensor([angles], dtype=torch.float64))
    for least, most in ((-1.6, 1.6), (1.5, 4.8)):
        low, high = torch.tensor([[-10.0, least, -10.0], [10.0, most, 10.0]], dtype=torch.float64)
        found = _euler(list(axes), rotmat, low, high)
        torch.testing.assert_close(_product(axes, found), rotmat, rtol=0, atol=1e-6)
        assert least < float(found[0, 1]) < most


def test_hands_drop_the_third_angle():
    """The two dofs of a wrist come out right whatever the imagined third one is."""
    angles = torch.tensor([[0.6, -0.4, 0.0], [0.6, -0.4, 0.9]], dtype=torch.float64)
    limit = torch.tensor([1.5, 0.8], dtype=torch.float64)
    for axes in _HANDS:
        found = _euler(list(axes), _product(axes, angles), -limit, limit)
        torch.testing.assert_close(found[:, :2], angles[:, :2], rtol=0, atol=1e-9)
