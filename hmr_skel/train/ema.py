"""The exponential mean of a network's weights over the steps of a run: what is evaluated and kept."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """A running mean of everything in a module's state dict; starts as a copy of it."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """mean <- decay * mean + (1 - decay) * weights."""
        now = module.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [now[name] for name in self.weights], 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over another's mean. Raises `KeyError` where a name is missing."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
