"""AdamW, its learning rate over the steps, and the exponential mean of the weights, which is the result of a run."""

from collections.abc import Mapping
from math import cos, exp, pi
from typing import Literal

import torch
from torch import Tensor, nn

from hmr_skel.train.recipes import Recipe


def new_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.AdamW:
    """AdamW with weight decay only on matrices and convolutions."""
    decayed = [p for p in network.parameters() if p.ndim in (2, 4)]
    others = [p for p in network.parameters() if p.ndim not in (2, 4)]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: Literal["constant", "cosine"]) -> float:
    """The learning rate at `step` (from 0) of `steps`, as a factor of the highest one.

    It rises linearly to 1 over the first `warmup` steps, then stays there or falls to 0 along half a cosine.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if schedule == "constant" or step < warmup:
        return rise
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))


def ema_decay(updates: int, decay: float, tau: float) -> float:
    """The share of the old mean that update number `updates` (from 1) keeps, which rises from about 0 to `decay`.

    Source: SKEL-CF's published code.
    """
    return decay * (1 - exp(-updates / tau))


class Ema:
    """The running mean of a module's state dict, which starts as a copy."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """mean <- decay * mean + (1 - decay) * weights."""
        now = module.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [now[name] for name in self.weights], 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy another mean. Raises `KeyError` if a name is missing."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
