"""AdamW, its learning rate over the steps, and the exponential mean of the weights, which is evaluated and kept."""

from collections.abc import Mapping
from math import cos, exp, pi
from typing import Literal

import torch
from torch import Tensor, nn

from hmr_skel.train.recipes import Recipe


def new_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.AdamW:
    """AdamW that decays matrices and convolutions, and nothing else."""
    decayed = [p for p in network.parameters() if p.ndim in (2, 4)]
    others = [p for p in network.parameters() if p.ndim not in (2, 4)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: Literal["constant", "cosine"]) -> float:
    """The factor of the highest learning rate at `step` (from 0) of `steps`.

    Rises linearly to 1 over the first `warmup` steps, then stays there or falls to 0 along half a cosine.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if schedule == "constant" or step < warmup:
        return rise
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))


def ema_decay(updates: int, decay: float, tau: float) -> float:
    """The share of the old mean that the `updates`-th update (from 1) keeps: rises from about 0 to `decay`.

    Source: SKEL-CF's published code.
    """
    return decay * (1 - exp(-updates / tau))


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
