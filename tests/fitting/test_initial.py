"""The first pose: SKEL's own bone rotations give back the dofs that made them."""

import pytest
import torch

from fitting.kinematics import Skeleton
from fitting.starts import initial_q
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.joints import SKEL_TO_SMPL


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
