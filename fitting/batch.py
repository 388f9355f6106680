"""Rows that are fitted together: how they are picked, put back, and filled up to whole tiles."""

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

# Batches are filled up to a multiple of this. BLAS hands odd rows and small batches to other kernels, which add up in
# another order; flat valleys of E (a shoulder near gimbal lock) make 1e-2 rad of those last bits. In whole tiles a row
# comes out the same in any batch.
TILE = 64

Columns = TypeVar("Columns", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """A table: every field is a column with one leading axis of rows, or None."""

    def __getitem__(self: Columns, rows: Tensor | slice) -> Columns:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: column[rows] for name, column in columns.items() if column is not None})

    def put(self: Columns, rows: Tensor, values: Columns) -> Columns:
        """With the rows of these numbers replaced by `values`."""
        names = [f.name for f in fields(self)]
        return replace(self, **{n: getattr(self, n).index_copy(0, rows, getattr(values, n)) for n in names})


@dataclass(frozen=True)
class Fitted(Rows):
    """The best point that was found for each row, and the distances there."""

    q: Tensor  # [B 46] float32 numbers in the solver's dtype, q[:, :3] = 0
    energy: Tensor  # [B]
    v2v: Tensor  # [B] mm
    v2v_max: Tensor  # [B] mm
    push: Tensor  # [B] m^2/rad, the largest slope of E that a limit holds back; 0 where none does
    pushed: Tensor  # [B] the dof of it, -1 where there is none
    ahead: Tensor  # [B] what one more step would bring, over what is tolerated: at most 1 where the row has converged
    iterations: Tensor  # [B]
    starts: Tensor  # [B] how many starts were tried


def choose(first: Tensor, one: Fitted, other: Fitted) -> Fitted:
    """Row by row, `one` where the mask [B] says so, else `other`."""
    return Fitted(**{f.name: where(first, getattr(one, f.name), getattr(other, f.name)) for f in fields(Fitted)})


def where(rows: Tensor, values: Tensor, other: Tensor | float) -> Tensor:
    """`values` in the rows of the mask [B], `other` (of one row or of all) elsewhere."""
    return torch.where(rows.view(-1, *(1,) * (values.ndim - 1)), values, other)


def filled(rows: Tensor) -> Tensor:
    """Row numbers, the first of them repeated at the end up to a multiple of a tile."""
    return torch.cat((rows, rows[:1].expand(-len(rows) % TILE if len(rows) else 0)))


def inner_box(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Limits rounded inwards to float32, so that a stored q is inside the table's own numbers."""
    inner_low, inner_high = low.float(), high.float()
    inner_low = torch.where(inner_low.double() < low, torch.nextafter(inner_low, inner_high), inner_low)
    inner_high = torch.where(inner_high.double() > high, torch.nextafter(inner_high, inner_low), inner_high)
    return inner_low, inner_high
