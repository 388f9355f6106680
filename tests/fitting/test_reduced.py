"""The problem over the dofs: gradient and matrices against finite differences and against the mesh itself."""

import copy
from dataclasses import replace

import pytest
import torch

from bench.objective import Objective
from fitting.kinematics import Skeleton
from fitting.solver import linearise
from fitting.starts import initial_q
from fitting.target import FitRows
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.lbs import skin

STAGES = {1: "upper", -1: "full"}


@pytest.fixture(scope="module")
def rows(plain_model, people):
    betas = plain_model.shape(people.betas)
    return FitRows(plain_model.targets(people, betas), betas, Skeleton.of(plain_model.skel, betas))


@pytest.fixture(scope="module")
def q(plain_model, rows):
    return initial_q(plain_model, rows.target.rotmat, rows.skeleton)


@pytest.fixture(scope="module")
def problem_at(plain_model, rows):
    """A stage's problem around a visit at q."""

    def problem_at(stage, q, correctives=False):
        tables = plain_model.stages[stage]
        return plain_model.solve.collapse(tables, rows, tables.moments.at(rows.betas), q, correctives)[0]

    return problem_at


def _away(q, seed=0):
    moved = q.clone()
    noise = torch.randn(len(q), 43, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved[:, 3:] += 0.1 * noise
    return moved


def _energy(problem, q):
    return problem.energy(q, problem.pose(q))[0]


@pytest.fixture(scope="module", params=STAGES, ids=STAGES.values())
def bent(request, problem_at, q):
    """A stage's problem with all that it can hold: tilt and bend too."""
    problem = problem_at(request.param, q, correctives=True)
    count = len(problem.part.dofs)
    bend = 1e-3 * torch.randn(len(q), count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return replace(problem, bend=bend + bend.mT)


def test_gradient_and_newtons_matrix_are_half_the_derivatives_of_the_energy(bent, q):
    point = _away(q)
    at = linearise(bent, point)
    newton = at.gauss_newton + at.curvature
    for index, dof in enumerate(bent.part.dofs.tolist()):
        ahead, behind = point.clone(), point.clone()
        ahead[:, dof] += 1e-5
        behind[:, dof] -= 1e-5
        one, other = linearise(bent, ahead), linearise(bent, behind)
        # Two models' rotations are orthogonal to float32 only.
        for found, numeric, atol in (
            (at.gradient[:, index], (one.energy - other.energy) / 4e-5, 2e-8),
            (newton[:, index], (one.gradient - other.gradient) / 2e-5, 1e-6),
        ):
            torch.testing.assert_close(found, numeric, rtol=0, atol=atol, msg=lambda m, k=dof: f"{DOF_NAMES[k]}: {m}")
    assert float(at.gradient.abs().max()) > 1e-3
    # Curvature is what Gauss and Newton leave out; it is no small change here.
    assert float(at.curvature.abs().max()) > 1e-3
    # The prior lifts every dof; what float32 moments take away is less.
    assert float(torch.linalg.eigvalsh((at.gauss_newton + at.gauss_newton.mT) / 2).min()) > -1e-7


@pytest.mark.parametrize("number", [0, 1])
def test_gauss_newton_is_that_of_the_mesh(plain_model, rows, problem_at, q, number):
    """J^T C J with J by central differences of vertices and joints, rest vertices held, correctives left out: so the
    table of second moments is the sum over vertices."""
    model, stage = plain_model, plain_model.stages[number]
    problem = problem_at(number, q)
    skel = copy.deepcopy(model.skel).double()
    numbers = stage.surface.vertices
    rest = skel.prepare_shape(rows.betas.double()).rest[:, numbers]

    def points(at):
        pose = problem.pose(at)
        return torch.cat((skin(skel.weights[numbers], pose.transforms[:, :, :3], rest), pose.position), 1).flatten(1)

    columns = []
    for dof in problem.part.dofs.tolist():
        ahead, behind = q.clone(), q.clone()
        ahead[:, dof] += 1e-5
        behind[:, dof] -= 1e-5
        columns.append((points(ahead) - points(behind)) / 2e-5)
    jacobian = torch.stack(columns, -1)
    weight = torch.cat((stage.surface.importance, stage.joint_importance)).double().repeat_interleave(3)
    expected = jacobian.mT @ (weight[:, None] * jacobian) + torch.diag(stage.prior)
    torch.testing.assert_close(linearise(problem, q).gauss_newton, expected, rtol=0, atol=1e-6)


def test_gradient_at_a_visit_is_that_of_the_true_objective(model, rows, problem_at, people, smpl, q):
    """E with its pose correctives, differentiated automatically in float64 from SKEL itself."""
    point = _away(q)
    problem = problem_at(-1, point, correctives=True)
    objective = Objective.of(people, rows.betas, smpl, model)
    energy, gradient, _ = objective.derivatives(point[:, 3:])
    at = linearise(problem, point)
    torch.testing.assert_close(at.energy, energy, rtol=1e-5, atol=0)
    torch.testing.assert_close(at.gradient, gradient, rtol=0, atol=1e-7)
    # The correctives' share is what makes it so.
    assert float((at.gradient - problem.tilt - gradient).abs().max()) > 1e-5
