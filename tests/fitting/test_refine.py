"""Shape and root refined beside the pose: E falls, what was put in comes out, rows leave each other alone."""

import copy
from dataclasses import replace

import pytest
import torch

import fitting
from fitting import Stage, Status, fit_batch
from fitting.kinematics import Skeleton
from fitting.lanes.mesh import LaneMesh, chunks_of
from fitting.refine import BETAS, Others, Refiner, Slope, placed, refined
from fitting.starts import initial_q
from fitting.target import FitRows
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.rows import SmplParams


@pytest.fixture(scope="module", params=["refine_shape", "refine_root", "refine"])
def recipe(request):
    return request.param


@pytest.fixture(scope="module")
def refining(prepared, recipe):
    return prepared(recipe)


@pytest.fixture(scope="module")
def both(fits, recipe):
    """Fitted, and fitted with more freedom."""
    return fits("default"), fits(recipe)


@pytest.fixture(scope="module")
def better(fits):
    """With all freedom."""
    return fits("refine")


def test_every_row_is_better_and_within_its_limits(both, refining):
    plain, better = both
    assert bool((better.energy < plain.energy).all())
    assert float((better.energy / plain.energy).mean()) < 0.95
    assert float(better.max_limit_violation_deg.max()) == 0
    q = better.skel.q.double()
    assert bool(((q >= refining.low) & (q <= refining.high)).all())
    assert set(better.status.tolist()) <= {Status.converged, Status.at_limit}
    assert bool((better.iterations > plain.iterations).all())


def test_only_what_the_recipe_frees_has_moved(both, refining, skel):
    plain, better = both
    assert torch.equal(plain.skel.betas, better.skel.betas) == (refining.config.shape != "refine")
    frames = [skel(*(getattr(r.skel, n) for n in ("q", "betas", "transl"))).joint_frames[:, 0] for r in both]
    rests = [skel.prepare_shape(r.skel.betas).bone_rotmat[:, 0] for r in both]
    first, second = (frame @ rest.mT for frame, rest in zip(frames, rests, strict=True))
    turned = float((first - second).abs().max())
    assert turned < 1e-5 if refining.config.root == "frozen" else turned > 1e-3


@pytest.mark.parametrize("compiled", [True, False])
def test_body_and_root_put_in_come_out(prepared, skel, compiled):
    """The target is SKEL itself, of other betas, its pelvis turned and moved; some of its vertices tell."""
    last = Stage(part="full", vertices=400, refreshes=4, iterations=2)
    config = replace(fitting.recipe("refine"), stages=(last,), betas_weight=1e-9, prior_weight=1e-8)
    model = prepared(config, compiled)
    generator = torch.Generator().manual_seed(4)
    count = 4
    q = 0.2 * torch.randn(64, 46, generator=generator, dtype=torch.float64)
    q = torch.minimum(torch.maximum(q, model.low + 0.05), model.high - 0.05)
    q[:, :3] = 0
    betas = torch.randn(64, 10, generator=generator)
    true = Others(
        betas + 0.5 * torch.randn(64, 10, generator=generator),
        rotvec_to_rotmat(0.1 * torch.randn(64, 3, generator=generator, dtype=torch.float64)),
        0.02 * torch.randn(64, 3, generator=generator, dtype=torch.float64),
    )
    posed = skel(q.float(), true.betas, torch.zeros(64, 3))
    rotmat, shift = true.rotmat.float(), true.shift.float()
    rest = SmplParams(torch.zeros(64, 3), torch.zeros(64, 23, 3), torch.zeros(64, 10), torch.zeros(64, 3))
    target = model.targets(rest, betas)
    vertices = (posed.vertices @ rotmat.mT + shift[:, None]).mT.contiguous()
    target = replace(
        target,
        vertices=LaneMesh(chunks_of(vertices.mT.float()), len(vertices)) if compiled else vertices,
        anatomical_joints=posed.joints @ rotmat.mT + shift[:, None],
    )
    rows = FitRows(target, betas, Skeleton.of(model.skel, betas))
    start = model.solve(rows, q)
    there, found = refined(model, rows, start)
    assert float(start.v2v[:count].min()) > 5
    assert float(found.v2v.max()) < 0.5
    assert float((there.betas - true.betas).abs().max()) < 0.1
    assert float((there.target.global_rotmat - rotmat).abs().max()) < 0.01


def _energy(model, smpl, skel, params, others, q, unknowns):
    """E [B] where `unknowns` [B 59] lead from `others` and q: posed by the public models, in float64."""
    turn, glide, change, bend = unknowns.split((3, 3, 10, 43), 1)
    smpl, skel = (copy.deepcopy(body).double() for body in (smpl, skel))
    zero = torch.zeros(len(q), 3, dtype=torch.float64)
    annotated = smpl(zero, params.body_pose.double(), params.betas.double(), zero).vertices
    betas = others.betas.double() + change
    first = model.shape(params.betas).double()
    apart = smpl.shaped(params.betas.double())[0].mean(1) - skel.prepare_shape(first).rest.mean(1)
    pivot = skel.prepare_shape(others.betas.double()).joints[:, 0]
    means = skel.prepare_shape(betas).rest.mean(1) - skel.prepare_shape(others.betas.double()).rest.mean(1)
    posed = skel(torch.cat((zero, q[:, 3:] + bend), 1), betas, zero)

    def moved(points):
        points = (points - pivot[:, None]) @ rotvec_to_rotmat(turn).mT + (pivot + glide - means)[:, None]
        return points @ others.rotmat.mT + (others.shift + apart)[:, None]

    last = model.stages[-1]
    energy = (moved(posed.vertices) - annotated).square().sum(-1).mean(1)
    joints = (moved(posed.joints) - skel.joint_regressor @ annotated).square().sum(-1)
    return energy + joints @ last.joint_importance.double() + (last.prior * (q[:, 3:] + bend).square()).sum(1)


@pytest.fixture(scope="module", params=[True, False], ids=["compiled", "plain"])
def somewhere(request, people, prepared):
    """Rows with a betas, root and pose of their own, nowhere near a minimum."""
    model = prepared("refine", request.param)
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    betas = model.shape(people.betas)
    target = model.targets(people, betas)
    rows = FitRows(target, betas, Skeleton.of(model.skel, betas))
    q = initial_q(model, target.rotmat, rows.skeleton)
    q[:, 3:] += 0.02 * normal(4, 43)
    others = Others(betas + 0.5 * normal(4, 10).float(), rotvec_to_rotmat(0.1 * normal(4, 3)), 0.02 * normal(4, 3))
    return model, rows, others, q


def test_the_gradient_is_that_of_the_objective(somewhere, people, smpl, skel):
    model, rows, others, q = somewhere
    unknowns = torch.zeros(4, 59, dtype=torch.float64, requires_grad=True)
    energy = _energy(model, smpl, skel, people, others, q, unknowns)
    (expected,) = torch.autograd.grad(energy.sum(), unknowns)
    gradient, matrix = Slope(model)(placed(model, rows, others), q)
    for part in (slice(0, 3), slice(3, 6), BETAS, slice(16, 59)):
        difference = (gradient[:, part] - expected[:, part] / 2).norm(dim=1)
        assert bool((difference < 1e-4 * expected[:, part].norm(dim=1)).all())
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0


def test_a_step_leads_where_its_unknowns_say(somewhere, people, smpl, skel):
    model, _, others, q = somewhere
    # Within the limits, so that none of it is cut off.
    q = torch.minimum(torch.maximum(q, model.low + 0.1), model.high - 0.1)
    q[:, :3] = 0
    step = 0.02 * torch.randn(4, 59, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    there, end = Refiner(model).moved(others, q, step)
    nothing = torch.zeros_like(step)
    led = _energy(model, smpl, skel, people, there, end, nothing)
    torch.testing.assert_close(led, _energy(model, smpl, skel, people, others, q, step), rtol=1e-5, atol=0)
    assert bool((led - _energy(model, smpl, skel, people, others, q, nothing)).abs().min() > 1e-6)


def test_rows_come_out_alone_as_in_company_and_beside_a_bad_one(better, people, prepared):
    refiner, order = prepared("refine"), torch.tensor([2, 0, 3, 1])
    spoiled = replace(people, betas=people.betas.index_fill(0, torch.tensor([2]), torch.nan))
    shuffled, alone = fit_batch(spoiled[order], refiner), fit_batch(people[1:2], refiner)
    assert int(shuffled.status[0]) == Status.rejected
    assert bool(shuffled.skel.betas[0].isnan().all())
    for other, found, rows in ((shuffled, slice(1, 4), order[1:]), (alone, slice(1), torch.tensor([1]))):
        torch.testing.assert_close(other.skel.q[found], better.skel.q[rows], rtol=0, atol=1e-4)
        torch.testing.assert_close(other.skel.betas[found], better.skel.betas[rows], rtol=0, atol=1e-5)
        torch.testing.assert_close(other.skel.transl[found], better.skel.transl[rows], rtol=0, atol=1e-5)
        torch.testing.assert_close(other.v2v_mm[found], better.v2v_mm[rows], rtol=0, atol=1e-3)
        assert torch.equal(other.status[found], better.status[rows])


def test_plain_and_compiled_end_alike(better, people, prepared):
    plain = fit_batch(people, prepared("refine", compiled=False))
    torch.testing.assert_close(plain.energy, better.energy, rtol=1e-3, atol=0)
    torch.testing.assert_close(plain.v2v_mm, better.v2v_mm, rtol=0, atol=0.05)


def test_heavy_betas_stay(people, prepared, model):
    config = replace(fitting.recipe("refine_shape"), betas_weight=1.0)
    heavy = fit_batch(people, prepared(config))
    torch.testing.assert_close(heavy.skel.betas, model.shape(people.betas), rtol=0, atol=1e-3)
