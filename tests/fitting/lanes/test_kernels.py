"""Every compiled kernel against its twin in plain torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fitting import solver as plain
from fitting.batch import Batch
from fitting.initial import initial_q
from fitting.kinematics import Skeleton
from fitting.lanes import newton, quadratic, skeleton
from fitting.lanes import problem as laned_problem
from fitting.lanes.arrive import corrected, corrective_tilt, learn, pose_coefficients, pull_joints
from fitting.lanes.descend import LaneTables
from fitting.lanes.lanes import LANES
from fitting.lanes.surface import Room, visit
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.moving_joints import moving_curvatures
from hmr_skel.rows import SmplParams

STAGES = {0: "lower", 1: "upper", -1: "full"}
FREE = slice(3, 46)


def _lanes(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.movedim(0, -1).numpy())


def _unpacked(packed: np.ndarray) -> torch.Tensor:
    """A packed triangle [D (D + 1) / 2, L] as [L D D]."""
    size = int((8 * len(packed) + 1) ** 0.5) // 2
    rows, columns = np.tril_indices(size)
    full = torch.zeros(LANES, size, size, dtype=torch.float64)
    full[:, rows, columns] = torch.from_numpy(packed.T.astype(np.float64))
    full[:, columns, rows] = full[:, rows, columns]
    return full


def _assert_lanes(found: np.ndarray, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(torch.from_numpy(np.moveaxis(found, -1, 0).copy()), expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def rows(plain_model) -> Batch:
    generator = torch.Generator().manual_seed(7)
    params = SmplParams(
        torch.randn(LANES, 3, generator=generator), 0.3 * torch.randn(LANES, 23, 3, generator=generator),
        torch.randn(LANES, 10, generator=generator), torch.randn(LANES, 3, generator=generator),
    )  # fmt: skip
    betas = plain_model.shape(params.betas)
    return Batch(plain_model.targets(params, betas), betas, Skeleton.of(plain_model.skel, betas))


@pytest.fixture(scope="module")
def q(plain_model, rows) -> torch.Tensor:
    """Near the warm start, with some dofs on their limits."""
    q = initial_q(rows.target.rotmat.double(), rows.skeleton, plain_model.kinematics, plain_model.low, plain_model.high)
    q = q + 0.05 * torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    q[:5, 17:30] *= 1e-3  # arcs by their series
    return torch.minimum(torch.maximum(q, plain_model.low), plain_model.high)


@pytest.fixture(scope="module")
def bones(rows):
    columns = {n: np.ascontiguousarray(np.moveaxis(v, 0, -1)) for n, v in skeleton.bone_columns(rows.skeleton).items()}
    return skeleton.Bones(**columns)


def test_pose_and_twists(plain_model, rows, q, bones):
    kinematics = plain_model.kinematics
    pose = kinematics.pose(q, rows.skeleton)
    twists = kinematics.twists(q, rows.skeleton, pose)
    found, room, tree = skeleton.posed(), skeleton.scratch(), skeleton.tree_of(kinematics)
    skeleton.pose(tree, bones, _lanes(q), found, room)
    skeleton.twists(tree, bones, _lanes(q), found, room)
    _assert_lanes(found.transforms, pose.transforms[:, :, :3], 1e-13)
    _assert_lanes(found.position, pose.position, 1e-13)
    joints, orders = torch.tensor(DOF_JOINTS)[FREE], kinematics.dof_order[FREE]
    _assert_lanes(found.axis[FREE], twists.axis[:, joints, orders], 1e-13)
    _assert_lanes(found.velocity[FREE], twists.velocity[:, joints, orders], 1e-13)
    _assert_lanes(found.linear[FREE], twists.matrix[:, joints, orders, :, 3], 1e-13)


def test_glide_curvatures(rows, q, bones):
    found, expected = np.zeros((5, 3, 3, LANES)), moving_curvatures(q, rows.skeleton.joints)
    skeleton.glide_curvatures(bones, _lanes(q), found)
    for which, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
        _assert_lanes(found[:, which], expected[:, :, a, b], 1e-13)


@pytest.fixture(params=STAGES, ids=STAGES.get)
def case(request, plain_model, rows, q, bones):
    """A stage's problem twice: plain, and in lanes; with tilt and a bend in the last stage."""
    tables = plain_model.stages[request.param]
    last = tables is plain_model.stages[-1]
    second = tables.moments.at(rows.betas)
    problem, _ = plain_model.solve.collapse(tables, rows, second, q, correctives=last)
    size = len(tables.part.dofs)
    vectors = 0.05 * torch.randn(LANES, 2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    scale = torch.tensor([1.0, -0.3], dtype=torch.float64).expand(LANES, 2)
    if last:
        problem = replace(problem, bend=torch.einsum("bk,bki,bkj->bij", scale, vectors, vectors))
    else:
        vectors, scale = vectors[:, :0], scale[:, :0]
    part = laned_problem.part_of(tables)
    laned = laned_problem.Problem(
        _lanes(second), _lanes(problem.cross.mT), _lanes(problem.start[:, :, :3]), problem.energy_start.numpy(),
        _lanes(q), np.zeros((size, LANES)) if problem.tilt is None else _lanes(problem.tilt), _lanes(vectors),
        _lanes(scale),
    )  # fmt: skip
    moved = q.clone()
    noise = torch.randn(LANES, size, dtype=torch.float64, generator=torch.Generator().manual_seed(10))
    moved[:, tables.part.dofs] += 0.03 * noise
    moved = torch.minimum(torch.maximum(moved, plain_model.low), plain_model.high)
    tree = skeleton.tree_of(plain_model.kinematics)
    at, posed, room = laned_problem.local(size), skeleton.posed(), laned_problem.room(part)
    quadratic.linearise(tree, part, bones, laned, _lanes(moved), posed, at, room)
    return tables, problem, moved, (tree, part, bones, laned, posed, at, room)


def test_energy_gradient_and_matrices(case):
    _, problem, q, (*_, at, _) = case
    expected = plain.linearise(problem, q)
    _assert_lanes(at.energy, expected.energy, 1e-15)
    _assert_lanes(at.gradient, expected.gradient, 1e-14)
    torch.testing.assert_close(_unpacked(at.curvature), expected.curvature, rtol=0, atol=1e-13)
    torch.testing.assert_close(_unpacked(at.gauss_newton), expected.gauss_newton, rtol=0, atol=1e-6)


def _box(tables) -> newton.Box:
    return newton.Box(tables.box.low.numpy(), tables.box.high.numpy(), tables.box.max_step)


def test_next_step(case):
    tables, problem, q, (_, part, _, _, _, at, _) = case
    size = len(part.dofs)
    # The plain solver is given the compiled one's Gauss-Newton matrix, so that nothing but the step is compared.
    start = replace(plain.linearise(problem, q), gauss_newton=_unpacked(at.gauss_newton))
    step, work = np.zeros((size, LANES)), newton.solver(size)
    for damping in (1e-4, 1.0):
        newton.next_step(part, at, _box(tables), _lanes(q), np.full(LANES, damping), step, work)
        start = replace(start, damping=torch.full_like(start.damping, damping))
        _assert_lanes(step, plain.next_step(problem, start, tables.box), 1e-7)
    assert float(np.abs(step).max()) <= tables.box.max_step + 1e-12


def test_steps_never_leave_the_box_even_where_newtons_matrix_is_indefinite(case):
    tables, problem, q, (_, part, _, _, _, at, _) = case
    size = len(part.dofs)
    dents = at._replace(curvature=at.curvature - 10 * np.abs(at.curvature))
    start = replace(
        plain.linearise(problem, q), gauss_newton=_unpacked(at.gauss_newton), curvature=_unpacked(dents.curvature)
    )
    step, work = np.zeros((size, LANES)), newton.solver(size)
    newton.next_step(part, dents, _box(tables), _lanes(q), np.full(LANES, 1e-4), step, work)
    assert bool((torch.linalg.eigvalsh(start.gauss_newton + start.curvature) < 0).any(1).all())
    _assert_lanes(step, plain.next_step(problem, start, tables.box), 1e-6)
    there = q[:, tables.part.dofs] + torch.from_numpy(step.T)
    assert bool(((there >= tables.box.low - 1e-12) & (there <= tables.box.high + 1e-12)).all())


def test_minimise(case):
    tables, problem, q, (tree, part, bones, laned, posed, at, room) = case
    size = len(part.dofs)
    found, damping, tried = _lanes(q), np.full(LANES, plain.DAMPING_START), np.zeros(LANES, np.int32)
    newton.minimise(
        tree, part, bones, laned, _box(tables), 4, 1e-3, found, damping, tried, np.zeros((size, LANES)), False, posed,
        at, room, newton.solver(size),
    )  # fmt: skip
    expected = plain.minimise(problem, plain.linearise(problem, q), tables.box, 4, 1e-3)
    _assert_lanes(found, expected[0], 2e-3)
    assert float(np.median(np.abs(found - _lanes(expected[0])))) < 1e-5
    assert np.array_equal(tried, expected[2].numpy())


def test_a_visit_to_the_vertices(plain_model, skel, rows, q, bones):
    tables = plain_model.stages[-1]
    pose = plain_model.kinematics.pose(q, rows.skeleton)
    expected, squared = plain_model.solve.collapse(tables, rows, tables.moments.at(rows.betas), q, correctives=True)
    tree, laned = skeleton.tree_of(plain_model.kinematics), LaneTables(tables, skel)
    posed = skeleton.posed()
    skeleton.pose(tree, bones, _lanes(q), posed, skeleton.scratch())
    coefficients = np.empty((laned.surface.coefficients, LANES), np.float32)
    coefficients[:11] = np.concatenate((np.ones((1, LANES)), rows.betas.T.numpy()))
    transforms = np.empty((24, 3, 4, LANES), np.float32)
    pose_coefficients(tree, corrected(), posed, coefficients[11:], transforms)
    _assert_lanes(transforms, pose.transforms[:, :, :3].float(), 1e-6)
    target = np.ascontiguousarray(rows.target.vertices.permute(2, 1, 0).numpy())
    seen = visit(laned.surface, target, laned.vertices, laned.importance, coefficients, transforms, True, Room())
    distances = squared.sqrt().double()
    _assert_lanes(seen.mean, distances.mean(1), 1e-7)
    _assert_lanes(seen.largest.astype(np.float64), distances.amax(1), 1e-6)
    assert seen.corrective is not None
    energy, cross, tilt = seen.energy, seen.cross, np.zeros((43, LANES))
    anatomical = np.ascontiguousarray(rows.target.anatomical_joints.permute(1, 2, 0).numpy())
    pull_joints(laned.joint_weight, anatomical, bones, posed, energy, cross)
    corrective_tilt(tree, laned.part, corrected(), posed, seen.corrective, tilt)
    _assert_lanes(energy, expected.energy_start, 1e-9)
    _assert_lanes(cross, expected.cross.mT, 1e-7)
    _assert_lanes(tilt, expected.tilt, 1e-7)


def test_what_two_visits_teach(case):
    tables, problem, q, (_, part, _, _, _, at, _) = case
    generator = torch.Generator().manual_seed(11)
    now = replace(plain.linearise(problem, q), gauss_newton=_unpacked(at.gauss_newton))
    before = replace(
        now, q=q + 0.01 * torch.randn(q.shape, dtype=torch.float64, generator=generator),
        gradient=now.gradient + 1e-3 * torch.randn(now.gradient.shape, dtype=torch.float64, generator=generator),
    )  # fmt: skip
    bend = plain.learned_bend(before, now, None, tables.part.dofs)
    vector, scale = np.zeros((len(part.dofs), LANES)), np.zeros(LANES)
    learnt = at._replace(curvature=at.curvature.copy())
    learn(part, learnt, _lanes(q), _lanes(before.q), _lanes(before.gradient), vector, scale)
    size = float(bend.abs().max())
    torch.testing.assert_close(_unpacked(learnt.curvature), now.curvature + bend, rtol=0, atol=1e-9 * max(size, 1))
    v = torch.from_numpy(vector.T)
    torch.testing.assert_close(
        torch.from_numpy(scale)[:, None, None] * v[:, :, None] * v[:, None], bend, rtol=1e-6, atol=1e-9
    )
