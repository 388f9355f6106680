"""Errors of points per row: distances in millimetres of points in metres, and PCK of keypoints in the image.

Pure functions; the caller says which joints and which root.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def points_of(points: Float[Tensor, "*batch K C"], numbers: Sequence[int]) -> Float[Tensor, "*batch S C"]:
    """The points with these numbers, in this order."""
    return points.index_select(-2, _index(tuple(numbers), points.device))


# A list as an index, or a tensor made in every call, is a copy to the device that the host waits for.
@lru_cache(maxsize=64)
def _index(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, "S"]:
    return torch.tensor(numbers, device=device)


def root_of(points: Float[Tensor, "*batch K 3"], root: int | Sequence[int]) -> Float[Tensor, "*batch 3"]:
    """The point number `root`, or the mean of several."""
    return points[..., root, :] if isinstance(root, int) else points_of(points, root).mean(-2)


def from_root(points: Float[Tensor, "*batch K 3"], root: int | Sequence[int]) -> Float[Tensor, "*batch K 3"]:
    """Positions against the root."""
    return points - root_of(points, root).unsqueeze(-2)


def similarity_align(pred: Float[Tensor, "*batch K 3"], gt: Float[Tensor, "*batch K 3"]) -> Float[Tensor, "*batch K 3"]:
    """`pred` moved, turned and scaled, never mirrored, to the least sum of squared distances from `gt` (Umeyama 1991).

    The similarity is found in float64, whatever comes in, and applied in the points' own dtype. Points that all
    coincide stay in one place: the mean of `gt`.
    """
    a, b = pred.double(), gt.double()
    mean_a, mean_b = a.mean(-2, keepdim=True), b.mean(-2, keepdim=True)
    a, b = a - mean_a, b - mean_b
    u, singular, vt = torch.linalg.svd(a.mT @ b)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0)  # a reflection is no rotation
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
    """Mean distance per joint once both roots (one joint, or the mean of several) are in one place; of all joints, or
    of those `scored`, among which the root need not be."""
    pred, gt = from_root(pred, root), from_root(gt, root)
    if scored is not None:
        pred, gt = points_of(pred, scored), points_of(gt, scored)
    return _mean_distance_mm(pred, gt)


def pa_mpjpe_mm(pred: Float[Tensor, "*batch J 3"], gt: Float[Tensor, "*batch J 3"]) -> Float[Tensor, "*batch"]:
    """Mean distance per joint (or vertex) after the best similarity: what is wrong with the pose alone."""
    return _mean_distance_mm(similarity_align(pred, gt), gt)


def pve_mm(
    pred: Float[Tensor, "*batch V 3"],
    gt: Float[Tensor, "*batch V 3"],
    pred_root: Float[Tensor, "*batch 3"],
    gt_root: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch"]:
    """Mean distance per vertex once both roots (points of the skeleton, not of the mesh) are in one place."""
    return _mean_distance_mm(pred - pred_root.unsqueeze(-2), gt - gt_root.unsqueeze(-2))


def _mean_distance_mm(a: Float[Tensor, "*batch K 3"], b: Float[Tensor, "*batch K 3"]) -> Float[Tensor, "*batch"]:
    return 1000 * (a - b).norm(dim=-1).mean(-1)


THRESHOLDS: Mapping[str, float] = {"pck_05": 0.05, "pck_10": 0.1}
"""Metric -> of the crop's side."""


def found_keypoints(
    pred: Float[Tensor, "*batch K 2"], gt: Float[Tensor, "*batch K 2"], valid: Bool[Tensor, "*batch K"]
) -> Bool[Tensor, "*batch 2 K"]:
    """Which valid keypoints are nearer than each of the thresholds; crop coordinates. What is not valid is not found,
    and may be NaN."""
    distance = (pred - gt).norm(dim=-1).nan_to_num(torch.inf)
    return torch.stack([distance < threshold for threshold in THRESHOLDS.values()], -2) & valid.unsqueeze(-2)


def pck(found: Float[Tensor, "*batch K"], valid: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    """PCK from counts per keypoint over a data set; NaN where no keypoint is valid."""
    there = valid > 0
    share = torch.where(there, found / valid.clamp_min(1e-12), torch.zeros_like(found))
    return share.sum(-1) / there.sum(-1)
