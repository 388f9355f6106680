import numpy as np
import pytest
import torch
from scipy.integrate import quad

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.moving_joints import MOVING_DOFS, arc, arc_rate, moving_offsets, moving_velocities

# Both sides of the change from series to closed form.
ANGLES = (0.0, 1e-300, 1e-6, -0.01, 0.019999, 0.020001, -0.7, 3.0)
MOVING_JOINTS = (11, 12, 13, 14, 19)
POSES = {"random": 1.0, "zero": 0.0}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("angle", ANGLES)
def test_arcs_end_where_their_direction_integrates_to_and_so_do_their_derivatives(angle):
    """A curve of unit length whose direction turns evenly from 0 to `angle`; gradients are finite in float32 too."""

    def integral(function):
        return quad(function, 0, 1, epsabs=1e-14)[0]

    expected = (
        (arc, lambda s: np.sin(angle * s), lambda s: -2 * np.sin(angle * s / 2) ** 2, 1e-14),
        (arc_rate, lambda s: s * np.cos(angle * s), lambda s: -s * np.sin(angle * s), 1e-12),
    )
    for function, across, along, tolerance in expected:
        found = [value.item() for value in function(torch.tensor(angle, dtype=torch.float64))]
        assert found == pytest.approx([integral(across), integral(along)], abs=tolerance), function
    t = torch.tensor(angle, requires_grad=True)
    gradients = [torch.autograd.grad(arc(t)[i], t)[0].item() for i in range(2)]
    assert gradients == pytest.approx([value.item() for value in arc_rate(t.detach())], abs=1e-5)


def test_nothing_moves_at_zero_and_only_by_the_listed_dofs():
    joints = normal(24, 3)
    assert moving_offsets(torch.zeros(46, dtype=torch.float64), joints).abs().max() < 1e-16
    for dof in range(46):
        q = torch.zeros(46, dtype=torch.float64)
        q[dof] = 0.5
        moved = (moving_offsets(q, joints).norm(dim=-1) > 1e-9).nonzero().flatten().tolist()
        assert bool(moved) == (dof in MOVING_DOFS), DOF_NAMES[dof]
        assert set(moved) <= set(MOVING_JOINTS)
        assert len(moved) <= 1


@pytest.mark.parametrize("scale", POSES.values(), ids=POSES)
def test_velocities_are_the_derivatives_of_the_offsets(scale):
    q, joints, step = scale * normal(46), normal(24, 3, seed=1), 1e-5
    velocities = moving_velocities(q, joints)
    for i, dof in enumerate(MOVING_DOFS):
        nudge = torch.zeros(46, dtype=torch.float64)
        nudge[dof] = step

        def rate(function, nudge=nudge):
            return (function(q + nudge, joints) - function(q - nudge, joints)) / (2 * step)

        torch.testing.assert_close(velocities[i], rate(moving_offsets).sum(0), atol=1e-10, rtol=0)  # one joint moves
