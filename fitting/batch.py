"""What is known of the rows being fitted together, and how batches are filled up."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.kinematics import Skeleton
from fitting.target import Target

# Batches are filled up to a multiple of this. BLAS hands odd rows and small batches to other kernels, which add up in
# another order; flat valleys of E (a shoulder near gimbal lock) make 1e-2 rad of those last bits. In whole tiles a row
# comes out the same in any batch.
TILE = 64


@dataclass(frozen=True)
class Batch:
    """Rows [B] on their way."""

    target: Target
    betas: Tensor  # [B 10] of SKEL
    skeleton: Skeleton

    def __getitem__(self, rows: Tensor | slice) -> "Batch":
        return Batch(self.target[rows], self.betas[rows], self.skeleton[rows])


def filled(rows: Tensor) -> Tensor:
    """Row numbers, the first of them repeated at the end up to a multiple of a tile."""
    return torch.cat((rows, rows[:1].expand(-len(rows) % TILE if len(rows) else 0)))


def inner_box(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Limits rounded inwards to float32, so that a stored q is inside the table's own numbers."""
    inner_low, inner_high = low.float(), high.float()
    inner_low = torch.where(inner_low.double() < low, torch.nextafter(inner_low, inner_high), inner_low)
    inner_high = torch.where(inner_high.double() > high, torch.nextafter(inner_high, inner_low), inner_high)
    return inner_low, inner_high
