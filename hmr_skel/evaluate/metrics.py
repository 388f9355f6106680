"""Errors per row, in millimetres, of points in metres. Pure functions; the caller says which joints and root."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from hmr_skel.evaluate.align import from_root, points_of, similarity_align


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
