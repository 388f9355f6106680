"""Where the stages lead from a start, row by row, and how rows of it are picked and put together."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fitted:
    """The best point found, with the distances there."""

    q: Tensor  # [B 46] float32 numbers in the solver's dtype, q[:, :3] = 0
    energy: Tensor  # [B]
    v2v: Tensor  # [B] mm
    v2v_max: Tensor  # [B] mm
    ahead: Tensor  # [B] what one more step would bring, over what is tolerated: at most 1 where the row has converged
    iterations: Tensor  # [B]
    starts: Tensor  # [B]

    def __getitem__(self, rows: Tensor | slice) -> "Fitted":
        return Fitted(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def counting(self, starts: Tensor) -> "Fitted":
        """With the number of starts [B]."""
        return replace(self, starts=starts)

    def put(self, rows: Tensor, values: "Fitted") -> "Fitted":
        """With `rows` replaced."""
        return Fitted(
            **{f.name: getattr(self, f.name).index_copy(0, rows, getattr(values, f.name)) for f in fields(self)}
        )


def choose(first: Tensor, one: Fitted, other: Fitted) -> Fitted:
    """Row by row, `one` where the mask [B] says so."""
    return Fitted(**{f.name: where(first, getattr(one, f.name), getattr(other, f.name)) for f in fields(Fitted)})


def where(rows: Tensor, values: Tensor, other: Tensor | float) -> Tensor:
    """`values` in the rows of the mask [B], `other` elsewhere."""
    return torch.where(rows.view(-1, *(1,) * (values.ndim - 1)), values, other)
