"""Errors per row: distances, mm, between points in m, and PCK of keypoints in the image.

All functions are pure; the caller chooses the joints and the root.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def points_of(points: Float[Tensor, "*batch K C"], numbers: Sequence[int]) -> Float[Tensor, "*batch S C"]:
    """The points with these numbers, in this order."""
    return points.index_select(-2, _index(tuple(numbers), points.device))


# Cached: a list as an index, or a new tensor in each call, is a copy to the device that the host waits for.
@lru_cache(maxsize=64)
def _index(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, "S"]:
    return torch.tensor(numbers, device=device)


def root_of(points: Float[Tensor, "*batch K 3"], root: int | Sequence[int]) -> Float[Tensor, "*batch 3"]:
    """The point number `root`, or the mean of several."""
    return points[..., root, :] if isinstance(root, int) else points_of(points, root).mean(-2)


def from_root(points: Float[Tensor, "*batch K 3"], root: int | Sequence[int]) -> Float[Tensor, "*batch K 3"]:
    """Positions relative to the root."""
    return points - root_of(points, root).unsqueeze(-2)


def similarity_align(pred: Float[Tensor, "*batch K 3"], gt: Float[Tensor, "*batch K 3"]) -> Float[Tensor, "*batch K 3"]:
    """`pred`, moved, turned and scaled to the least sum of squared distances from `gt` (Umeyama 1991), not mirrored.

    The similarity is computed in float64 and applied in the dtype of the points. Points that all coincide become the
    mean of `gt`.
    """
    a, b = pred.double(), gt.double()
    mean_a, mean_b = a.mean(-2, keepdim=True), b.mean(-2, keepdim=True)
    a, b = a - mean_a, b - mean_b
    u, singular, vt = torch.linalg.svd(a.mT @ b)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0)  # a reflection is not a rotation
    size = a.square().sum((-1, -2))
    scale = (singular * sign).sum(-1) / torch.where(size > 0, size, 1.0)
    turn = scale[..., None, None] * ((u * sign.unsqueeze(-2)) @ vt)
    return (pred - mean_a.to(pred.dtype)) @ turn.to(pred.dtype) + mean_b.to(pred.dtype)


def mpjpe_mm(
    pred: Float[Tensor, "*batch J 3"],
    gt: Float[Tensor, "*batch J 3"],
    root: int | Sequence[int],
    scored: Sequence[int] | None = None,
) -> Float[Tensor, "*batch"]:
    """Mean distance per joint, mm, after the roots (a joint, or the mean of several) are moved to one place. It is over
    all joints or those `scored`, which need not include the root."""
    pred, gt = from_root(pred, root), from_root(gt, root)
    if scored is not None:
        pred, gt = points_of(pred, scored), points_of(gt, scored)
    return _mean_distance_mm(pred, gt)


def pa_mpjpe_mm(pred: Float[Tensor, "*batch J 3"], gt: Float[Tensor, "*batch J 3"]) -> Float[Tensor, "*batch"]:
    """Mean distance per joint or vertex, mm, after `similarity_align`: the error of the pose alone."""
    return _mean_distance_mm(similarity_align(pred, gt), gt)


def pve_mm(
    pred: Float[Tensor, "*batch V 3"],
    gt: Float[Tensor, "*batch V 3"],
    pred_root: Float[Tensor, "*batch 3"],
    gt_root: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch"]:
    """Mean distance per vertex, mm, after the roots (points of the skeleton, not the mesh) are moved to one place."""
    return _mean_distance_mm(pred - pred_root.unsqueeze(-2), gt - gt_root.unsqueeze(-2))


def _mean_distance_mm(a: Float[Tensor, "*batch K 3"], b: Float[Tensor, "*batch K 3"]) -> Float[Tensor, "*batch"]:
    return 1000 * (a - b).norm(dim=-1).mean(-1)


THRESHOLDS: Mapping[str, float] = {"pck_05": 0.05, "pck_10": 0.1}
"""The thresholds of PCK, in sides of the crop."""


def found_keypoints(
    pred: Float[Tensor, "*batch K 2"], gt: Float[Tensor, "*batch K 2"], valid: Bool[Tensor, "*batch K"]
) -> Bool[Tensor, "*batch 2 K"]:
    """Whether each keypoint is valid and nearer than each threshold, in crop coordinates. Others may be NaN."""
    distance = (pred - gt).norm(dim=-1).nan_to_num(torch.inf)
    return torch.stack([distance < threshold for threshold in THRESHOLDS.values()], -2) & valid.unsqueeze(-2)


def pck(found: Float[Tensor, "*batch K"], valid: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """PCK from the counts of found and valid keypoints over a data set; NaN if no keypoint is valid."""
    there = valid > 0
    share = torch.where(there, found / valid.clamp_min(1e-12), torch.zeros_like(found))
    return share.sum(-1) / there.sum(-1)
