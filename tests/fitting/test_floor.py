"""The floor: its objective is the fit's, its gradient is true, its search finds what a spoiled fit has lost."""

import pytest
import torch

from bench.floor import floor_fit
from bench.objective import Objective
from hmr_skel.rows import SkelParams


@pytest.fixture(scope="module")
def fitted(fits):
    return fits("default")


@pytest.fixture(scope="module")
def objective(people, fitted, smpl, model):
    return Objective.of(people, fitted.skel.betas, smpl, model)


def test_energy_is_the_fits_own(fitted, objective):
    """The only difference is the fit's float32 over vertices."""
    energy = objective.energy(fitted.skel.q[:, 3:].double())
    torch.testing.assert_close(energy, fitted.energy.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        objective.v2v_mm(fitted.skel.q[:, 3:].double()).float(), fitted.v2v_mm, rtol=0, atol=1e-3
    )


def test_gradient_is_that_of_the_energy(objective):
    generator = torch.Generator().manual_seed(1)
    q = 0.3 * torch.randn(len(objective), 43, dtype=torch.float64, generator=generator)
    energy, gradient, hessian = objective.derivatives(q)
    torch.testing.assert_close(energy, objective.energy(q))
    leaf = q.clone().requires_grad_()
    objective.residuals(leaf).square().sum().backward()
    torch.testing.assert_close(2 * gradient, leaf.grad, rtol=1e-9, atol=1e-12)
    # J itself, along one direction: the residuals' own change.
    along = torch.randn(43, dtype=torch.float64, generator=generator)
    step = 1e-6 * along
    change = (objective.residuals(q + step) - objective.residuals(q - step)) / 2e-6
    torch.testing.assert_close(
        torch.einsum("i,nij,j->n", along, hessian, along), change.square().sum(1), rtol=1e-6, atol=0
    )


def test_the_floor_is_inside_the_limits_and_a_spoiled_fit_is_found_out(people, fitted, smpl, model):
    steps = []
    spoiled = fitted.skel.q[:1].clone()
    spoiled[:, 3:] += 0.1
    spoiled = torch.minimum(torch.maximum(spoiled, model.low.float()), model.high.float())
    found = floor_fit(
        people[:1], SkelParams(spoiled, fitted.skel.betas[:1], fitted.skel.transl[:1]), smpl, model,
        random_starts=0, coarse_iterations=6, iterations=12, progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert bool((found.energy_gap_percent > 10).all())
    torch.testing.assert_close(found.energy, fitted.energy[:1].double(), rtol=0.05, atol=0)
    assert bool(((found.q >= model.low) & (found.q <= model.high)).all())
    assert float(found.decrement.max()) < 1e-4
    assert all(0 < done <= total for done, total in steps)
