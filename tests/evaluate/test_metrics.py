"""Errors of points and PCK: what they ignore, what they do not, and values by hand."""

import pytest
import torch

from hmr_skel.evaluate.benchmarks import COCO_44
from hmr_skel.evaluate.ground_truth import Truth
from hmr_skel.evaluate.metrics import found_keypoints, pa_mpjpe_mm, pck, similarity_align
from hmr_skel.evaluate.score import ScoredBody, score
from hmr_skel.evaluate.summary import row_columns, summarise


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


def test_a_mirrored_body_is_wrong():
    """Left and right exchanged fit by a reflection, which is no motion of a body."""
    gt = points(14)
    mirrored = gt * torch.tensor([-1.0, 1, 1])
    assert pa_mpjpe_mm(mirrored, gt) > 100
    aligned = similarity_align(mirrored, gt)
    handed = [torch.linalg.det((p[1:4] - p[0]).double()).sign().item() for p in (mirrored, aligned)]
    assert handed[0] == handed[1]


def test_pck_by_hand():
    """Three keypoints of two people: distances 0.03, 0.07, 0.2 and 0.04 (not labelled), 0.04, 0.3 (not a number)."""
    gt = torch.zeros(2, 3, 2)
    pred = torch.tensor([[[0.03, 0], [0, 0.07], [0.12, 0.16]], [[0.04, 0], [0.04, 0], [float("nan"), 0]]])
    valid = torch.tensor([[True, True, True], [False, True, True]])
    found = found_keypoints(pred, gt, valid)
    assert found[:, 0].tolist() == [[True, False, False], [False, True, False]]
    assert found[:, 1].tolist() == [[True, True, False], [False, True, False]]
    counts = valid.double().sum(0)
    # Of the keypoints' shares at 0.05, 1 of 1, 1 of 2, 0 of 2; at 0.1, 1 of 1, 2 of 2, 0 of 2: unweighted means.
    assert pck(found[:, 0].double().sum(0), counts).item() == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert pck(found[:, 1].double().sum(0), counts).item() == pytest.approx((1 + 1 + 0) / 3)
    columns = {"found": found, "valid": valid}
    summary = summarise(columns, [None, None], "three")
    assert (summary["pck_05"], summary["pck_10"]) == (pytest.approx(0.5), pytest.approx(2 / 3))
    own = row_columns(columns)
    assert own["pck_10"].tolist() == [pytest.approx(2 / 3), pytest.approx(1 / 2)]


def test_a_keypoint_that_nobody_has_does_not_count():
    found, valid = torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0])
    assert pck(found, valid).item() == 0.75
    assert pck(torch.zeros(2), torch.zeros(2)).isnan()


def test_without_any_label_there_is_no_pck():
    columns = {"found": torch.zeros(2, 2, 44, dtype=torch.bool), "valid": torch.zeros(2, 44, dtype=torch.bool)}
    assert summarise(columns, [None, None], "none") == {"ci95": {}, "joint_set": "none"}


def test_missing_coordinates_of_missing_keypoints_are_no_matter():
    gt = torch.zeros(1, 44, 2)
    gt[0, 5] = float("nan")
    valid = torch.ones(1, 44, dtype=torch.bool)
    valid[0, 5] = False
    truth = Truth(torch.ones(1, dtype=torch.bool), keypoints_2d=gt, valid_2d=valid)
    columns = score(ScoredBody(torch.zeros(1, 6890, 3), torch.zeros(1, 44, 3)), truth, COCO_44, torch.zeros(1, 44, 2))
    assert summarise(columns, [None], "all")["pck_05"] == 1.0
    assert columns["found"].sum() == 2 * 43
