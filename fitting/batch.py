"""Tables of rows that are fitted together: choose rows, put them back, and fill up whole tiles."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

# Batches are filled up to a multiple of this. BLAS uses other kernels for odd rows and small batches, which sum in
# another order; in flat valleys of E (a shoulder near gimbal lock) these last bits become 1e-2 rad. In whole tiles a
# row has the same result in any batch.
TILE = 64

Columns = TypeVar("Columns", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """A table whose fields are columns with one leading axis of rows, or None."""

    def __getitem__(self: Columns, rows: Tensor | slice) -> Columns:
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: column[rows] for name, column in columns.items() if column is not None})

    @classmethod
    def joined(cls: type[Columns], parts: Sequence[Columns]) -> Columns:
        """The rows of several tables in one."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        return cls(**{name: _in_one(values) for name, values in columns.items()})

    def split(self: Columns, counts: Sequence[int]) -> list[Columns]:
        """So many rows each, in order."""
        ends = list(accumulate(counts, initial=0))
        return [self[slice(first, last)] for first, last in pairwise(ends)]

    def put(self: Columns, rows: Tensor, values: Columns) -> Columns:
        """A copy in which `values` replace the rows with the numbers `rows`."""
        names = [f.name for f in fields(self)]
        return replace(self, **{n: getattr(self, n).index_copy(0, rows, getattr(values, n)) for n in names})


def _in_one(values: Sequence[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    if values[0] is None or isinstance(values[0], Tensor):
        return None if values[0] is None else torch.cat(list(values))
    return values[0].joined(values)


@dataclass(frozen=True)
class Fitted(Rows):
    """The best point found for each row, and the distances there."""

    q: Tensor  # [B 46] float32 numbers in the solver's dtype, q[:, :3] = 0
    energy: Tensor  # [B]
    v2v: Tensor  # [B] mm
    v2v_max: Tensor  # [B] mm
    push: Tensor  # [B] m^2/rad, the largest slope of E along a dof at its limit; 0: none
    pushed: Tensor  # [B] that dof, or -1
    ahead: Tensor  # [B] the effect of one more step over the tolerance: at most 1 if the row has converged
    iterations: Tensor  # [B]
    starts: Tensor  # [B] number of starts


def choose(first: Tensor, one: Fitted, other: Fitted) -> Fitted:
    """For each row, `one` where the mask `first` [B] is true, else `other`."""
    return Fitted(**{f.name: where(first, getattr(one, f.name), getattr(other, f.name)) for f in fields(Fitted)})


def where(rows: Tensor, values: Tensor, other: Tensor | float) -> Tensor:
    """`values` in the rows of the mask [B], `other` (of one row or of all) elsewhere."""
    return torch.where(rows.view(-1, *(1,) * (values.ndim - 1)), values, other)


def filled(rows: Tensor) -> Tensor:
    """Row numbers, filled up to a multiple of a tile with the first one."""
    return torch.cat((rows, rows[:1].expand(-len(rows) % TILE if len(rows) else 0)))


def inner_box(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Limits rounded inwards to float32, so that a stored q is inside the limits of the table."""
    inner_low, inner_high = low.float(), high.float()
    inner_low = torch.where(inner_low.double() < low, torch.nextafter(inner_low, inner_high), inner_low)
    inner_high = torch.where(inner_high.double() > high, torch.nextafter(inner_high, inner_low), inner_high)
    return inner_low, inner_high
