"""Whole fits: a pose put in comes out, real and synthetic people are matched, and rows leave each other alone."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fitting
from fitting import FitModel, FitResult, Status, fit_batch, fit_many
from fitting.fit import limit_violation_deg
from fitting.kinematics import Skeleton
from fitting.mesh import Mesh, stacked
from fitting.target import Target, TargetMaker
from hmr_skel.body.joints import SKEL_TO_SMPL
from hmr_skel.open_data.labels import make_labels
from hmr_skel.rows import SmplParams

CMU = Path(__file__).parents[3] / "shared/data/cmu_mocap/cmu-labels.npz"
ROWS = 64
PER_ROW = ("v2v_mm", "v2v_max_mm", "joint_mm", "energy", "target_joints", "max_limit_violation_deg")


def _labels(path: Path) -> SmplParams:
    """Rows of a label file, spread over all of it."""
    with np.load(path, allow_pickle=False) as file:
        picked = np.linspace(0, len(file["shape"]) - 1, ROWS).round().astype(int)
        pose, betas, transl = (torch.from_numpy(file[key][picked]) for key in ("pose_cam", "shape", "trans_cam"))
    pose = pose.unflatten(1, (24, 3))
    return SmplParams(pose[:, 0], pose[:, 1:], betas, transl)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory, open_body_dir) -> SmplParams:
    """Rows of the default set's kind, of 48 clips."""
    path = tmp_path_factory.mktemp("fit") / "labels.npz"
    make_labels(path, 192, 5, open_body_dir)
    return _labels(path)


@pytest.fixture(scope="module")
def real() -> SmplParams:
    if not CMU.exists():
        pytest.skip("allowed: shared/data/cmu_mocap is not here")
    return _labels(CMU)


@pytest.fixture(scope="module")
def fitted(synthetic, model) -> FitResult:
    return fit_many(synthetic, model)


@pytest.fixture(scope="module")
def fitted_real(real, model) -> FitResult:
    return fit_many(real, model)


def _assert_inside(result: FitResult, model: FitModel) -> None:
    """Every dof is inside its range, by the table and by the result's own word."""
    q = result.skel.q.double()
    assert bool(((q >= model.low) & (q <= model.high)).all())
    assert float(result.max_limit_violation_deg.max()) == 0
    assert Status.rejected not in result.status.tolist()


def _assert_same(one: FitResult, other: FitResult, rows: torch.Tensor) -> None:
    """Rows are independent: the same to 1e-4 rad in every dof and to 0.001 mm."""
    torch.testing.assert_close(one.skel.q, other.skel.q[rows], rtol=0, atol=1e-4)
    torch.testing.assert_close(one.v2v_mm, other.v2v_mm[rows], rtol=0, atol=1e-3)
    torch.testing.assert_close(one.skel.betas, other.skel.betas[rows], rtol=0, atol=1e-6)
    torch.testing.assert_close(one.skel.transl, other.skel.transl[rows], rtol=0, atol=1e-5)
    assert torch.equal(one.status, other.status[rows])


@pytest.mark.parametrize(("rows", "mean_mm"), [("fitted", 8), ("fitted_real", 9)])
def test_people_are_matched_within_their_limits(request, rows, mean_mm, model):
    result = request.getfixturevalue(rows)
    _assert_inside(result, model)
    assert float(result.skel.betas.square().mean().sqrt()) <= 2.5
    assert float(result.v2v_mm.mean()) <= mean_mm
    assert float(result.v2v_mm.quantile(0.99)) <= 2 * mean_mm


@pytest.mark.parametrize("recipe", ["default", "refine"])
def test_distances_are_those_of_the_two_public_models_in_the_world(recipe, people, fits, smpl, skel):
    fitted = fits(recipe)
    smpl, skel = (copy.deepcopy(body).double() for body in (smpl, skel))
    params, found = people.to(dtype=torch.float64), fitted.skel.to(dtype=torch.float64)
    annotated = smpl(params.global_orient, params.body_pose, params.betas, params.transl)
    posed = skel(found.q, found.betas, found.transl)
    distances = (posed.vertices - annotated.vertices).norm(dim=-1) * 1000
    torch.testing.assert_close(fitted.v2v_mm.double(), distances.mean(1), rtol=0, atol=1e-3)
    torch.testing.assert_close(fitted.v2v_max_mm.double(), distances.amax(1), rtol=0, atol=1e-2)
    joints = (posed.joints - skel.joint_regressor @ annotated.vertices).norm(dim=-1) * 1000
    torch.testing.assert_close(fitted.joint_mm.double(), joints.mean(1), rtol=0, atol=1e-2)
    torch.testing.assert_close(fitted.target_joints.double(), annotated.joints, rtol=0, atol=1e-5)


def test_rows_come_out_the_same_in_any_company(synthetic, fitted, model):
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    _assert_same(fit_many(synthetic[order], model), fitted, order)
    # The row that is worst off goes alone: retries must not lean on neighbours either.
    row = int(fitted.v2v_mm.argmax())
    _assert_same(fit_batch(synthetic[row : row + 1], model), fitted, torch.tensor([row]))


def test_real_rows_come_out_the_same_in_other_company(real, fitted_real, model):
    """Arms hang here: shoulders near gimbal lock make 1e-2 rad of the last bits of a sum."""
    _assert_same(fit_many(real[:40], model), fitted_real, torch.arange(40))


def test_two_runs_are_equal_to_the_bit(synthetic, fitted, model):
    again = fit_many(synthetic, model)
    for found, expected, names in ((again, fitted, PER_ROW), (again.skel, fitted.skel, ("q", "betas", "transl"))):
        assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in names)


def test_bad_rows_are_rejected_and_harm_no_neighbour(synthetic, fitted, model):
    bad = {
        1: ("body_pose", torch.nan), 4: ("betas", torch.inf), 9: ("betas", 1e3), 17: ("transl", -torch.inf),
        18: ("global_orient", 1e6), 30: ("transl", torch.nan),
    }  # fmt: skip
    spoiled = SmplParams(*(getattr(synthetic, name).clone() for name in synthetic.__dataclass_fields__))
    for row, (name, value) in bad.items():
        getattr(spoiled, name)[row].view(-1)[0] = value
    result = fit_batch(spoiled, model)
    rejected = result.status == Status.rejected
    assert rejected.nonzero().flatten().tolist() == sorted(bad)
    for found, expected, names in ((result, fitted, PER_ROW), (result.skel, fitted.skel, ("q", "betas", "transl"))):
        for name in names:
            assert bool(getattr(found, name)[rejected].isnan().all()), name
            assert torch.equal(getattr(found, name)[~rejected], getattr(expected, name)[~rejected]), name
    assert fit_batch(spoiled[torch.tensor([1, 4])], model).status.tolist() == [Status.rejected] * 2


def test_a_result_is_as_it_says(synthetic, model):
    points = torch.zeros(2, 6890)
    points[0, 332], points[1, 3387] = 1, 1
    result = fit_batch(synthetic[:3], model, points)
    annotated = model.targets.smpl(*(getattr(synthetic, n)[:3] for n in synthetic.__dataclass_fields__))
    torch.testing.assert_close(result.target_points, points @ annotated.vertices, rtol=0, atol=1e-5)
    assert result.skel.q.shape == (3, 46)
    assert (result.batch, result.skel_gender) == (3, ["male"] * 3)
    assert result.iterations.dtype == result.starts.dtype == torch.int32
    assert result.status.dtype == torch.int8
    assert {getattr(result, name).dtype for name in ("v2v_mm", "v2v_max_mm", "joint_mm")} == {torch.float32}


class _SkelTargets(TargetMaker):
    """Targets made from SKEL itself, posed by q [64 46]: what is to be found is known."""

    def __init__(self, model, q):
        super().__init__(model.targets.smpl, model.skel, model.targets.mesher)
        self.model, self.q = model, q

    def __call__(self, params, skel_betas, points=None, mesh=None):
        count, skeleton = len(self.q), Skeleton.of(self.model.skel, skel_betas)
        nothing = torch.zeros(count, 3)
        posed = self.model.skel(self.q.float(), skel_betas, nothing)
        rotmat = torch.eye(3).repeat(count, 24, 1, 1)
        rotmat[:, list(SKEL_TO_SMPL)] = self.model.kinematics.pose(self.q, skeleton).rotmat.float()
        mesh, root = Mesh(stacked(posed.vertices), count, self.model.skin.engine), torch.eye(3).repeat(count, 1, 1)
        pelvis = skeleton.joints[:, 0].float()
        return Target(mesh, posed.joints, rotmat, root, pelvis, nothing, posed.joints, None)


@pytest.mark.parametrize(("prior_weight", "v2v_mm", "rad"), [(1e-8, 0.01, 0.005), (1e-6, 0.5, 0.15)])
def test_a_skel_pose_put_in_comes_out(prepared, prior_weight, v2v_mm, rad):
    """The whole path, on a target that SKEL can match to the last vertex. The recipe's prior costs 0.2 mm of it."""
    assert fitting.recipe("default").prior_weight == 1e-6
    model = prepared(replace(fitting.recipe("published_shape"), prior_weight=prior_weight))
    generator = torch.Generator().manual_seed(3)
    middle, half = (model.high + model.low) / 2, (model.high - model.low) / 2
    q = torch.zeros(ROWS, 46, dtype=torch.float64)
    inside = 0.6 * (2 * torch.rand(16, 43, dtype=torch.float64, generator=generator) - 1)
    q[:16, 3:] = middle[3:] + inside * half[3:]
    model = replace(model, targets=_SkelTargets(model, q))
    betas = torch.randn(ROWS, 10, generator=generator)
    result = fit_batch(SmplParams(torch.zeros(ROWS, 3), torch.zeros(ROWS, 23, 3), betas, torch.zeros(ROWS, 3)), model)
    assert torch.equal(result.skel.betas, betas)
    # A pose put in at random may be one that no human takes.
    assert set(result.status[:16].tolist()) <= {Status.converged, Status.implausible}
    assert float(result.v2v_mm.max()) < v2v_mm
    assert float(result.joint_mm.max()) < v2v_mm
    assert float((result.skel.q.double() - q)[:, 3:].abs().max()) < rad


def test_rows_that_are_far_off_start_again_and_keep_the_best(synthetic, model):
    rows = synthetic[:16]
    eager = fit_batch(rows, replace(model, config=replace(model.config, retry_v2v_mm=0.0)))
    lazy = fit_batch(rows, replace(model, config=replace(model.config, retry_v2v_mm=1e9)))
    assert eager.starts.tolist() == [4] * 16
    assert lazy.starts.tolist() == [1] * 16
    assert bool((eager.energy <= lazy.energy).all())


def test_published_limits_hold_as_well(synthetic, prepared):
    """Ranges that leave the zero pose out; `skel` leaves dofs unbounded, too."""
    model = prepared(replace(fitting.recipe("default"), limits="skel"))
    result = fit_batch(synthetic, model)
    _assert_inside(result, model)
    assert float(result.v2v_mm.mean()) < 25


def test_violation_is_the_largest_excess():
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, torch.inf])
    q = torch.tensor([[0.0, 5.0], [1.5, -0.1], [-1.0, 0.0]])
    expected = torch.rad2deg(torch.tensor([0.0, 0.5, 0.0]))
    torch.testing.assert_close(limit_violation_deg(q, low, high), expected)
