"""Tokens by a small convolutional network that finds keypoints, for encoders that learn from few images on a CPU.

The paper's encoder has learnt from 2D keypoints before it sees SKEL (ViTPose). This stem learns from them on the way:
for each of the 44 it says in which cell of the crop it is, and a loss tells it where it was
(`hmr_skel.train.losses`). What it saw there, and where that is, becomes the encoder's tokens. A linear map a
patch has to find out for itself that neighbouring pixels belong together; in the steps that the recipe `tiny` has, it
does not begin to (LOG.md).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hmr_skel.body.joints import KEYPOINTS_44

SHRINK = 4
"""Crops are first summed up by squares of so many pixels: their mean, and how much their pixels differ."""
CELL = 16
"""Side of a cell of the keypoints' maps, px of the crop."""
CHANNELS = (16, 48, 96, 128)
"""Channels of the convolutions on grids of 4, 8, 16 and 32 px."""
SEEN = 16
"""Features that are kept of what is at a keypoint."""
_GROUPS = 8
_LEAST_VARIANCE = 1e-4  # rounding may leave a flat square with less than none
_USUAL_SPREAD = 0.25  # of normalised images within a square
_PLACE_SCALE = 4.0  # crop coordinates are small beside features


class Tokens(NamedTuple):
    """What an encoder makes of a crop."""

    tokens: Float[Tensor, "B N D"]
    maps: Float[Tensor, "B 44 H W"] | None
    """Log of the chance that a keypoint is in a cell of `CELL` px of the network's 192 columns. None: the encoder has
    patches."""


class KeypointStem(nn.Module):
    """Crops to tokens, each of which knows all of the picture: convolutions, 44 maps, then one linear map."""

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
        # The maps learn from places alone; letting pose and shape pull at them as well made both slower (LOG.md).
        chance = log_chance.detach().exp()
        # Sums, not a matrix product: those are bfloat16 where the encoder is.
        places = (chance.unsqueeze(-1) * cell_centers(*maps.shape[-2:]).to(chance)).sum(-2)
        seen = self.seen(chance.to(cells.dtype) @ cells.flatten(2).mT)
        found = (seen.flatten(1), _PLACE_SCALE * places.flatten(1).to(seen.dtype), overview.flatten(1))
        tokens = self.proj(torch.cat(found, 1)).unflatten(1, (self.tokens, -1))
        return Tokens(tokens, log_chance.unflatten(-1, maps.shape[-2:]))


class Residual(nn.Module):
    """Two convolutions beside the identity, which is all that there is at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return F.relu(x + self.norm(self.second(self.first(x))))


def cell_centers(rows: int, columns: int) -> Float[Tensor, "N 2"]:
    """x, y of each cell's centre, row by row, in crop coordinates: -0.5 to 0.5 over the square crop's height.

    The columns are the middle of the crop, so x = 0 is in the middle of them.
    """
    y = (torch.arange(rows) + 0.5) / rows - 0.5
    x = ((torch.arange(columns) + 0.5) - columns / 2) / rows
    return torch.stack((x.expand(rows, columns), y[:, None].expand(rows, columns)), -1).flatten(0, 1)


def shrunk(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 6 h w"]:
    """Mean and standard deviation of every square: shrinking loses detail, so its amount is kept.

    What is in focus has edges, and the wall behind has few: this alone halves the steps to a first idea of where the
    body is (LOG.md).
    """
    mean = F.avg_pool2d(images, SHRINK)
    variance = F.avg_pool2d(images.square(), SHRINK) - mean.square()
    return torch.cat((mean, variance.clamp_min(_LEAST_VARIANCE).sqrt() / _USUAL_SPREAD - 1), 1)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Normalised over groups of channels of one sample: unlike batch norm, rows do not know one another."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.ReLU(inplace=True),
    )
