"""AdamW as all recipes have it."""

import torch
from torch import nn

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
