"""Every compiled kernel against its twin in plain torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fitting import solver as plain
from fitting.kinematics import Skeleton
from fitting.lanes import newton, quadratic, skeleton
from fitting.lanes.arrive import corrective_tilt, learn, pose_coefficients, pull_joints
from fitting.lanes.chunk import LaneTables, bone_columns, part_of, tree_of
from fitting.lanes.state import BONES, LANES, new_desk, records
from fitting.lanes.surface import Room, visit
from fitting.starts import initial_q
from fitting.target import FitRows
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.moving_joints import moving_curvatures
from hmr_skel.rows import SmplParams

STAGES = {1: "upper", -1: "full"}
FREE = slice(3, 46)


def _lanes(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.movedim(0, -1).numpy())


def _unpacked(packed: np.ndarray, size: int) -> torch.Tensor:
    """The first rows of a packed triangle, [L size size]."""
    packed = packed[: size * (size + 1) // 2]
    rows, columns = np.tril_indices(size)
    full = torch.zeros(LANES, size, size, dtype=torch.float64)
    full[:, rows, columns] = torch.from_numpy(packed.T.astype(np.float64))
    full[:, columns, rows] = full[:, rows, columns]
    return full


def _assert_lanes(found: np.ndarray, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(torch.from_numpy(np.moveaxis(found, -1, 0).copy()), expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def rows(plain_model) -> FitRows:
    generator = torch.Generator().manual_seed(7)
    params = SmplParams(
        torch.randn(LANES, 3, generator=generator), 0.3 * torch.randn(LANES, 23, 3, generator=generator),
        torch.randn(LANES, 10, generator=generator), torch.randn(LANES, 3, generator=generator),
    )  # fmt: skip
    betas = plain_model.shape(params.betas)
    return FitRows(plain_model.targets(params, betas), betas, Skeleton.of(plain_model.skel, betas))


@pytest.fixture(scope="module")
def q(plain_model, rows) -> torch.Tensor:
    """Near the warm start, with some dofs on their limits."""
    q = initial_q(plain_model, rows.target.rotmat, rows.skeleton)
    q = q + 0.05 * torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    q[:5, 17:30] *= 1e-3  # arcs by their series
    return torch.minimum(torch.maximum(q, plain_model.low), plain_model.high)


@pytest.fixture(scope="module")
def bones(rows):
    bones = records(BONES)
    for name, values in bone_columns(rows.skeleton).items():
        bones[name][0] = np.moveaxis(values, 0, -1)
    return bones


def test_pose_twists_and_glides(plain_model, rows, q, bones):
    kinematics = plain_model.kinematics
    pose = kinematics.pose(q, rows.skeleton)
    twists = kinematics.twists(q, rows.skeleton, pose)
    desk, tree = new_desk(), tree_of(kinematics)
    skeleton.pose(tree, bones, _lanes(q), desk)
    skeleton.twists(tree, bones, _lanes(q), desk)
    found = desk[0]
    _assert_lanes(found["transforms"], pose.transforms[:, :, :3], 1e-13)
    _assert_lanes(found["position"], pose.position, 1e-13)
    joints, orders = torch.tensor(DOF_JOINTS)[FREE], kinematics.dof_order[FREE]
    _assert_lanes(found["axis"][FREE], twists.axis[:, joints, orders], 1e-13)
    _assert_lanes(found["velocity"][FREE], twists.velocity[:, joints, orders], 1e-13)
    _assert_lanes(found["linear"][FREE], twists.matrix[:, joints, orders, :, 3], 1e-13)
    expected = moving_curvatures(q, rows.skeleton.joints)
    skeleton.glide_curvatures(bones, _lanes(q), desk)
    for which, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
        _assert_lanes(found["glide"][:, which], expected[:, :, a, b], 1e-13)


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
    part, desk = part_of(tables), new_desk()
    laned = quadratic.Quadratic(_lanes(second), _lanes(vectors), _lanes(scale))
    for name, values in (
        ("cross", problem.cross.mT), ("start", problem.start[:, :, :3]), ("start_energy", problem.energy_start),
        ("anchor", q),
    ):  # fmt: skip
        desk[name][0] = _lanes(values)
    if problem.tilt is not None:
        desk["tilt"][0, :size] = _lanes(problem.tilt)
    moved = q.clone()
    noise = torch.randn(LANES, size, dtype=torch.float64, generator=torch.Generator().manual_seed(10))
    moved[:, tables.part.dofs] += 0.03 * noise
    moved = torch.minimum(torch.maximum(moved, plain_model.low), plain_model.high)
    tree = tree_of(plain_model.kinematics)
    quadratic.linearise(tree, part, bones, laned, _lanes(moved), desk)
    return tables, problem, moved, (tree, part, bones, laned, desk)


def test_energy_gradient_and_matrices(case):
    tables, problem, q, (*_, desk) = case
    expected, at, size = plain.linearise(problem, q), desk[0], len(tables.part.dofs)
    _assert_lanes(at["energy"], expected.energy, 1e-15)
    _assert_lanes(at["gradient"][:size], expected.gradient, 1e-14)
    torch.testing.assert_close(_unpacked(at["curvature"], size), expected.curvature, rtol=0, atol=1e-13)
    torch.testing.assert_close(_unpacked(at["gauss_newton"], size), expected.gauss_newton, rtol=0, atol=1e-6)


@pytest.mark.parametrize("indefinite", [False, True])
def test_steps_are_the_plain_ones_and_never_leave_the_box(case, indefinite):
    tables, problem, q, (_, part, *_, desk) = case
    size, at, dofs = len(tables.part.dofs), desk[0], tables.part.dofs
    if indefinite:
        at["curvature"] -= 10 * np.abs(at["curvature"])
    # The plain solver is given the compiled one's matrices, so that nothing but the step is compared.
    gauss_newton, curvature = (_unpacked(at[name], size) for name in ("gauss_newton", "curvature"))
    start = replace(plain.linearise(problem, q), gauss_newton=gauss_newton, curvature=curvature)
    if indefinite:
        assert bool((torch.linalg.eigvalsh(gauss_newton + curvature) < 0).any(1).all())
    for damping in (1e-4, 1.0):
        newton.next_step(part, _lanes(q), np.full(LANES, damping), desk)
        start = replace(start, damping=torch.full_like(start.damping, damping))
        step = torch.from_numpy(at["step"][:size].T.copy())
        torch.testing.assert_close(step, plain.next_step(problem, start, tables.limits), rtol=0, atol=1e-6)
        assert float(step.abs().max()) <= tables.limits.max_step + 1e-12
        there = q[:, dofs] + step
        assert bool(((there >= tables.limits.low - 1e-12) & (there <= tables.limits.high + 1e-12)).all())


def test_minimise(case):
    tables, problem, q, (tree, part, bones, laned, desk) = case
    found, damping, tried = _lanes(q), np.full(LANES, plain.DAMPING_START), np.zeros(LANES, np.int32)
    newton.next_step(part, found, damping, desk)
    newton.minimise(tree, part, bones, laned, 4, 1e-3, found, damping, tried, True, desk)
    expected = plain.minimise(problem, plain.linearise(problem, q), tables.limits, 4, 1e-3)
    _assert_lanes(found, expected[0], 2e-3)
    assert float(np.median(np.abs(found - _lanes(expected[0])))) < 1e-5
    assert np.array_equal(tried, expected[2].numpy())


def test_a_visit_to_the_vertices(plain_model, skel, rows, q, bones):
    tables = plain_model.stages[-1]
    pose = plain_model.kinematics.pose(q, rows.skeleton)
    expected, squared = plain_model.solve.collapse(tables, rows, tables.moments.at(rows.betas), q, correctives=True)
    tree, laned, desk = tree_of(plain_model.kinematics), LaneTables(tables, skel), new_desk()
    at = desk[0]
    skeleton.pose(tree, bones, _lanes(q), desk)
    at["coefficients"][:11] = np.concatenate((np.ones((1, LANES)), rows.betas.T.numpy()))
    pose_coefficients(tree, desk)
    _assert_lanes(at["transforms_short"], pose.transforms[:, :, :3].float(), 1e-6)
    target = np.ascontiguousarray(rows.target.vertices.permute(2, 1, 0).numpy())
    visit(laned.surface, target, laned.vertices, laned.importance, True, desk, Room())
    distances = squared.sqrt().double()
    _assert_lanes(at["total"] / laned.surface.count, distances.mean(1), 1e-7)
    _assert_lanes(at["largest"].astype(np.float64), distances.amax(1), 1e-6)
    pull_joints(laned.part, bones, np.ascontiguousarray(rows.target.anatomical_joints.permute(1, 2, 0).numpy()), desk)
    corrective_tilt(tree, laned.part, desk)
    _assert_lanes(at["start_energy"], expected.energy_start, 1e-9)
    _assert_lanes(at["cross"], expected.cross.mT, 1e-7)
    _assert_lanes(at["tilt"], expected.tilt, 1e-7)


def test_what_two_visits_teach(case):
    tables, problem, q, (_, part, *_, desk) = case
    size = len(tables.part.dofs)
    generator = torch.Generator().manual_seed(11)
    now = replace(plain.linearise(problem, q), gauss_newton=_unpacked(desk["gauss_newton"][0], size))
    before = replace(
        now, q=q + 0.01 * torch.randn(q.shape, dtype=torch.float64, generator=generator),
        gradient=now.gradient + 1e-3 * torch.randn(now.gradient.shape, dtype=torch.float64, generator=generator),
    )  # fmt: skip
    bend = plain.learned_bend(before, now, None, tables.part.dofs)
    vector, scale = np.zeros((size, LANES)), np.zeros(LANES)
    learn(part, _lanes(q), _lanes(before.q), _lanes(before.gradient), vector, scale, desk)
    largest = max(float(bend.abs().max()), 1)
    learnt = _unpacked(desk["curvature"][0], size)
    torch.testing.assert_close(learnt, now.curvature + bend, rtol=0, atol=1e-9 * largest)
    v = torch.from_numpy(vector.T)
    torch.testing.assert_close(
        torch.from_numpy(scale)[:, None, None] * v[:, :, None] * v[:, None], bend, rtol=1e-6, atol=1e-9
    )
