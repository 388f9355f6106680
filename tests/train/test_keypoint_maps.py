"""The loss of maps that say where keypoints are: places by hand, pairs without sides, masks, gradients."""

import math

import pytest
import torch

from hmr_skel.body.joints import FLIP_44, KEYPOINTS_44
from hmr_skel.model.stem import cell_centers
from hmr_skel.train.losses import keypoint_maps_loss, ordered_pairs

NAN = float("nan")
ROWS, COLUMNS = 16, 12
NOSE, RIGHT_KNEE, LEFT_KNEE = (KEYPOINTS_44.index(name) for name in ("OP Nose", "OP RKnee", "OP LKnee"))


def nobody() -> torch.Tensor:
    missing = torch.full((1, 44, 3), NAN, dtype=torch.float64)
    missing[..., 2] = 0
    return missing


def random_maps(seed: int = 0, batch: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 44, ROWS * COLUMNS, dtype=torch.float64, generator=g)
    return logits.log_softmax(-1).unflatten(-1, (ROWS, COLUMNS))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (15, 11), (3, 7)])
def test_at_a_cells_centre_its_own_chance_counts(row, column):
    maps, keypoints = random_maps(), nobody()
    center = cell_centers(ROWS, COLUMNS)[row * COLUMNS + column]
    keypoints[0, NOSE] = torch.tensor([*center, 1])
    assert keypoint_maps_loss(maps, keypoints).item() == pytest.approx(-maps[0, NOSE, row, column].item())


def test_cells_are_16_px_of_the_middle_columns():
    centers = cell_centers(ROWS, COLUMNS)
    torch.testing.assert_close(256 * (centers[0] + 0.5), torch.tensor([32.0 + 8, 8]))
    torch.testing.assert_close(256 * (centers[-1] + 0.5), torch.tensor([224.0 - 8, 256 - 8]))
    torch.testing.assert_close(256 * (centers[1] - centers[0]), torch.tensor([16.0, 0]))


def test_between_four_cells_all_count():
    maps, keypoints = random_maps(), nobody()
    a, b = cell_centers(ROWS, COLUMNS)[[0, COLUMNS + 1]]
    keypoints[0, NOSE] = torch.tensor([*(0.75 * a + 0.25 * b), 1])
    share = torch.tensor([[9, 3], [3, 1]]) / 16
    divergence = (share * (share.log() - maps[0, NOSE, :2, :2])).sum().item()
    assert keypoint_maps_loss(maps, keypoints).item() == pytest.approx(divergence)
    maps[0, NOSE, :2, :2] = share.log()
    assert keypoint_maps_loss(maps, keypoints).item() == pytest.approx(0, abs=1e-6)


def test_what_has_no_place_in_the_maps_counts_nothing():
    maps, keypoints = random_maps().requires_grad_(), nobody()
    keypoints[0, NOSE] = torch.tensor([-0.45, 0, 1])  # in the crop, left of its middle 192 columns
    keypoints[0, KEYPOINTS_44.index("OP MidHip")] = torch.tensor([0, 0.51, 1])
    keypoints[0, LEFT_KNEE] = torch.tensor([0, 0, 1])  # without the right one
    loss = keypoint_maps_loss(maps, keypoints)
    loss.backward()
    assert loss.item() == 0
    assert not maps.grad.any()


def test_pairs_are_told_apart_by_their_place_in_the_picture():
    keypoints = nobody()
    keypoints[0, RIGHT_KNEE], keypoints[0, LEFT_KNEE] = torch.tensor([[-0.1, 0.2, 1], [0.3, 0.1, 1]])
    swapped = keypoints[:, list(FLIP_44)]
    for seen in (keypoints, swapped):
        found = ordered_pairs(seen)
        torch.testing.assert_close(found[0, RIGHT_KNEE], keypoints[0, RIGHT_KNEE])
        torch.testing.assert_close(found[0, LEFT_KNEE], keypoints[0, LEFT_KNEE])
    assert (ordered_pairs(nobody())[..., 2] == 0).all()


def test_every_pair_is_in_the_pictures_order():
    everybody = torch.rand(3, 44, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    found = ordered_pairs(everybody)
    for first, second in enumerate(FLIP_44):
        if first < second:
            assert (found[:, first, 0] <= found[:, second, 0]).all()
        if first == second:
            torch.testing.assert_close(found[:, first], everybody[:, first])
    torch.testing.assert_close(found, ordered_pairs(everybody[:, list(FLIP_44)]))


def test_a_sure_and_right_answer_costs_nothing_and_an_unsure_one_the_log_of_the_cells():
    keypoints = torch.ones(2, 44, 3)
    keypoints[..., :2] = cell_centers(ROWS, COLUMNS)[5 * COLUMNS + 4]
    sure = torch.full((2, 44, ROWS, COLUMNS), -1e3)
    sure[..., 5, 4] = 0
    assert keypoint_maps_loss(sure, keypoints).item() == 0
    even = torch.full((2, 44, ROWS, COLUMNS), -math.log(ROWS * COLUMNS))
    assert keypoint_maps_loss(even, keypoints).item() == pytest.approx(44 * math.log(192), rel=1e-5)


def test_the_gradient():
    maps = random_maps(batch=2).requires_grad_()
    keypoints = torch.rand(2, 44, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    keypoints[..., :2] = 0.6 * keypoints[..., :2] - 0.3
    keypoints[0, 3] = torch.tensor([NAN, NAN, 0])
    (gradient,) = torch.autograd.grad(keypoint_maps_loss(maps, keypoints), maps)
    for seed in range(3):  # along random directions: all entries one by one would take minutes
        direction = random_maps(seed=seed + 7, batch=2)
        ahead, back = (keypoint_maps_loss(maps.detach() + step * direction, keypoints) for step in (1e-4, -1e-4))
        assert ((ahead - back) / 2e-4).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)
