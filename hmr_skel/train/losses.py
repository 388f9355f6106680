"""The paper's losses, Eq. 1-6: one pure function per term, with the weights in `LossConfig`.

To add a term, write a field in `LossConfig`, a function, and a line in `stage_terms` under the field's name. Runs from
before a new field cannot be resumed, since their recipe does not have it.

Each term is a sum over a sample's labels and a mean over the batch. A sample without a label adds 0 but counts in the
mean, so that batches can be split over processes and steps. For the same reason every batch has all terms. Missing
labels are masked before they are compared, so they may be NaN. Losses are float32 (or float64).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr_skel.data.samples import Batch
from hmr_skel.model.camera import CropGeometry, image_to_crop, project
from hmr_skel.model.decoder import Estimate
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Prediction
from hmr_skel.model.pose_rep import q_to_rep, q_to_rotmat, rep_to_rotmat, rows_to_rotmat
from hmr_skel.model.stem import keypoint_pairs
from hmr_skel.rows import SkelParams

ROOT_KEYPOINT = 39  # Pelvis (MPII)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weights of all terms, and the form of Eq. 5. The defaults are the paper's."""

    keypoints_2d: float = 0.05
    """Eq. 2, weight of projected keypoints, in crop units."""
    keypoints_3d: float = 0.05
    """Eq. 2, weight of keypoints relative to the pelvis, m."""
    betas: float = 0.0005
    """Eq. 3, weight of the shape."""
    pelvis: float = 0.001
    """Eq. 3, weight of the pelvis' rotation matrix. The published code has 0.002."""
    body: float = 0.001
    """Eq. 3, weight of the rotation matrices of the other 23 joints."""
    coarse: float = 1.0
    """Eq. 6, weight of L_enc."""
    final: float = 1.0
    """Eq. 6, weight of L_dec."""
    refine: float = 0.1
    """Eq. 6, lambda_ref, the weight of `refine_form`."""
    refine_form: Literal["mean", "sum", "published"] = "mean"
    """The form of Eq. 5. `mean`: layers 1 to T-1, rotations from each joint's real dofs, mean over their entries.
    `sum`: the same as a sum, as in the formula. `published`: all T layers, Gram-Schmidt of all 24 joints' six numbers,
    mean."""
    keypoint_maps: float = 0.0
    """Weight of `keypoint_maps_loss`, which is not in the paper. Only for encoders with a stem that finds keypoints."""
    full_supervision: bool = False
    """Give layers 1 to T-1 all of Eq. 1 with weight 1 in place of Eq. 5 ("Full super.")."""

    def __post_init__(self) -> None:
        if self.refine_form not in ("mean", "sum", "published"):
            raise ValueError(f"refine_form is {self.refine_form!r}, must be mean, sum or published")
        negative = [
            f.name for f in fields(self) if isinstance(getattr(self, f.name), float) and getattr(self, f.name) < 0
        ]
        if negative:
            raise ValueError(f"negative loss weights: {', '.join(negative)}")


def total_loss(
    prediction: Prediction, body: SkelKeypoints, targets: Batch, config: LossConfig
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Eq. 6, and its terms by name ("final/keypoints_2d"), detached and without weights."""
    stages = {"coarse": (config.coarse, prediction.coarse), "final": (config.final, prediction.final)}
    if prediction.sketch is not None:
        stages["decoded"] = (config.final, prediction.layers[-1])
    if config.full_supervision:
        stages |= {f"layer{i}": (1.0, layer) for i, layer in enumerate(prediction.layers[:-1], 1)}
    given = {name: (weight, estimate) for name, (weight, estimate) in stages.items() if estimate is not None}
    keypoints = keypoints_of([estimate for _, estimate in given.values()], prediction.geometry, body)
    total, terms = torch.zeros((), device=targets.q.device), {}
    for (name, (weight, estimate)), points in zip(given.items(), keypoints, strict=True):
        for term, value in stage_terms(estimate, points, prediction.geometry, targets).items():
            total = total + weight * getattr(config, term) * value
            terms[f"{name}/{term}"] = value.detach()
        if name == "decoded":
            value = sketch_loss(prediction, points)
            total = total + config.keypoints_2d * value
            terms["sketch"] = value.detach()
    if not config.full_supervision and len(prediction.layers) > 1:
        value = refine_loss(prediction, targets, config.refine_form)
        total = total + config.refine * value
        terms["refine"] = value.detach()
    if prediction.keypoint_maps is not None:
        value = keypoint_maps_loss(prediction.keypoint_maps, targets.keypoints_2d)
        total = total + config.keypoint_maps * value
        terms["keypoint_maps"] = value.detach()
    return total, terms


def keypoints_of(
    estimates: Sequence[Estimate], geometry: CropGeometry, body: SkelKeypoints
) -> Float[Tensor, "S B 44 3"]:
    """The keypoints of several stages in the camera's frame, m; the body is posed once for all stages."""
    params = [estimate.skel_params(geometry) for estimate in estimates]
    return body.keypoints(SkelParams(*(torch.stack([getattr(p, f.name) for p in params]) for f in fields(SkelParams))))


def stage_terms(
    estimate: Estimate, keypoints: Float[Tensor, "B 44 3"], geometry: CropGeometry, targets: Batch
) -> dict[str, Float[Tensor, ""]]:
    """The terms of Eq. 1 for one estimate; their weights have the same names in `LossConfig`."""
    in_crop = image_to_crop(project(keypoints, geometry.intrinsics), geometry)
    rotmat, target_rotmat = rep_to_rotmat(estimate.rep), q_to_rotmat(_given(targets.q, targets.has_skel))
    return {
        "keypoints_2d": keypoints_2d_loss(in_crop, targets.keypoints_2d),
        "keypoints_3d": keypoints_3d_loss(keypoints, targets.keypoints_3d),
        "betas": betas_loss(estimate.betas, targets.betas, targets.has_skel),
        "pelvis": rotation_loss(rotmat[:, :1], target_rotmat[:, :1], targets.has_skel),
        "body": rotation_loss(rotmat[:, 1:], target_rotmat[:, 1:], targets.has_skel),
    }


def sketch_loss(prediction: Prediction, keypoints: Float[Tensor, "B 44 3"]) -> Float[Tensor, ""]:
    """L1 of where a correction believes the estimate's keypoints to be, in crop units; it teaches only that belief."""
    assert prediction.sketch is not None
    in_crop = image_to_crop(project(keypoints.detach(), prediction.geometry.intrinsics), prediction.geometry)
    return (prediction.sketch - in_crop).abs().sum((1, 2)).mean()


def keypoints_2d_loss(pred: Float[Tensor, "B 44 2"], gt: Float[Tensor, "B 44 3"]) -> Float[Tensor, ""]:
    """Eq. 2, second term: L1 in crop units, weighted by confidence."""
    return _weighted_l1(pred, gt[..., :2], gt[..., 2])


def keypoints_3d_loss(pred: Float[Tensor, "B 44 3"], gt: Float[Tensor, "B 44 4"]) -> Float[Tensor, ""]:
    """Eq. 2, first term: L1 of positions relative to the pelvis, m, weighted by confidence.

    A sample whose label has no pelvis adds nothing.
    """
    confidence = gt[..., 3] * (gt[..., ROOT_KEYPOINT, None, 3] > 0)
    position = _given(gt[..., :3], confidence > 0)
    root = slice(ROOT_KEYPOINT, ROOT_KEYPOINT + 1)
    return _weighted_l1(pred - pred[..., root, :], position - position[..., root, :], confidence)


def betas_loss(pred: Float[Tensor, "B 10"], gt: Float[Tensor, "B 10"], has: Bool[Tensor, "B"]) -> Float[Tensor, ""]:
    """Eq. 3, shape: L1."""
    return (_given(pred - _given(gt, has), has)).abs().sum(-1).mean()


def rotation_loss(
    pred: Float[Tensor, "B J 3 3"], gt: Float[Tensor, "B J 3 3"], has: Bool[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Eq. 3, pose: L1 of the entries of the joints' rotation matrices."""
    return _given(pred - gt, has).abs().sum((-1, -2, -3)).mean()


def refine_loss(prediction: Prediction, targets: Batch, form: Literal["mean", "sum", "published"]) -> Float[Tensor, ""]:
    """Eq. 5: the difference between the layers' poses and the target's, summed over layers."""
    q = _given(targets.q, targets.has_skel)
    if form == "published":
        layers, to_rotmat, target = prediction.layers, rows_to_rotmat, rows_to_rotmat(q_to_rep(q))
    else:
        layers, to_rotmat, target = prediction.layers[:-1], rep_to_rotmat, q_to_rotmat(q)
    summed = torch.stack([rotation_loss(to_rotmat(layer.rep), target, targets.has_skel) for layer in layers]).sum()
    return summed if form == "sum" else summed / target[0].numel()


def _weighted_l1(
    pred: Float[Tensor, "B K C"], gt: Float[Tensor, "B K C"], confidence: Float[Tensor, "B K"]
) -> Float[Tensor, ""]:
    there = confidence > 0
    difference = (pred - _given(gt, there)).abs().sum(-1)
    return (difference * _given(confidence, there)).sum(-1).mean()


def _given(values: Float[Tensor, "..."], there: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Set values without a label to zero: NaN times zero would be NaN, also in gradients."""
    there = there.reshape(*there.shape, *[1] * (values.ndim - there.ndim))
    return torch.where(there, values, torch.zeros_like(values))


def keypoint_maps_loss(maps: Float[Tensor, "B 44 H W"], keypoints_2d: Float[Tensor, "B 44 3"]) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of each keypoint's map from its position, summed over keypoints, mean over the batch.

    The target gives a position to the four nearest cell centres by bilinear weights.

    Args:
        maps: log probability of each cell; the cells are squares in the middle of the crop, over its whole height.
        keypoints_2d: x, y in crop coordinates [-0.5, 0.5], confidence. Keypoints with confidence 0 or outside the maps
            do not count, nor do pairs with one such keypoint.
    """
    rows, columns = maps.shape[-2:]
    keypoints = ordered_pairs(keypoints_2d)
    across, down = rows * keypoints[..., 0], rows * keypoints[..., 1]  # cells from the middle
    there = (keypoints[..., 2] > 0) & (across.abs() < columns / 2) & (down.abs() < rows / 2)
    # Missing keypoints may be NaN, which must not reach a gradient. Beyond the outer centres, the nearest cells count.
    x = torch.where(there, across + (columns - 1) / 2, 0).clamp(0, columns - 1)
    y = torch.where(there, down + (rows - 1) / 2, 0).clamp(0, rows - 1)
    left, top = x.floor().clamp_max(columns - 2), y.floor().clamp_max(rows - 2)
    right_share, lower_share = x - left, y - top
    flat, first = maps.flatten(2), (top * columns + left).long()

    def at(offset: int) -> Tensor:
        return flat.gather(-1, (first + offset).unsqueeze(-1)).squeeze(-1)

    upper = (1 - right_share) * at(0) + right_share * at(1)
    lower = (1 - right_share) * at(columns) + right_share * at(columns + 1)
    log_chance = (1 - lower_share) * upper + lower_share * lower
    entropy = sum(torch.special.entr(share) for share in (right_share, 1 - right_share, lower_share, 1 - lower_share))
    return -torch.where(there, log_chance + entropy, 0).sum(-1).mean()


def ordered_pairs(keypoints_2d: Float[Tensor, "B 44 3"]) -> Float[Tensor, "B 44 3"]:
    """Order the two keypoints of each pair by the picture: the first (by number) gets the position further left.

    If one of a pair is missing, the other is removed too, since its side cannot be told.
    """
    mirrored, own = keypoint_pairs(keypoints_2d.device)
    alone, first = mirrored == own, own < mirrored
    other = keypoints_2d[:, mirrored]
    both = (keypoints_2d[..., 2] > 0) & (other[..., 2] > 0)
    in_order = torch.where(first, keypoints_2d[..., 0] <= other[..., 0], keypoints_2d[..., 0] >= other[..., 0])
    chosen = torch.where((in_order | alone).unsqueeze(-1), keypoints_2d, other)
    confidence = torch.where(both | alone, chosen[..., 2], 0)
    return torch.cat((chosen[..., :2], confidence.unsqueeze(-1)), -1)
