"""How good a fit is, row by row: distances in millimetres, limits, and a status."""

from enum import IntEnum

import torch
from torch import Tensor


class Status(IntEnum):
    """How a row ended."""

    converged = 0  # no dof would move by more than the tolerance; all are inside their limits
    at_limit = 1  # likewise, with at least one dof held at its limit
    max_iterations = 2  # the steps ran out first: usable, but not at its minimum
    rejected = 3  # not fitted: the input is not finite or not a body


def limit_violation_deg(q: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The largest excess over a limit [B] of q [B 46]; 0 inside."""
    excess = torch.maximum(low - q, q - high).clamp_min(0)
    return torch.rad2deg(excess.amax(1))
