"""Tokens by a small convolutional network, for encoders that learn from few images on a small computer.

A linear map a patch has to find out for itself that neighbouring pixels belong together and where its patch is; in the
steps that the recipe `tiny` has, it does not begin to (LOG.md). The published network has no such thing.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SHRINK = 4
"""Crops are first summed up by squares of so many pixels: their mean, and how much their pixels differ."""
CHANNELS = (32, 64, 128, 128)
"""Of the 3 x 3 convolutions; all but the first halve the picture."""
_GROUPS = 8
_LEAST_VARIANCE = 1e-4  # rounding may leave a flat square with less than none
_USUAL_SPREAD = 0.25  # of normalised images within a square


class ConvStem(nn.Module):
    """Crops to tokens that have seen all of it: convolutions, then one linear map of the whole picture."""

    def __init__(self, tokens: int, width: int, height_px: int, width_px: int) -> None:
        super().__init__()
        self.tokens = tokens
        inputs, last = (6, *CHANNELS[:-1]), len(CHANNELS) - 1
        self.convolutions = nn.Sequential(
            *(_convolution(inputs[i], CHANNELS[i], stride=1 if i == 0 else 2) for i in range(len(CHANNELS)))
        )
        side = SHRINK * 2**last
        self.proj = nn.Linear(CHANNELS[-1] * (height_px // side) * (width_px // side), tokens * width)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        features = self.convolutions(shrunk(images))
        return self.proj(features.flatten(1)).unflatten(1, (self.tokens, -1))


def shrunk(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 6 h w"]:
    """Mean and standard deviation of every square: shrinking loses detail, so its amount is kept.

    What is in focus has edges, and the wall behind has few: this alone halves the steps to a first idea of where the
    body is (LOG.md).
    """
    mean = F.avg_pool2d(images, SHRINK)
    variance = F.avg_pool2d(images.square(), SHRINK) - mean.square()
    return torch.cat((mean, variance.clamp_min(_LEAST_VARIANCE).sqrt() / _USUAL_SPREAD - 1), 1)


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Normalised over groups of channels of one sample: unlike batch norm, rows do not know one another."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.ReLU(inplace=True),
    )
