import numpy as np
import pytest
import torch
from scipy.integrate import quad

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.moving_joints import (
    MOVING_DOFS,
    arc,
    arc_curvature,
    arc_rate,
    moving_curvatures,
    moving_offsets,
    moving_velocities,
)

# Both sides of the change from series to closed form.
ANGLES = (0.0, 1e-300, 1e-12, 1e-6, 0.01, 0.019999, 0.020001, 0.1, 0.7, 1.5, 3.0)
MOVING_JOINTS = (11, 12, 13, 14, 19)
BATCHES = ((), (3,), (2, 3))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("angle", [sign * a for a in ANGLES for sign in (1, -1)])
def test_arcs_end_where_their_direction_integrates_to_and_so_do_their_derivatives(angle):
    """A curve of unit length whose direction turns evenly from 0 to `angle`."""

    def integral(function):
        return quad(function, 0, 1, epsabs=1e-14)[0]

    expected = (
        (arc, lambda s: np.sin(angle * s), lambda s: -2 * np.sin(angle * s / 2) ** 2, 1e-14),
        (arc_rate, lambda s: s * np.cos(angle * s), lambda s: -s * np.sin(angle * s), 1e-12),
        (arc_curvature, lambda s: -(s**2) * np.sin(angle * s), lambda s: -(s**2) * np.cos(angle * s), 1e-11),
    )
    for function, across, along, tolerance in expected:
        found = [value.item() for value in function(torch.tensor(angle, dtype=torch.float64))]
        assert found == pytest.approx([integral(across), integral(along)], abs=tolerance), function


@pytest.mark.parametrize("angle", ANGLES)
def test_arc_has_finite_gradients_in_both_precisions(angle):
    for dtype in (torch.float32, torch.float64):
        t = torch.tensor(angle, dtype=dtype, requires_grad=True)
        gradients = [torch.autograd.grad(arc(t)[i], t)[0] for i in range(2)]
        for found, expected in zip(gradients, arc_rate(t.detach()), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


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


@pytest.mark.parametrize("case", ["random", "zero", "left and right of the series"])
def test_velocities_are_the_derivatives_of_the_offsets(case):
    q = {"random": normal(46), "zero": torch.zeros(46, dtype=torch.float64)}.get(case, 0.02 * normal(46).sign())
    joints = normal(24, 3, seed=1)
    velocities, step = moving_velocities(q, joints), 1e-5
    for i, dof in enumerate(MOVING_DOFS):
        nudge = torch.zeros(46, dtype=torch.float64)
        nudge[dof] = step
        central = (moving_offsets(q + nudge, joints) - moving_offsets(q - nudge, joints)) / (2 * step)
        torch.testing.assert_close(velocities[i], central.sum(0), atol=1e-10, rtol=0)  # one joint moves by it


@pytest.mark.parametrize("case", ["random", "zero", "left and right of the series"])
def test_curvatures_are_the_derivatives_of_the_velocities(case):
    q = {"random": normal(46), "zero": torch.zeros(46, dtype=torch.float64)}.get(case, 0.02 * normal(46).sign())
    joints = normal(24, 3, seed=1)
    curvatures, step = moving_curvatures(q, joints), 1e-5
    for i, dof in enumerate(MOVING_DOFS):
        nudge = torch.zeros(46, dtype=torch.float64)
        nudge[dof] = step
        central = (moving_velocities(q + nudge, joints) - moving_velocities(q - nudge, joints)) / (2 * step)
        expected = torch.zeros(10, 3, dtype=torch.float64)  # no dof changes how those of another joint move it
        expected[i // 2 * 2 : i // 2 * 2 + 2] = curvatures[i // 2, i % 2]
        torch.testing.assert_close(expected, central, atol=1e-8, rtol=0)


def test_offsets_pass_gradcheck_in_pose_and_in_shape():
    weights = normal(24, 3, seed=2)
    for q in (normal(46), torch.zeros(46, dtype=torch.float64)):
        inputs = q.clone().requires_grad_(), normal(24, 3, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda q, joints: (moving_offsets(q, joints) * weights).sum(), inputs)
