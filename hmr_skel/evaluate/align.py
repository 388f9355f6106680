"""Two sets of points laid over each other: by a root, or by the best similarity (Procrustes)."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Int
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
