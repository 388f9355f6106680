"""The compiled kernels: against the objective in float64, against finite differences, and on quadratics in a box."""

import copy
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import torch

from bench.objective import Objective
from fitting.descend import Room
from fitting.kinematics import Skeleton
from fitting.lanes import newton, skeleton
from fitting.lanes.arrive import learn
from fitting.lanes.cpu import seen as numpy_of
from fitting.lanes.newton import DAMPING_START
from fitting.lanes.quadratic import Quadratic, linearise
from fitting.lanes.state import BONES, LANES, new_desk
from fitting.stack import Records, Stack, part_of
from fitting.starts import initial_q
from fitting.target import FitRows
from hmr_skel.body.dofs import DOF_JOINTS, DOF_NAMES
from hmr_skel.body.lbs import skin
from hmr_skel.rows import SmplParams

STAGES = {0: "lower", 1: "upper", -1: "full"}
FREE = slice(3, 46)
D = 12  # dofs of the quadratics whose answers are known


def _normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _unpacked(packed: np.ndarray, size: int) -> torch.Tensor:
    """The first rows of a packed triangle, [L size size]."""
    rows, columns = np.tril_indices(size)
    full = torch.zeros(packed.shape[1], size, size, dtype=torch.float64)
    full[:, rows, columns] = torch.from_numpy(packed[: len(rows)].T.astype(np.float64))
    full[:, columns, rows] = full[:, rows, columns]
    return full


def _packed(full: torch.Tensor) -> np.ndarray:
    rows, columns = np.tril_indices(full.shape[1])
    return full[:, rows, columns].T.numpy()


def _assert_lanes(found: np.ndarray, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(torch.from_numpy(np.moveaxis(found, -1, 0).copy()), expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def params() -> SmplParams:
    shapes = ((3,), (23, 3), (10,), (3,))
    turn, pose, betas, transl = (_normal(LANES, *shape, seed=7 + i).float() for i, shape in enumerate(shapes))
    return SmplParams(turn, 0.3 * pose, betas, transl)


@pytest.fixture(scope="module")
def rows(model, params) -> FitRows:
    betas = model.shape(params.betas)
    return FitRows(model.targets(params, betas), betas, Skeleton.of(model.skel, betas))


@pytest.fixture(scope="module")
def q(model, rows) -> torch.Tensor:
    """Near the warm start, with some dofs on their limits."""
    q = initial_q(model, rows.target.rotmat, rows.skeleton)
    q = q + 0.05 * _normal(*q.shape, seed=8)
    q[:5, 17:30] *= 1e-3  # arcs by their series
    q[:, :3] = 0
    return torch.minimum(torch.maximum(q, model.low), model.high)


@pytest.fixture(scope="module")
def visited(model, rows, q):
    """A stage's chunk, and the desk after a visit to the vertices at q."""

    def visited(number: int, correctives: bool) -> SimpleNamespace:
        solver = model.solve
        tables = solver.stages[number]
        stack = Stack.of(rows, q).at_stage(tables, tables.stage.refreshes, solver.engine)
        room = Room(1, 1, q.device)
        solver.visit(tables, stack, room, correctives)
        chunk = {f.name: numpy_of(getattr(stack, f.name))[0] for f in fields(stack)}
        chunk["bones"] = numpy_of(Records.laid(BONES, stack.bones))
        desk, reduced = numpy_of(room.desk), numpy_of(room.reduced)
        return SimpleNamespace(
            tree=numpy_of(solver.tree), tables=tables, part=numpy_of(tables.part), size=tables.num_dofs,
            chunk=SimpleNamespace(**chunk), desk=desk, at=desk[0], reduced=reduced[0],
            problem=lambda n: Quadratic(chunk["moments"], chunk["bend"][:n], chunk["scale"][:n], reduced),
        )  # fmt: skip

    return visited


def test_pose_and_twists_are_those_of_the_kinematics(model, rows, q, visited):
    pose = model.kinematics.pose(q, rows.skeleton)
    twists = model.kinematics.twists(q, rows.skeleton, pose)
    seen = visited(-1, True)
    skeleton.twists(seen.tree, seen.chunk.bones, seen.chunk.q, seen.desk)
    _assert_lanes(seen.at["transforms"], pose.transforms[:, :, :3], 1e-13)
    _assert_lanes(seen.at["position"], pose.position, 1e-13)
    matrix = twists[:, torch.tensor(DOF_JOINTS)[FREE], model.kinematics.dof_order[FREE]]  # [[w]x | u]
    _assert_lanes(seen.at["axis"][FREE], matrix[..., (2, 0, 1), (1, 2, 0)], 1e-13)
    _assert_lanes(seen.at["linear"][FREE], matrix[..., 3], 1e-13)


def test_a_visit_gives_the_true_objective_and_its_gradient(model, params, rows, q, smpl, visited):
    """E with its pose correctives, differentiated automatically in float64 from SKEL itself."""
    seen = visited(-1, True)
    some = slice(8)
    objective = Objective.of(params[some], rows.betas[some], smpl, model)
    energy, gradient, _ = objective.derivatives(q[some, 3:])
    linearise(seen.tree, seen.part, seen.chunk.bones, seen.problem(0), seen.chunk.q, seen.desk)
    torch.testing.assert_close(torch.from_numpy(seen.at["energy"][some]), energy, rtol=1e-5, atol=0)
    _assert_lanes(seen.at["gradient"][:, some], gradient, 2e-7)
    # The correctives' share is what makes it so.
    assert float(np.abs(seen.reduced["tilt"]).max()) > 1e-5
    distances = objective.distances_mm(q[some, 3:])
    _assert_lanes(1000 * seen.reduced["total"][some] / distances.shape[1], distances.mean(1), 1e-3)
    _assert_lanes(1000 * seen.reduced["largest"][some].astype(np.float64), distances.amax(1), 5e-3)
    # The open body's correctives are mostly zeros, which no product is made with.
    surface = seen.tables.surface
    entries = sum(len(block.numbers) * len(block.columns) for block in surface.blocks)
    assert entries < 0.15 * surface.count * surface.width


@pytest.mark.parametrize("number", [1, -1], ids=STAGES.get)
def test_gradient_and_newtons_matrix_are_half_the_derivatives_of_the_energy(q, visited, number):
    """Away from the visit, with all that a stage's problem can hold: a tilt, and the bend of its visits."""
    seen = visited(number, True)
    chunk, size, dofs = seen.chunk, seen.size, seen.part["dofs"][0, : seen.size]
    visits = len(chunk.scale)
    chunk.bend[:] = 0.05 * _normal(visits, size, LANES, seed=9).numpy()
    chunk.scale[:] = np.linspace(1, -0.3, visits)[:, None]
    problem = seen.problem(visits)
    point = chunk.q + 0
    point[dofs] += 0.1 * _normal(size, LANES, seed=10).numpy()

    def at(shift: float, dof: int) -> tuple[np.ndarray, ...]:
        moved = point + 0
        moved[dof] += shift
        linearise(seen.tree, seen.part, chunk.bones, problem, moved, seen.desk)
        return seen.at["energy"] + 0, seen.at["gradient"][:size] + 0

    for index, dof in enumerate(dofs):
        (energy, ahead), (other, behind) = at(1e-5, dof), at(-1e-5, dof)
        _, gradient = at(0, dof)
        gauss_newton, curvature = (_unpacked(seen.at[name], size) for name in ("gauss_newton", "curvature"))
        np.testing.assert_allclose(gradient[index], (energy - other) / 4e-5, rtol=0, atol=2e-8, err_msg=DOF_NAMES[dof])
        newton_column = (gauss_newton + curvature)[:, index].T.numpy()
        # Gauss and Newton's matrix is summed in float32.
        np.testing.assert_allclose(newton_column, (ahead - behind) / 2e-5, rtol=0, atol=2e-6, err_msg=DOF_NAMES[dof])
    assert float(np.abs(gradient).max()) > 1e-3
    assert float(curvature.abs().max()) > 1e-3  # no small change here
    # The prior lifts every dof; what float32 moments take away is less.
    assert float(torch.linalg.eigvalsh(gauss_newton).min()) > -1e-6


@pytest.mark.parametrize("number", [0, 1], ids=STAGES.get)
def test_gauss_newton_is_that_of_the_mesh(model, rows, q, visited, number):
    """J^T C J with J by central differences of vertices and joints, rest vertices held, correctives left out: so the
    table of second moments is the sum over vertices."""
    seen, stage, some = visited(number, False), model.stages[number], slice(4)
    skel = copy.deepcopy(model.skel).double()
    numbers = stage.vertices
    rest = skel.prepare_shape(rows.betas[some].double()).rest[:, numbers]

    def points(at):
        pose = model.kinematics.pose(at, rows.skeleton[some])
        return torch.cat((skin(skel.weights[numbers], pose.transforms[:, :, :3], rest), pose.position), 1).flatten(1)

    columns = []
    for dof in stage.dofs.tolist():
        step = torch.zeros(46, dtype=q.dtype)
        step[dof] = 1e-5
        columns.append((points(q[some] + step) - points(q[some] - step)) / 2e-5)
    jacobian = torch.stack(columns, -1)
    weight = torch.cat((stage.importance, stage.joint_importance)).double().repeat_interleave(3)
    expected = jacobian.mT @ (weight[:, None] * jacobian) + torch.diag(stage.prior)
    linearise(seen.tree, seen.part, seen.chunk.bones, seen.problem(0), seen.chunk.q, seen.desk)
    torch.testing.assert_close(_unpacked(seen.at["gauss_newton"], seen.size)[some], expected, rtol=0, atol=1e-6)


class Bowls:
    """E = x^T H x - 2 b^T x of `LANES` rows over q[3:3 + D], in a box; what the kernels are told of H may differ."""

    def __init__(self, model, low=-9.0, high=9.0, max_step=9.0) -> None:
        a = _normal(LANES, 30, D, seed=5)
        self.H = a.mT @ a / 30 + 0.05 * torch.eye(D, dtype=torch.float64)
        self.b = _normal(LANES, D, seed=6)
        self.gauss_newton, self.curvature = self.H, torch.zeros_like(self.H)
        self.part = part_of(model.stages[-1])
        self.part["num_dofs"], self.part["max_step"] = D, max_step
        self.part["low"][0, :D], self.part["high"][0, :D] = low, high
        self.q, self.desk = np.zeros((46, LANES)), new_desk()
        self.damping, self.tried = np.full(LANES, DAMPING_START), np.zeros(LANES, np.int32)
        self.done = np.zeros(LANES, bool)

    def energy(self, q: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(q[3 : 3 + D].T)
        return ((x.unsqueeze(1) @ self.H @ x.unsqueeze(2)).flatten() - 2 * (self.b * x).sum(1)).numpy()

    def aim(self) -> np.ndarray:
        """The next step [D L]."""
        at, x = self.desk[0], torch.from_numpy(self.q[3 : 3 + D].T)
        at["energy"] = self.energy(self.q)
        at["gradient"][:D] = ((self.H @ x.unsqueeze(2)).squeeze(2) - self.b).T.numpy()
        for name in ("gauss_newton", "curvature"):
            at[name][: D * (D + 1) // 2] = _packed(getattr(self, name))
        newton.next_step(self.part, self.q, self.damping, self.desk)
        return at["step"][:D]

    def step(self, tolerance: float = 1e-10) -> None:
        self.aim()
        newton._move(self.part, self.q, self.desk)
        self.desk["trial_energy"][0] = self.energy(self.desk["trial"][0])
        newton._accept(self.part, tolerance, self.q, self.damping, self.tried, self.done, self.desk)


def test_finds_the_minimum_in_the_box_and_never_leaves_it(model):
    low = -0.3 - torch.rand(D, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).numpy()
    bowls = Bowls(model, low, -low / 2, max_step=0.4)
    low, high = low[:, None], -low[:, None] / 2
    bowls.q[3 : 3 + D] = np.clip(_normal(D, LANES, seed=4).numpy(), low, high)
    elsewhere = bowls.q[3 + D :].copy()
    for _ in range(60):
        before, energy = bowls.q.copy(), bowls.energy(bowls.q)
        bowls.step()
        x = bowls.q[3 : 3 + D]
        assert bool(((x >= low - 1e-15) & (x <= high + 1e-15)).all())
        assert float(np.abs(bowls.q - before).max()) <= 0.4 + 1e-12
        assert bool((bowls.energy(bowls.q) <= energy).all())
    at_limit = 0
    for row in range(0, LANES, 6):
        factor = np.linalg.cholesky(bowls.H[row].numpy())
        right = np.linalg.solve(factor, bowls.b[row].numpy())
        expected = scipy.optimize.lsq_linear(factor.T, right, (low[:, 0], high[:, 0]), tol=1e-14).x
        np.testing.assert_allclose(x[:, row], expected, atol=1e-6)
        at_limit += int((np.minimum(x - low, high - x)[:, row] < 1e-15).sum())
    assert at_limit > 10  # on the edge, not near it
    assert np.array_equal(bowls.q[3 + D :], elsewhere)
    assert not bowls.q[:3].any()
    # Rows that are done stay, and count no more steps.
    assert bowls.done.all()
    tried, before = bowls.tried.copy(), bowls.q.copy()
    bowls.step()
    assert np.array_equal(bowls.tried, tried)
    assert np.array_equal(bowls.q, before)


def test_gauss_newton_where_newton_is_not_definite(model):
    """The row's own choice: one row may take Newton's step beside another that cannot."""
    bowls = Bowls(model, low=-99.0, high=99.0, max_step=99.0)
    bowls.curvature = 0.5 * bowls.H
    bowls.curvature[::2] = -2 * bowls.H[::2]
    damped = bowls.H + DAMPING_START * torch.diag_embed(bowls.H.diagonal(dim1=1, dim2=2))
    expected = torch.linalg.solve(damped, bowls.b)
    expected[1::2] /= 1.5
    np.testing.assert_allclose(bowls.aim().T, expected, rtol=1e-4, atol=1e-6)


def test_damping_rises_until_a_step_helps(model):
    """A matrix far too small asks for steps far too long; they are refused until the damping has them short."""
    bowls = Bowls(model)
    bowls.gauss_newton = bowls.H / 50
    bowls.step()
    assert not bowls.q.any()
    assert bool((bowls.damping > DAMPING_START).all())
    for _ in range(30):
        bowls.step()
    assert bool((bowls.energy(bowls.q) < 0).all())


def test_two_visits_teach_what_the_matrix_misses(model):
    """A missing rank-one part is found from one move; a move across it teaches nothing; nothing is learned twice."""
    bowls, missing = Bowls(model), _normal(LANES, D, seed=14)
    move = missing + _normal(LANES, D, seed=16)
    bend = missing[:, :, None] * missing[:, None, :]
    across = move[1::2]
    move[1::2] = across - ((across * missing[1::2]).sum(1) / missing[1::2].square().sum(1))[:, None] * missing[1::2]
    before, last = np.zeros((46, LANES)), np.ascontiguousarray(-bowls.b.T.numpy())
    bowls.q[3 : 3 + D] = move.T
    bowls.aim()
    bowls.desk["gradient"][0, :D] += (bend @ move.unsqueeze(2)).squeeze(2).T.numpy()
    for expected in (bend[::2], torch.zeros_like(bend[::2])):
        vector, scale = np.zeros((D, LANES)), np.zeros(LANES)
        learn(bowls.part, bowls.q, before, last, vector, scale, bowls.desk)
        v = torch.from_numpy(vector.T)
        found = torch.from_numpy(scale)[:, None, None] * v[:, :, None] * v[:, None]
        torch.testing.assert_close(found[::2], expected, rtol=0, atol=1e-5)
        assert float(found[1::2].abs().max()) < 1e-5
        torch.testing.assert_close(_unpacked(bowls.desk["curvature"][0], D)[::2], bend[::2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("t", [-1.3, -0.02, -1e-3, 0.0, 0.0199, 0.5, 2.0])
def test_arcs_bend_as_their_rates_change(t):
    expected = (
        [(a - b) / 2e-5 for a, b in zip(*(skeleton._arc_rate.py_func(t + h) for h in (1e-5, -1e-5)), strict=True)]
    )  # fmt: skip
    np.testing.assert_allclose(skeleton._arc_curvature.py_func(t), expected, rtol=0, atol=1e-9)
