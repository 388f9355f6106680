"""Learning rate and averaging over the steps of a run: pure functions of the step, so that nothing has to be saved."""

from math import cos, exp, pi
from typing import Literal


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: Literal["constant", "cosine"]) -> float:
    """What the highest learning rate is multiplied by at `step` (from 0) of `steps`.

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
