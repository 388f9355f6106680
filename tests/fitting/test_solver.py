"""The solver on problems whose answers are known: quadratics in a box."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import torch

from fitting.reduced import ReducedProblem
from fitting.solver import DAMPING_START, learned_bend, linearise, minimise, next_step
from fitting.stages import PartLimits

D = 12


class Quadratic(ReducedProblem):
    """E = x^T H x - 2 b^T x over q[3:3 + D]; what the solver is told of H may differ."""

    def __init__(self, hessian, linear, gauss_newton=None, curvature=None):
        part = SimpleNamespace(dofs=torch.arange(3, 3 + D))
        gauss_newton = hessian if gauss_newton is None else gauss_newton
        curvature = hessian - gauss_newton if curvature is None else curvature
        for name, value in (
            ("part", part), ("H", hessian), ("b", linear), ("gn", gauss_newton), ("c", curvature), ("bend", None)
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def __getitem__(self, rows):
        return Quadratic(self.H[rows], self.b[rows], self.gn[rows], self.c[rows])

    def _x(self, q):
        return q[:, 3 : 3 + D, None]

    def pose(self, q):
        return None

    def energy(self, q, pose):
        x = self._x(q)
        return (x.mT @ self.H @ x).flatten() - 2 * (self.b * x.squeeze(-1)).sum(1), None

    def gradient(self, q, pose, force):
        return (self.H @ self._x(q)).squeeze(-1) - self.b, None, None

    def matrices(self, q, pose, twists, wrench):
        return self.gn, self.c


def _definite(rows, seed):
    a = torch.randn(rows, 30, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return a.mT @ a / 30 + 0.05 * torch.eye(D, dtype=torch.float64)


def _random(rows, seed, scale=1.0):
    return scale * torch.randn(rows, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def boxed():
    """10 quadratics whose free minima are mostly outside a box, a start inside, and the box."""
    low = -0.3 - torch.rand(D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    box = PartLimits(low, -low / 2, max_step=0.4)
    q = torch.zeros(10, 46, dtype=torch.float64)
    q[:, 3 : 3 + D] = torch.minimum(torch.maximum(_random(10, 4), box.low), box.high)
    return Quadratic(_definite(10, 5), _random(10, 6)), q, box


def _wide(max_step):
    bound = torch.full((D,), 9.0, dtype=torch.float64)
    return PartLimits(-bound, bound, max_step)


def test_finds_the_minimum_in_the_box(boxed):
    problem, q, box = boxed
    found, *_ = minimise(problem, linearise(problem, q), box, 60, 1e-10)
    at_limit = 0
    for row in range(10):
        factor = np.linalg.cholesky(problem.H[row].numpy())
        right = np.linalg.solve(factor, problem.b[row].numpy())
        expected = scipy.optimize.lsq_linear(factor.T, right, (box.low.numpy(), box.high.numpy()), tol=1e-14).x
        np.testing.assert_allclose(found[row, 3 : 3 + D].numpy(), expected, atol=1e-6)
        at_limit += int(((found[row, 3 : 3 + D] == box.low) | (found[row, 3 : 3 + D] == box.high)).sum())
    assert at_limit > 10  # exactly on the edge, not near it
    assert torch.equal(found[:, :3], q[:, :3])
    assert torch.equal(found[:, 3 + D :], q[:, 3 + D :])
    # Rows that are done stay, and count no more steps.
    q = torch.cat((found[:5], q[5:]))
    again, _, tried = minimise(problem, linearise(problem, q), box, 8, 1e-6)
    assert tried[:5].max() == 1 < tried[5:].min()
    torch.testing.assert_close(again[:5], found[:5], rtol=0, atol=1e-6)


def test_limits_hold_and_energy_never_rises_at_any_step(boxed):
    problem, q, box = boxed
    energy, damping = problem.energy(q, None)[0], None
    for _ in range(12):
        before = q
        q, damping, tried = minimise(problem, linearise(problem, q, damping), box, 1, 1e-10)
        x = q[:, 3 : 3 + D]
        assert bool(((x >= box.low) & (x <= box.high)).all())
        assert float((q - before).abs().max()) <= box.max_step + 1e-12
        energy, earlier = problem.energy(q, None)[0], energy
        assert bool((energy <= earlier).all())
        assert tried.tolist() == [1] * 10


def test_gauss_newton_where_newton_is_not_definite():
    """The row's own choice: one row may take Newton's step beside another that cannot."""
    hessian = _definite(2, 7)
    saddle = torch.stack((torch.zeros_like(hessian[0]), -2 * hessian[1]))
    problem = Quadratic(hessian, _random(2, 8, 0.1), gauss_newton=hessian, curvature=saddle)
    box = _wide(99.0)
    at = linearise(problem, torch.zeros(2, 46, dtype=torch.float64))
    damped = hessian + DAMPING_START * torch.diag_embed(hessian.diagonal(dim1=1, dim2=2))
    expected = -torch.linalg.solve(damped, at.gradient)
    torch.testing.assert_close(next_step(problem, at, box), expected, rtol=1e-6, atol=0)
    bowl = Quadratic(hessian, problem.b, gauss_newton=hessian, curvature=0.5 * hessian)
    shorter = next_step(bowl, linearise(bowl, at.q), box)
    torch.testing.assert_close(shorter, expected / 1.5, rtol=1e-6, atol=0)


def test_damping_rises_until_a_step_helps():
    """A matrix far too small asks for steps far too long; they are refused until the damping has them short."""
    hessian = _definite(1, 9)
    problem = Quadratic(hessian, _random(1, 10), gauss_newton=hessian / 50, curvature=torch.zeros_like(hessian))
    box = _wide(9.0)
    q = torch.zeros(1, 46, dtype=torch.float64)
    first, damping, _ = minimise(problem, linearise(problem, q), box, 1, 1e-9)
    assert torch.equal(first, q)
    assert float(damping) > DAMPING_START
    later, _, _ = minimise(problem, linearise(problem, q), box, 30, 1e-9)
    assert float(problem.energy(later, None)[0]) < float(problem.energy(q, None)[0])


def test_learned_bend_recovers_what_the_matrix_misses():
    """A missing rank-one part is found from one move; a move across it teaches nothing."""
    hessian, missing = _definite(2, 13), _random(2, 14)
    bend = missing[:, :, None] * missing[:, None, :]
    truth = Quadratic(hessian + bend, _random(2, 15), gauss_newton=hessian, curvature=torch.zeros_like(hessian))
    q = torch.zeros(2, 46, dtype=torch.float64)
    moved = q.clone()
    moved[:, 3 : 3 + D] = _random(2, 16)
    across = moved[1, 3 : 3 + D]
    moved[1, 3 : 3 + D] = across - (across @ missing[1]) / (missing[1] @ missing[1]) * missing[1]
    learned = learned_bend(linearise(truth, q), linearise(truth, moved), None, truth.part.dofs)
    torch.testing.assert_close(learned[0], bend[0], rtol=0, atol=1e-9)
    assert float(learned[1].abs().max()) < 1e-9
    # What is known already is not learned twice.
    knowing = linearise(truth, moved)
    again = learned_bend(linearise(truth, q), knowing, bend, truth.part.dofs)
    torch.testing.assert_close(again, bend, rtol=0, atol=1e-9)
