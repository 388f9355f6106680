"""Counts the arithmetic of a fit, and measures how much of it the device could do: "share of peak".

Counted are matrix products (two a multiply-add, by torch's own formulas), factorisations and triangular solves, and one
per element for everything else that computes: additions, comparisons, sines alike. Moving numbers is free. The counter
sees torch's operations only, so it is given the plain solver, which takes the same steps as the compiled one.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_MOVES = """
_index_put_impl_ _local_scalar_dense _reshape_alias _to_copy _unsafe_view arange argsort as_strided cat clone
constant_pad_nd contiguous copy copy_ empty empty_like empty_strided eye fill fill_ flip full full_like gather index
index_copy index_copy_ index_put index_put_ index_select lift_fresh linspace new_empty new_empty_strided new_full
new_ones new_zeros nonzero ones ones_like repeat resize_ roll scalar_tensor scatter scatter_ select_scatter
slice_scatter sort stack tril_indices triu_indices zero_ zeros zeros_like
"""
_FREE = frozenset(_MOVES.split())


class FlopCounter(TorchDispatchMode):
    """`flops` of everything run in the `with` block, on any device, in whatever process of torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = 0
        """Of matrix products."""
        self.other = 0

    @property
    def flops(self) -> int:
        return self.matrix + self.other

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.matrix += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        else:
            self.other += _elementwise(func, args, result)
        return result


def _elementwise(func, args: tuple, result) -> int:
    name = func._overloadpacket.__name__
    if func.is_view or name in _FREE:
        return 0
    inputs, outputs = list(_tensors(args)), list(_tensors((result,)))
    if name in ("linalg_cholesky_ex", "cholesky"):
        return sum(prod(t.shape[:-2]) * t.shape[-1] ** 3 // 3 for t in inputs[:1])
    if name in ("cholesky_solve", "linalg_solve_triangular", "triangular_solve"):
        right = outputs[0]
        return (2 if name == "cholesky_solve" else 1) * right.numel() * right.shape[-2]
    if name in ("_linalg_solve_ex", "linalg_lu_factor_ex"):
        matrix = inputs[0]
        return prod(matrix.shape[:-2]) * 2 * matrix.shape[-1] ** 3 // 3
    if name == "linalg_cross":
        return 3 * outputs[0].numel()
    work = 2 if name in ("addcmul", "addcmul_", "addcdiv", "lerp", "var_mean") else 1
    return work * max((t.numel() for t in inputs + outputs), default=0)


def _tensors(values: object) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def gemm_flops_per_s(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """The rate of the fastest large square matrix product seen within about so many seconds, at torch's settings."""
    size = 1536 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, begin = float("inf"), time.perf_counter()
    for index in range(200):
        with _synchronised(device):
            start = time.perf_counter()
            a @ b
        if index:  # the first one wakes threads up
            best = min(best, time.perf_counter() - start)
            if time.perf_counter() - begin > seconds:
                break
    return 2 * size**3 / best


@contextmanager
def _synchronised(device: torch.device) -> Generator[None]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
