"""Every term of Eq. 1-6: value, gradient, masks; and that a network can learn by them."""

import copy
from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from hmr_skel.body.joints import FLIP_44, KEYPOINTS_44
from hmr_skel.data.samples import Batch
from hmr_skel.model.camera import CropGeometry, image_to_crop, project
from hmr_skel.model.decoder import Estimate
from hmr_skel.model.network import Prediction
from hmr_skel.model.pose_rep import q_to_rep, q_to_rotmat
from hmr_skel.model.stem import cell_centers
from hmr_skel.train.losses import (
    LossConfig,
    betas_loss,
    keypoint_maps_loss,
    keypoints_2d_loss,
    keypoints_3d_loss,
    keypoints_of,
    ordered_pairs,
    refine_loss,
    rotation_loss,
    total_loss,
)
from tests.model.conftest import SMALL_DECODER
from tests.train.conftest import labels, random_estimate, targets_of

NAN = float("nan")
PUBLISHED = LossConfig(pelvis=0.002, refine_form="published")
"""The losses of the published code, which differ from the paper's equations."""
ROWS, COLUMNS = 16, 12
NOSE, LEFT_KNEE = (KEYPOINTS_44.index(name) for name in ("OP Nose", "OP LKnee"))
TERMS = ("keypoints_2d", "keypoints_3d", "betas", "pelvis", "body")


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Values, by hand


def test_keypoints_2d_by_hand():
    pred, gt = torch.zeros(2, 44, 2), torch.zeros(2, 44, 3)
    gt[0, 3] = torch.tensor([0.1, -0.2, 0.5])  # half as sure: 0.15
    gt[1, 7] = torch.tensor([0.4, 0.0, 1.0])
    gt[1, 8] = torch.tensor([9.0, 9.0, 0.0])  # not there
    assert keypoints_2d_loss(pred, gt).item() == pytest.approx((0.15 + 0.4) / 2)


def test_keypoints_3d_are_compared_against_the_pelvis():
    pred, gt = double(2, 44, 3), torch.ones(2, 44, 4, dtype=torch.float64)
    gt[..., :3] = pred + torch.tensor([5.0, -3, 8])  # elsewhere, but the same pose
    assert keypoints_3d_loss(pred, gt).item() == pytest.approx(0, abs=1e-12)
    gt[0, 10, :3] += torch.tensor([0.1, 0.2, -0.3])
    gt[0, 10, 3] = 0.5
    assert keypoints_3d_loss(pred, gt).item() == pytest.approx(0.6 * 0.5 / 2)
    gt[0, 39] = torch.tensor([NAN, NAN, NAN, 0])  # without a pelvis there is nothing to compare with
    (gradient,) = torch.autograd.grad(keypoints_3d_loss(pred.requires_grad_(), gt), pred)
    assert [bool(row.any()) for row in gradient] == [False, True]
    assert gradient.isfinite().all()


def test_parameters_are_summed_over_entries_and_averaged_over_the_batch():
    has = torch.tensor([True, False])
    assert betas_loss(torch.ones(2, 10), torch.zeros(2, 10), has).item() == pytest.approx(10 / 2)
    pred, gt = torch.zeros(2, 23, 3, 3), torch.ones(2, 23, 3, 3)
    assert rotation_loss(pred, gt, has).item() == pytest.approx(23 * 9 / 2)


def prediction_of(*qs: torch.Tensor) -> Prediction:
    camera, betas = torch.zeros(len(qs[0]), 3).double(), torch.zeros(len(qs[0]), 10).double()
    nowhere = CropGeometry(camera[:, :2], camera[:, 0], torch.zeros(len(camera), 3, 3), torch.zeros(len(camera), 2, 3))
    return Prediction(tuple(Estimate(q_to_rep(q), betas, camera) for q in qs), nowhere, True)


def targets_with(q: torch.Tensor) -> Batch:
    has = torch.ones(len(q), dtype=torch.bool)
    return labels(torch.zeros(len(q), 44, 3), torch.zeros(len(q), 44, 4), q, torch.zeros(len(q), 10), has)


def test_eq_5_covers_layers_1_to_t_minus_1():
    """Neither the coarse estimate nor the last layer, which have their own terms."""
    q, other = 0.3 * double(2, 46), 0.3 * double(2, 46, seed=1)
    per_layer = (q_to_rotmat(other) - q_to_rotmat(q)).abs().sum((1, 2, 3)).mean().item()
    one_wrong = {0: 0, 1: 1, 2: 1, 3: 0}  # of the stages coarse, layers 1, 2, 3
    for wrong, counted in one_wrong.items():
        stages = [q] * 4
        stages[wrong] = other
        value = refine_loss(prediction_of(*stages), targets_with(q), "sum").item()
        assert value == pytest.approx(counted * per_layer), wrong
        mean = refine_loss(prediction_of(*stages), targets_with(q), "mean").item()
        assert mean == pytest.approx(value / 216)


def test_eq_5_reads_only_real_dofs_and_the_published_form_all_numbers_of_all_layers():
    """What a joint does not use may be anything; in the published form it is pushed about."""
    q, other = 0.3 * double(2, 46), 0.3 * double(2, 46, seed=1)
    perfect = prediction_of(q, q, q, q)
    spoiled = q_to_rep(q)
    spoiled[:, [2, 3, 18], 2:] = 3.0
    stage = replace(perfect.stages[1], rep=spoiled)
    prediction = replace(perfect, stages=(perfect.stages[0], stage, *perfect.stages[2:]))
    assert refine_loss(prediction, targets_with(q), "mean").item() == pytest.approx(0, abs=1e-12)
    assert refine_loss(prediction, targets_with(q), "published").item() > 0.01
    last = refine_loss(prediction_of(q, q, q, other), targets_with(q), "published").item()
    both = refine_loss(prediction_of(q, other, q, other), targets_with(q), "published").item()
    assert both == pytest.approx(2 * last)


# Gradients, against finite differences


def in_float64(value):
    """Estimates, predictions, geometries or batches."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(map(in_float64, value))
    if not is_dataclass(value):
        return value
    return replace(value, **{f.name: in_float64(getattr(value, f.name)) for f in fields(value)})


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(refine_form="sum"), PUBLISHED])
@pytest.mark.usefixtures("without_shape_checks")
def test_gradients_through_body_and_camera(prediction, body, config):
    """The whole of Eq. 6 in float64, along random directions."""
    body64 = type(body)(copy.deepcopy(body.skel).double(), *body.matrix.double().split((24, 40)))
    found, label = (in_float64(made) for made in (prediction(2), random_estimate(2, seed=17)))
    targets = in_float64(targets_of(label, found.geometry, body64))
    # Zero is on a kink of the published form: slots that joints do not use are zero in a target.
    leaves = [getattr(stage, f.name) for stage in found.stages for f in fields(Estimate)]
    leaves = [(leaf + 0.1 * double(*leaf.shape, seed=9)).requires_grad_() for leaf in leaves]

    def loss(moved: list[torch.Tensor]) -> torch.Tensor:
        stages = tuple(Estimate(*moved[i : i + 3]) for i in range(0, len(moved), 3))
        return total_loss(replace(found, stages=stages), body64, targets, config)[0]

    # The layers' betas and cameras have no term.
    gradients = torch.autograd.grad(loss(leaves), leaves, allow_unused=True, materialize_grads=True)
    for seed in range(3):
        direction = [double(*leaf.shape, seed=seed + i) for i, leaf in enumerate(leaves)]
        with torch.no_grad():
            ahead, behind = (loss([x + h * d for x, d in zip(leaves, direction, strict=True)]) for h in (1e-7, -1e-7))
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
        assert slope.item() == pytest.approx(((ahead - behind) / 2e-7).item(), rel=1e-5)


# The total


@pytest.fixture
def case(prediction, body):
    """A prediction of three samples, and the labels of another."""
    found = prediction()
    return found, targets_of(random_estimate(3, seed=9), found.geometry, body)


def test_the_total_is_the_weighted_sum_of_its_terms(case, body):
    found, targets = case
    config = LossConfig(coarse=0.5, final=2.0)
    total, terms = total_loss(found, body, targets, config)
    assert set(terms) == {f"{stage}/{term}" for stage in ("coarse", "final") for term in TERMS} | {"refine"}
    by_hand = config.refine * terms["refine"]
    for term in TERMS:
        by_hand = by_hand + getattr(config, term) * (0.5 * terms[f"coarse/{term}"] + 2 * terms[f"final/{term}"])
    torch.testing.assert_close(total, by_hand)
    assert all(not value.requires_grad and value > 0 for value in terms.values())
    hsmr = Prediction((found.stages[0], found.stages[-1]), found.geometry, has_coarse=False)
    assert set(total_loss(hsmr, body, targets, LossConfig())[1]) == {f"final/{term}" for term in TERMS}


def test_maps_of_the_encoder_are_a_term_where_there_are_any(case, body):
    found, targets = case
    maps = double(3, 44, 192).float().log_softmax(-1).unflatten(-1, (16, 12))
    without, _ = total_loss(found, body, targets, LossConfig(keypoint_maps=0.3))
    total, terms = total_loss(replace(found, keypoint_maps=maps), body, targets, LossConfig(keypoint_maps=0.3))
    torch.testing.assert_close(terms["keypoint_maps"], keypoint_maps_loss(maps, targets.keypoints_2d))
    torch.testing.assert_close(total, without + 0.3 * terms["keypoint_maps"])


def test_a_correction_adds_its_sketch_and_the_decoders_last_layer_keeps_its_terms(case, body):
    found, targets = case
    config, stages = LossConfig(final=2.0), found.stages
    without, plain = total_loss(found, body, targets, config)
    with torch.no_grad():
        points = keypoints_of([stages[-1]], found.geometry, body)[0]
        drawn = image_to_crop(project(points, found.geometry.intrinsics), found.geometry)
    again = replace(found, stages=(*stages, stages[-1]), sketch=(drawn + 0.25).requires_grad_())
    total, terms = total_loss(again, body, targets, config)
    assert set(terms) == set(plain) | {f"decoded/{term}" for term in TERMS} | {"sketch"}
    for name, value in plain.items():  # "refine" too: layers are the decoder's
        torch.testing.assert_close(terms[name], value)
        if name.startswith("final/"):
            torch.testing.assert_close(terms[name.replace("final", "decoded")], value)
    assert terms["sketch"].item() == pytest.approx(0.25 * 88, rel=1e-4)
    twice = sum(2 * getattr(config, term) * plain[f"final/{term}"] for term in TERMS)
    torch.testing.assert_close(total, without + twice + config.keypoints_2d * terms["sketch"])
    torch.testing.assert_close(refine_loss(again, targets, "published"), refine_loss(found, targets, "published"))


def test_a_perfect_answer_costs_nothing(geometry, body):
    where, answer = geometry(3), random_estimate(3, seed=4)
    perfect = Prediction((answer,) * 4, where, True)
    total, _ = total_loss(perfect, body, targets_of(answer, where, body), LossConfig())
    assert total.item() == pytest.approx(0, abs=1e-4)


def test_full_supervision_gives_layers_all_terms_in_place_of_eq_5(case, body):
    found, targets = case
    total, terms = total_loss(found, body, targets, LossConfig(full_supervision=True))
    stages = ("coarse", "layer1", "layer2", "final")
    assert set(terms) == {f"{stage}/{term}" for stage in stages for term in TERMS}
    by_hand = sum(getattr(LossConfig(), term) * terms[f"{stage}/{term}"] for stage in stages for term in TERMS)
    torch.testing.assert_close(total, by_hand)


@pytest.mark.parametrize("config", [LossConfig(full_supervision=True), PUBLISHED])
def test_missing_labels_add_nothing_and_may_be_nan(prediction, body, config):
    """The whole batch against the batch in which one sample has no label: the others' terms stay."""
    found = prediction()
    stages = tuple(Estimate(*(getattr(s, f.name).requires_grad_() for f in fields(Estimate))) for s in found.stages)
    found = replace(found, stages=stages)
    full = targets_of(random_estimate(3, seed=9), found.geometry, body)
    masked = full.each(torch.clone)
    masked.keypoints_2d[1] = masked.keypoints_3d[1] = NAN
    masked.keypoints_2d[1, :, -1] = masked.keypoints_3d[1, :, -1] = 0
    masked.q[1] = masked.betas[1] = NAN
    masked.has_skel[1] = False
    leaves = [getattr(stage, f.name) for stage in stages for f in fields(Estimate)]
    expected = torch.autograd.grad(total_loss(found, body, full, config)[0], leaves, allow_unused=True)
    gradients = torch.autograd.grad(total_loss(found, body, masked, config)[0], leaves, allow_unused=True)
    for gradient, whole in zip(gradients, expected, strict=True):
        if whole is None:  # the refined betas and cameras of the layers have no term
            assert gradient is None
            continue
        assert not gradient[1].any()
        torch.testing.assert_close(gradient[[0, 2]], whole[[0, 2]])


# The loss of maps that say where keypoints are


def nobody() -> torch.Tensor:
    missing = torch.full((1, 44, 3), NAN, dtype=torch.float64)
    missing[..., 2] = 0
    return missing


def random_maps(seed: int = 0, batch: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 44, ROWS * COLUMNS, dtype=torch.float64, generator=g)
    return logits.log_softmax(-1).unflatten(-1, (ROWS, COLUMNS))


def test_at_a_cells_centre_its_own_chance_counts():
    """Cells are 16 px wide, from the left end of the crop's middle 192 columns."""
    for row, column in ((0, 0), (15, 11), (3, 7)):
        maps, keypoints = random_maps(), nobody()
        center = torch.tensor([32 + 16 * column + 8, 16 * row + 8]) / 256 - 0.5
        keypoints[0, NOSE] = torch.tensor([*center, 1])
        assert keypoint_maps_loss(maps, keypoints).item() == pytest.approx(-maps[0, NOSE, row, column].item())


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
    everybody = torch.rand(3, 44, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    found = ordered_pairs(everybody)
    for first, second in enumerate(FLIP_44):
        if first < second:
            assert (found[:, first, 0] <= found[:, second, 0]).all()
        if first == second:
            torch.testing.assert_close(found[:, first], everybody[:, first])
    torch.testing.assert_close(found, ordered_pairs(everybody[:, list(FLIP_44)]))


# Learning


@pytest.mark.usefixtures("without_shape_checks")
def test_one_batch_is_learnt_by_heart(small_network, geometry, body):
    network = small_network(decoder=replace(SMALL_DECODER, depth=2), head_hidden=64)
    where, steps = geometry(2), 45
    targets = targets_of(random_estimate(2, seed=5), where, body)
    images = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        total, terms = total_loss(network(images, where), body, targets, LossConfig())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        losses.append(total.item())
    assert losses[-1] < 0.1 * losses[0]
    assert terms["final/keypoints_3d"].item() / (44 * 3) < 0.015  # metres per coordinate
    assert terms["final/keypoints_2d"].item() / (44 * 2) < 0.008  # two pixels
