"""Shape and root refined beside the pose: E falls, what was put in comes out, rows leave each other alone."""

import copy
from dataclasses import replace

import pytest
import torch

import fitting
from fitting import Stage, Status, fit_batch
from fitting.kinematics import Skeleton
from fitting.mesh import Mesh, stacked
from fitting.refine import BETAS, Others, Refiner, Slope, placed, refined
from fitting.starts import initial_q
from fitting.target import FitRows
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.rows import SmplParams


@pytest.mark.parametrize("recipe", ["refine_shape", "refine_root", "refine"])
def test_every_row_is_better_within_its_limits_and_only_what_the_recipe_frees_has_moved(recipe, fits, prepared, skel):
    plain, better, model = fits("default"), fits(recipe), prepared(recipe)
    assert bool((better.energy < plain.energy).all())
    assert float((better.energy / plain.energy).mean()) < 0.95
    assert float(better.max_limit_violation_deg.max()) == 0
    q = better.skel.q.double()
    assert bool(((q >= model.low) & (q <= model.high)).all())
    assert set(better.status.tolist()) <= {Status.converged, Status.at_limit, Status.implausible}
    assert bool((better.iterations > plain.iterations).all())
    assert torch.equal(plain.skel.betas, better.skel.betas) == (recipe == "refine_root")
    first, second = (
        skel(of.q, of.betas, of.transl).joint_frames[:, 0] @ skel.prepare_shape(of.betas).bone_rotmat[:, 0].mT
        for of in (plain.skel, better.skel)
    )
    turned = float((first - second).abs().max())
    assert turned < 1e-5 if recipe == "refine_shape" else turned > 1e-3


def test_body_and_root_put_in_come_out(prepared, skel):
    """The target is SKEL itself, of other betas, its pelvis turned and moved; some of its vertices tell."""
    last = Stage(part="full", vertices=400, refreshes=4, iterations=2)
    config = replace(fitting.recipe("refine"), stages=(last,), betas_weight=1e-9, prior_weight=1e-8)
    model = prepared(config)
    generator = torch.Generator().manual_seed(4)
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
    target = replace(
        model.targets(rest, betas),
        vertices=Mesh(stacked(posed.vertices @ rotmat.mT + shift[:, None]), 64, model.skin.engine),
        anatomical_joints=posed.joints @ rotmat.mT + shift[:, None],
    )
    rows = FitRows(target, betas, Skeleton.of(model.skel, betas))
    start = model.solve(rows, q)
    there, found = refined(model, rows, start)
    assert float(start.v2v[:4].min()) > 5
    assert float(found.v2v.max()) < 0.5
    assert float((there.betas - true.betas).abs().max()) < 0.1
    assert float((there.target.global_rotmat - rotmat).abs().max()) < 0.01


@pytest.fixture(scope="module")
def somewhere(people, prepared):
    """Rows with a betas, root and pose of their own, nowhere near a minimum."""
    model = prepared("refine")
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


@pytest.fixture(scope="module")
def energy(somewhere, people, smpl, skel):
    """E [B] where unknowns [B 59] lead from some others and q: posed by the public models, in float64."""
    model = somewhere[0]
    smpl, skel = (copy.deepcopy(body).double() for body in (smpl, skel))
    zero = torch.zeros(4, 3, dtype=torch.float64)
    given = people.betas.double()
    annotated = smpl(zero, people.body_pose.double(), given, zero).vertices
    apart = smpl.shaped(given)[0].mean(1) - skel.prepare_shape(model.shape(people.betas).double()).rest.mean(1)

    def of(others, q, unknowns):
        turn, glide, change, bend = unknowns.split((3, 3, 10, 43), 1)
        betas = others.betas.double() + change
        pivot = skel.prepare_shape(others.betas.double()).joints[:, 0]
        means = skel.prepare_shape(betas).rest.mean(1) - skel.prepare_shape(others.betas.double()).rest.mean(1)
        posed = skel(torch.cat((zero, q[:, 3:] + bend), 1), betas, zero)

        def moved(points):
            points = (points - pivot[:, None]) @ rotvec_to_rotmat(turn).mT + (pivot + glide - means)[:, None]
            return points @ others.rotmat.mT + (others.shift + apart)[:, None]

        last = model.stages[-1]
        squared = (moved(posed.vertices) - annotated).square().sum(-1).mean(1)
        joints = (moved(posed.joints) - skel.joint_regressor @ annotated).square().sum(-1)
        return squared + joints @ last.joint_importance.double() + (last.prior * (q[:, 3:] + bend).square()).sum(1)

    return of


def test_the_gradient_is_that_of_the_objective(somewhere, energy):
    model, rows, others, q = somewhere
    unknowns = torch.zeros(4, 59, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(energy(others, q, unknowns).sum(), unknowns)
    gradient, matrix = Slope(model)(placed(model, rows, others), q)
    for part in (slice(0, 3), slice(3, 6), BETAS, slice(16, 59)):
        difference = (gradient[:, part] - expected[:, part] / 2).norm(dim=1)
        assert bool((difference < 1e-4 * expected[:, part].norm(dim=1)).all())
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0


def test_a_step_leads_where_its_unknowns_say(somewhere, energy):
    model, _, others, q = somewhere
    # Within the limits, so that none of it is cut off.
    q = torch.minimum(torch.maximum(q, model.low + 0.1), model.high - 0.1)
    q[:, :3] = 0
    step = 0.02 * torch.randn(4, 59, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    there, end = Refiner(model).moved(others, q, step)
    with torch.no_grad():
        led, nothing = energy(there, end, torch.zeros_like(step)), energy(others, q, torch.zeros_like(step))
        torch.testing.assert_close(led, energy(others, q, step), rtol=1e-5, atol=0)
    assert bool((led - nothing).abs().min() > 1e-6)


def test_rows_come_out_in_any_company_and_beside_a_bad_one(fits, people, prepared):
    better, order = fits("refine"), torch.tensor([2, 0, 3])
    spoiled = replace(people, betas=people.betas.index_fill(0, torch.tensor([2]), torch.nan))
    found = fit_batch(spoiled[order], prepared("refine"))
    assert int(found.status[0]) == Status.rejected
    assert bool(found.skel.betas[0].isnan().all())
    rows = order[1:]
    torch.testing.assert_close(found.skel.q[1:], better.skel.q[rows], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.skel.betas[1:], better.skel.betas[rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.skel.transl[1:], better.skel.transl[rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.v2v_mm[1:], better.v2v_mm[rows], rtol=0, atol=1e-3)
    assert torch.equal(found.status[1:], better.status[rows])
