"""Tokens by a small convolutional network, for encoders that learn from few images on a small computer.

A linear map a patch has to find out for itself that neighbouring pixels belong together and where its patch is; in the
steps that the recipe `tiny` has, it does not begin to (LOG.md). The published network has no such thing.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SHRINK = 4
"""Crops are averaged over squares of so many pixels first."""
CHANNELS = (32, 64, 128, 128)
"""Of the 3 x 3 convolutions; all but the first halve the picture."""
_GROUPS = 8


class ConvStem(nn.Module):
    """Crops to tokens that have seen all of it: convolutions, then one linear map of the whole picture."""

    def __init__(self, tokens: int, width: int, height_px: int, width_px: int) -> None:
        super().__init__()
        self.tokens = tokens
        inputs, last = (3, *CHANNELS[:-1]), len(CHANNELS) - 1
        self.convolutions = nn.Sequential(
            *(_convolution(inputs[i], CHANNELS[i], stride=1 if i == 0 else 2) for i in range(len(CHANNELS)))
        )
        side = SHRINK * 2**last
        self.proj = nn.Linear(CHANNELS[-1] * (height_px // side) * (width_px // side), tokens * width)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        features = self.convolutions(F.avg_pool2d(images, SHRINK))
        return self.proj(features.flatten(1)).unflatten(1, (self.tokens, -1))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Normalised over groups of channels of one sample: unlike batch norm, rows do not know one another."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outputs),
        nn.ReLU(inplace=True),
    )
