"""Predictions against each benchmark's truth: the truth itself, known offsets, and a second implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from hmr_skel.evaluate.score import ScoredBody, score


def skin_of(truth, regressor) -> ScoredBody:
    """The truth's own mesh as a prediction."""
    return ScoredBody(truth.vertices, regressor(truth.vertices))


def test_the_wrong_gender_is_an_error_of_its_shape_alone(opened, open_body_dir):
    """The same numbers in the other gender's model: what their rest bodies differ by, posed."""
    benchmark, rows, maker = opened("3dpw")
    params = rows.smpl_params()
    other = Smpl.load(open_body_dir / "SMPL_FEMALE.pkl")
    vertices = other(params.global_orient, params.body_pose, params.betas, params.transl).vertices
    found = score(ScoredBody(vertices, maker.regressor(vertices)), maker(rows), benchmark.joints)
    female = torch.from_numpy(rows.smpl_gender == "female")
    assert found["pve_mm"][female].max() < 1e-3
    assert found["pve_mm"][~female].min() > 10


@pytest.mark.parametrize("name", ["3dpw", "emdb", "spec-syn", "moyo"])
def test_a_second_implementation_agrees(opened, male, name):
    """SKEL bodies against each mesh benchmark, in numpy, with scipy's alignment."""
    benchmark, rows, maker = opened(name)
    truth = maker(rows)
    generator = torch.Generator().manual_seed(1)
    q = 0.3 * torch.randn(len(rows), 46, generator=generator)
    vertices = male.skel(q, torch.randn(len(rows), 10, generator=generator), torch.ones(len(rows), 3)).vertices
    pred = ScoredBody(vertices, maker.regressor(vertices))
    found = score(pred, truth, benchmark.joints)
    scored, root = list(benchmark.joints.scored), list(benchmark.joints.root)
    for i in range(len(rows)):
        joints, gt, skin, mesh = (
            points[i].double().numpy() for points in (pred.joints, truth.joints, pred.vertices, truth.vertices)
        )
        a, b = joints[root].mean(0), gt[root].mean(0)
        expected = {
            "mpjpe_mm": distance(joints[scored] - a, gt[scored] - b),
            "pve_mm": distance(skin - a, mesh - b),
            "pa_mpjpe_mm": distance(procrustes(joints[scored], gt[scored]), gt[scored]),
            "pa_pve_mm": distance(procrustes(skin, mesh), mesh),
        }
        for metric, value in expected.items():
            assert found[metric][i].item() == pytest.approx(value, rel=1e-4), (metric, i)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return 1000 * float(np.linalg.norm(a - b, axis=1).mean())


def procrustes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """scipy's best rotation (never a reflection), then the scale by least squares."""
    a, middle = a - a.mean(0), b.mean(0)
    turned = Rotation.align_vectors(b - middle, a)[0].apply(a)
    return turned * np.linalg.lstsq(turned.reshape(-1, 1), (b - middle).ravel())[0] + middle


def test_human36m_leaves_out_rows_without_a_scored_keypoint(opened):
    benchmark, rows, maker = opened("h36m-p2")
    points = rows.keypoints_3d.copy()
    points[1, 37, 3] = points[2, 39, 3] = 0  # a neck, a root
    points[3, 38, 3] = points[4, 8, 3] = 0  # of no matter
    truth = maker(replace(rows, keypoints_3d=points))
    assert truth.complete.tolist() == [True, False, False, True, True, True]
    pred = ScoredBody(torch.zeros(6, 6890, 3), truth.joints + 2.0)
    found = score(pred, truth, benchmark.joints)
    assert set(found) == {"mpjpe_mm", "pa_mpjpe_mm"}
    assert found["mpjpe_mm"].shape == (4,)
    assert found["mpjpe_mm"].max() < 1e-3
    shifted = truth.joints.clone()
    shifted[:, 39] += torch.tensor([0.0, 0.0, 0.025])
    found = score(ScoredBody(torch.zeros(6, 6890, 3), shifted), truth, benchmark.joints)
    torch.testing.assert_close(found["mpjpe_mm"], torch.full((4,), 25.0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("part", ["joints", "vertices"])
def test_a_prediction_that_is_not_finite_is_one_clear_message(opened, part):
    """With the row's number in the label file; rows that are not compared may hold anything."""
    benchmark, rows, maker = opened("3dpw")
    truth = maker(rows)
    pred = skin_of(truth, maker.regressor)
    points = getattr(pred, part).clone()
    points[2] = torch.nan
    pred = replace(pred, **{part: points})
    with pytest.raises(UserError, match=r"the prediction for row 12 is not finite"):
        score(pred, truth, benchmark.joints, number=np.arange(10, 16))
    found = score(pred, replace(truth, complete=torch.arange(6) != 2), benchmark.joints)
    assert found["pve_mm"].isfinite().all()


def test_spec_roots(opened):
    """The published root is a hip and its knee; ours the two hips: they differ by what the poses put between them."""
    benchmark, rows, maker = opened("spec-syn")
    legacy = opened("spec-syn", "spec-root")[0]
    assert (benchmark.joints.root, legacy.joints.root) == ((1, 4), (1, 2))
    assert legacy.joints.name != benchmark.joints.name
    truth = maker(rows)
    pred = skin_of(truth, maker.regressor)
    knee = pred.joints.clone()
    knee[:, 2] += torch.tensor([0.06, 0.0, 0.0])  # moves the published root by 30 mm, and not ours
    ours, theirs = (score(ScoredBody(pred.vertices, knee), truth, one.joints) for one in (benchmark, legacy))
    torch.testing.assert_close(ours["pve_mm"], torch.zeros(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(theirs["pve_mm"], torch.full((6,), 30.0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours["mpjpe_mm"], torch.full((6,), 60.0 / 17), rtol=1e-4, atol=1e-3)
