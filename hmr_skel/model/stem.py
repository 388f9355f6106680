"""A small convolutional network that finds keypoints and makes tokens from them, for training on few images on a CPU.

The paper's encoder has learnt 2D keypoints before it sees SKEL (ViTPose). This stem learns them in the same training:
it predicts the cell of the crop in which each of the 44 keypoints is, and a loss compares that with the label
(`hmr_skel.train.losses`). The features at a keypoint and its position become the encoder's tokens. Linear patch
embeddings first have to learn which pixels are neighbours, which takes more steps than `tiny` has (LOG.md).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hmr_skel.body.joints import FLIP_44, KEYPOINTS_44

SHRINK = 4
"""Side of the squares, px, whose mean and standard deviation replace a crop's pixels."""
CELL = 16
"""Side of a cell in the keypoint maps, px of the crop."""
CHANNELS = (16, 48, 96, 128)
"""Channels of the convolutions on grids of 4, 8, 16 and 32 px."""
SEEN = 16
"""Number of features at a keypoint that go into the tokens."""
_GROUPS = 8
_LEAST_VARIANCE = 1e-4  # rounding may make the variance of a flat square negative
_USUAL_SPREAD = 0.25  # usual deviation in a square of a normalised image
_PLACE_SCALE = 4.0  # crop coordinates are small compared with features


class Tokens(NamedTuple):
    """The result of an encoder."""

    tokens: Float[Tensor, "B N D"]
    maps: Float[Tensor, "B 44 H W"] | None
    """Log of the probability that a keypoint is in a cell (`CELL` px, in the network's 192 columns), or None."""


class KeypointStem(nn.Module):
    """Make tokens from crops by convolutions, 44 maps, and a linear map; each token depends on the whole crop."""

    def __init__(self, tokens: int, width: int, height_px: int, width_px: int) -> None:
        super().__init__()
        self.tokens = tokens
        fine, middle, cells, coarse = CHANNELS
        self.down = nn.Sequential(
            _convolution(6, fine), _convolution(fine, middle, stride=2), _convolution(middle, cells, stride=2),
            Residual(cells),
        )  # fmt: skip
        self.context = nn.Sequential(_convolution(cells, coarse, stride=2), Residual(coarse))
        self.up = nn.Conv2d(coarse, cells, 1)
        self.merged = _convolution(cells, cells)
        keypoints = len(KEYPOINTS_44)
        self.maps = nn.Conv2d(cells, keypoints, 1)
        self.seen = nn.Linear(cells, SEEN)
        overview = coarse * (height_px // (2 * CELL)) * (width_px // (2 * CELL))
        self.proj = nn.Linear(keypoints * (SEEN + 2) + overview, tokens * width)
        self.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Tokens:
        cells = self.down(shrunk(images).contiguous(memory_format=torch.channels_last))
        overview = self.context(cells)
        cells = self.merged(cells + F.interpolate(self.up(overview), scale_factor=2.0))
        maps = self.maps(cells)
        log_chance = maps.flatten(2).float().log_softmax(-1)
        # The maps learn only from positions: gradients from pose and shape made both learn more slowly (LOG.md).
        chance = log_chance.detach().exp()
        # Sums, because a matrix product would be bfloat16 when the encoder is.
        places = (chance.unsqueeze(-1) * cell_centers(*maps.shape[-2:]).to(chance)).sum(-2)
        seen = self.seen(chance.to(cells.dtype) @ cells.flatten(2).mT)
        found = (seen.flatten(1), _PLACE_SCALE * places.flatten(1).to(seen.dtype), overview.flatten(1))
        tokens = self.proj(torch.cat(found, 1)).unflatten(1, (self.tokens, -1))
        return Tokens(tokens, log_chance.unflatten(-1, maps.shape[-2:]))


class Residual(nn.Module):
    """Two convolutions added to the identity; at the start, their result is zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return F.relu(x + self.norm(self.second(self.first(x))))


def cell_centers(rows: int, columns: int) -> Float[Tensor, "N 2"]:
    """x, y of each cell's centre, row by row, in crop coordinates, which go from -0.5 to 0.5 over the crop's height.

    The columns are the middle of the crop, so x = 0 is in their middle.
    """
    y = (torch.arange(rows) + 0.5) / rows - 0.5
    x = ((torch.arange(columns) + 0.5) - columns / 2) / rows
    return torch.stack((x.expand(rows, columns), y[:, None].expand(rows, columns)), -1).flatten(0, 1)


# Cached: a new tensor in each step would be a copy to the device that the host waits for.
@lru_cache(maxsize=16)
def keypoint_pairs(device: torch.device) -> tuple[Int[Tensor, "44"], Int[Tensor, "44"]]:
    """The numbers of the mirrored keypoints, and of the keypoints themselves."""
    return torch.tensor(FLIP_44, device=device), torch.arange(len(FLIP_44), device=device)


def shrunk(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 6 h w"]:
    """Mean and standard deviation of every square.

    The deviation keeps the amount of detail: a body in focus has edges, the wall behind it has few. It halves the steps
    until the network finds the body (LOG.md).
    """
    mean = F.avg_pool2d(images, SHRINK)
    variance = F.avg_pool2d(images.square(), SHRINK) - mean.square()
    return torch.cat((mean, variance.clamp_min(_LEAST_VARIANCE).sqrt() / _USUAL_SPREAD - 1), 1)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution with group norm: unlike batch norm, it keeps rows independent."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.ReLU(inplace=True),
    )
