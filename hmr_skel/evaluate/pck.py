"""PCK, the share of 2D keypoints that are found: as 4D-Humans (HMR2) computes it on COCO.

Distances are in units of the crop's side. A keypoint counts where its label is there (confidence above 0.5); the score
is the mean over keypoints of each one's share over the whole data set, so that a rare keypoint weighs as much as a
common one.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
    """Of counts per keypoint over a data set: NaN where no keypoint is valid."""
    there = valid > 0
    share = torch.where(there, found / valid.clamp_min(1e-12), torch.zeros_like(found))
    return share.sum(-1) / there.sum(-1)
