"""The loss of an encoder that finds keypoints itself (`hmr_skel.model.stem`): how far its maps are from their places.

Left and right are not asked of it. Which of two knees is the left one takes an idea of the whole person, which comes
late; until it comes, the best answer about either is "between them", where there is none. So the two of a pair are told
apart by their place in the picture: one map is for the knee further left in it, the other for the knee further right.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hmr_skel.body.joints import FLIP_44


def keypoint_maps_loss(maps: Float[Tensor, "B 44 H W"], keypoints_2d: Float[Tensor, "B 44 3"]) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of each keypoint's map from its place, summed over keypoints, mean over the batch.

    A place between the centres of four cells belongs to each of them by its nearness (bilinear); a map that says just
    that costs nothing.

    Args:
        maps: log of the chance of each cell; the cells are squares in the middle of the crop, over all of its height.
        keypoints_2d: x, y in crop coordinates [-0.5, 0.5], confidence. Keypoints without a place (confidence 0) or
            outside the maps count nothing, and neither do pairs of which one has none.
    """
    rows, columns = maps.shape[-2:]
    keypoints = ordered_pairs(keypoints_2d)
    across, down = rows * keypoints[..., 0], rows * keypoints[..., 1]  # from the middle, in cells
    there = (keypoints[..., 2] > 0) & (across.abs() < columns / 2) & (down.abs() < rows / 2)
    # Missing ones may be NaN, which must not reach a gradient. Beyond the outermost centres the nearest cells count.
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
    """The two of every pair in the order of the picture: the first of them (by number) has the place further left.

    Pairs of which one has no place lose the other one's as well: on which side it would be cannot be told.
    """
    mirrored, own = _pairs(keypoints_2d.device)
    alone, first = mirrored == own, own < mirrored
    other = keypoints_2d[:, mirrored]
    both = (keypoints_2d[..., 2] > 0) & (other[..., 2] > 0)
    in_order = torch.where(first, keypoints_2d[..., 0] <= other[..., 0], keypoints_2d[..., 0] >= other[..., 0])
    chosen = torch.where((in_order | alone).unsqueeze(-1), keypoints_2d, other)
    confidence = torch.where(both | alone, chosen[..., 2], 0)
    return torch.cat((chosen[..., :2], confidence.unsqueeze(-1)), -1)


# Made anew in every step, each would be a copy to the device that the host waits for.
@lru_cache(maxsize=16)
def _pairs(device: torch.device) -> tuple[Int[Tensor, "44"], Int[Tensor, "44"]]:
    """Numbers of the mirrored keypoints, and of the keypoints themselves."""
    return torch.tensor(FLIP_44, device=device), torch.arange(len(FLIP_44), device=device)
