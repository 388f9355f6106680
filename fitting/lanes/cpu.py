"""Runs the solver's kernels on a CPU, in the thread that asks for it."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitting.lanes import launches
from fitting.lanes.state import LANES
from fitting.lanes.surface import LaneSurface
from fitting.stack import Records


class Cpu:
    """See `fitting.mesh.Engine`."""

    together = 8  # their poses, sums and reduced problems stay in the cache that cores share
    desks = shares = 1
    steps = 5
    surface = LaneSurface

    def is_worth(self, rows: int, chunks: int) -> bool:
        return -(-rows // LANES) < chunks

    def launch(self, function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
        arrays = [seen(argument) for argument in arguments]
        run = getattr(launches, function)
        for block in np.ndindex(grid):
            run(*block, *arrays)

    def products(self, matrix: Tensor, stack: Tensor) -> Tensor:
        out = stack.new_empty(len(stack), len(matrix), LANES)
        for columns, found in zip(stack, out, strict=True):
            torch.mm(matrix, columns, out=found)
        return out

    def regrouped(self, stack: Tensor, rows: Tensor) -> Tensor:
        out = stack.new_empty(len(rows), *stack.shape[1:])
        for target, wanted in zip(out, rows, strict=True):
            source = wanted // LANES
            cuts = [0, *(source.diff().nonzero()[:, 0] + 1).tolist(), LANES]
            parts = [
                stack[source[start]].view(-1, LANES).index_select(1, wanted[start:stop] % LANES)
                for start, stop in itertools.pairwise(cuts)
            ]
            torch.cat(parts, 1, out=target.view(-1, LANES))
        return out


def seen(argument: Any) -> Any:
    """A tensor or `Records` as an array of numpy; other arguments as they are."""
    if isinstance(argument, Records):
        return argument.memory.numpy().view(argument.layout)[:, 0]
    return argument.numpy() if isinstance(argument, Tensor) else argument
