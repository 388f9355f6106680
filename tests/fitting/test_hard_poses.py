"""Poses of yoga and gymnastics: the fit ends where the best of many starts do, and says what holds it back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.hard import HARD, IMPOSSIBLE, hard_rows
from bench.objective import Objective
from fitting import FitResult, Status, fit_batch, fit_many
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.rows import SmplParams

MOTION = Path(__file__).parents[3] / "shared/data/cmu_mocap/cmu-labels.npz"
FLOOR = Path(__file__).with_name("hard_floor.npy")
"""The least E of `bench.floor`, float64 [bodies, poses]: `python -m bench quality --hard-floor FILE` writes it."""


@pytest.fixture(scope="module")
def fitted(model) -> FitResult:
    return fit_many(hard_rows(HARD), model)


def test_no_hard_pose_ends_more_than_one_percent_above_the_best_of_many_starts(fitted, smpl, model):
    floor = np.load(FLOOR)
    energy = Objective.of(hard_rows(HARD), fitted.skel.betas, smpl, model).energy(fitted.skel.q[:, 3:].double())
    gap = energy.view(-1, len(HARD))[: len(floor)].numpy() / floor - 1
    assert {name: g for name, g in zip(HARD, gap.max(0), strict=True) if g > 0.01} == {}
    assert gap.min() > -0.01  # a floor that is no floor
    assert float(fitted.v2v_mm.view(-1, len(HARD))[:, list(HARD).index("side splits")].mean()) < 13


def test_rows_that_start_again_do_so_alone_as_in_company(fitted, model):
    again = (fitted.starts > 1).nonzero().flatten().tolist()
    assert len(again) > 20
    for row in again[::20]:
        alone = fit_batch(hard_rows(HARD)[row : row + 1], model)
        torch.testing.assert_close(alone.skel.q[0], fitted.skel.q[row], rtol=0, atol=1e-8)


def test_the_status_tells_poses_that_no_human_takes_and_far_fits_from_real_motion(fitted, model):
    def is_doubtful(result: FitResult) -> torch.Tensor:
        assert bool((result.status[result.v2v_mm > model.config.far_v2v_mm] == Status.far).all())
        return torch.isin(result.status, torch.tensor([Status.far, Status.implausible]))

    impossible = is_doubtful(fit_many(hard_rows(IMPOSSIBLE, 2), model)).view(2, -1).all(0)
    assert float(impossible.double().mean()) >= 0.9
    assert bool(impossible[list(IMPOSSIBLE).index("knees twisted by 60")])
    wrists = {"left_wrist": (150, 0, 0)}
    one_sided = {"opposite": wrists | {"right_wrist": (-150, 0, 0)}, "alone": wrists}
    assert is_doubtful(fit_many(hard_rows(one_sided, 2), model)).all()
    assert 0 < float(is_doubtful(fitted).double().mean()) < 0.3
    odd = hard_rows({"on toes": HARD["on toes"]}, 1)
    assert fit_batch(replace(odd, betas=odd.betas * 4), model).status.tolist() == [Status.unusual_shape]
    if not MOTION.exists():
        pytest.skip("allowed: shared/data/cmu_mocap is not here")
    with np.load(MOTION) as file:
        pose, betas, transl = (torch.from_numpy(file[key][::8]) for key in ("pose_cam", "shape", "trans_cam"))
    real = SmplParams(pose[:, :3], pose[:, 3:].unflatten(1, (23, 3)), betas, transl)
    assert float(is_doubtful(fit_many(real, model)).double().mean()) <= 0.005


def test_push_is_the_slope_of_e_that_the_limit_holds_back(model, smpl):
    poses = {name: IMPOSSIBLE[name] for name in ("knees 60 back", "hips 90 back", "knees twisted by 60")}
    params = hard_rows(poses, 1)
    result = fit_batch(params, replace(model, config=replace(model.config, retry_v2v_mm=1e9)))
    q = result.skel.q[:, 3:].double()
    _, gradient, _ = Objective.of(params, result.skel.betas, smpl, model).derivatives(q)
    low, high = model.low[3:], model.high[3:]
    held = ((q - low < 1e-5) & (gradient > 0)) | ((high - q < 1e-5) & (gradient < 0))
    push, dof = torch.where(held, 2e6 * gradient.abs(), 0.0).max(1)
    torch.testing.assert_close(result.push[:2].double(), push[:2], rtol=1e-3, atol=0)
    assert (result.push_dof[:2] - 3).tolist() == dof[:2].tolist()
    assert [DOF_NAMES[k][:-2] for k in result.push_dof[:2].tolist()] == ["knee_angle", "hip_flexion"]
    assert float(result.push[2]) < 1


def test_rows_that_need_more_wait_for_those_of_other_batches(model, fitted):
    """And come out the same as in one batch."""
    small = fit_many(hard_rows(HARD), replace(model, config=replace(model.config, batch=64)))
    assert small.batch == 64
    again = (small.starts > 1).nonzero().flatten()
    assert again.min() < 64
    assert again.max() >= 128
    for name in ("energy", "v2v_mm", "iterations", "starts", "status"):
        torch.testing.assert_close(getattr(small, name), getattr(fitted, name), rtol=0, atol=1e-8)
    torch.testing.assert_close(small.skel.q, fitted.skel.q, rtol=0, atol=1e-8)
