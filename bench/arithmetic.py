"""Counts the arithmetic of a fit, and measures how much of it the device could do: "share of peak".

Counted are matrix products (two a multiply-add, by torch's own formulas), factorisations and triangular solves, and one
per element for everything else that computes: additions, comparisons, sines alike. Moving numbers is free.

torch's own counter does not see the compiled kernels. Their calls are counted by Python's profiling hook while a fit
runs in this thread; what a call costs follows from the loops of the kernels. Lanes that only fill up a chunk
are computed too, and count.
"""

import inspect
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from math import prod
from types import FrameType

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fitting.lanes import newton, quadratic, surface
from fitting.lanes.mesh import LaneMesher
from fitting.lanes.state import LANES, Record
from fitting.lanes.surface import LaneSurface

_MOVES = """
_index_put_impl_ _local_scalar_dense _reshape_alias _to_copy _unsafe_view arange argsort as_strided cat clone
constant_pad_nd contiguous copy copy_ empty empty_like empty_strided eye fill fill_ flip full full_like gather index
index_copy index_copy_ index_put index_put_ index_select lift_fresh linspace new_empty new_empty_strided new_full
new_ones new_zeros nonzero ones ones_like repeat resize_ roll scalar_tensor scatter scatter_ select_scatter
slice_scatter sort stack tril_indices triu_indices zero_ zeros zeros_like
"""
_FREE = frozenset(_MOVES.split())
_PRODUCT, _TURN = 45, 15  # a 3x3 matrix times another, times a vector
_POSE = 23 * (2 * _PRODUCT + 2 * _TURN + 9) + 43 * (6 + 3 * 26) + 10 * 15


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


def kernel_flops(run: Callable[[], object]) -> int:
    """Of everything that `run` computes in compiled kernels, in this thread."""
    total: Counter[str] = Counter()
    counted = {
        quadratic.linearise: _linearise,
        newton.try_step: _try_step,
        surface.visit: _visit,
        LaneMesher.__call__: _target,
    }
    # The tests' shape checker wraps functions; the frames are those of what is inside.
    watched = {inspect.unwrap(function).__code__: count for function, count in counted.items()}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in watched:
            total["flops"] += LANES * watched[frame.f_code](frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return total["flops"]


def _energy(part: Record) -> int:
    first, second = (part[name][0, : int(part["num_pairs"][0])] for name in ("first", "second"))
    pairs = len(first) + int((first != second).sum())
    return pairs * 12 * 8 + int(part["num_bones"][0]) * 12 * 4 + int(part["num_dofs"][0]) * 7


def _solve(size: int) -> int:
    """Masked matrix, Cholesky, two triangular solves."""
    return size**3 // 3 + 7 * size**2


def _linearise(names: dict) -> int:
    """With the step that always follows: two solves."""
    tree, part = names["tree"][0], names["part"][0]
    size = int(part["num_dofs"])
    joints = tree["joint"][part["dofs"][:size]]
    met = part["slots"][joints[:, None], joints[None, :]] >= 0
    entries = int(np.triu(met).sum())
    blocks = sum(len({j for j, there in zip(joints[i:], met[i, i:], strict=True) if there}) for i in range(size))
    twists = 43 * 9 + 10 * _TURN
    wrenches = int(part["num_bones"]) * (9 * 8 + 12)
    moments = int(part["num_pairs"]) * (12 * 7 + 12 * 7) + int(part["num_sums"]) * 16
    gauss_newton = blocks * 12 * 5 + entries * 14
    curvature = size * 30 + entries * 6
    bend = len(names["problem"].bend) * (size * size * 3 // 2 + 4 * size)
    return (
        _POSE + _energy(names["part"]) + twists + wrenches + size * 17 + moments + gauss_newton + curvature + bend
        + 2 * _solve(size)
    )  # fmt: skip


def _try_step(names: dict) -> int:
    return _POSE + _energy(names["part"])


def _weights(mesh: LaneSurface) -> int:
    return sum(len(block.weights.values) for block in mesh.blocks)


def _visit(names: dict) -> int:
    mesh: LaneSurface = names["surface"]
    return _weights(mesh) * 48 + mesh.count * (44 + 15 * bool(names["correctives"]))


def _target(names: dict) -> int:
    mesher: LaneMesher = names["self"]
    count = -(-len(names["betas"]) // LANES)
    return count * (_weights(mesher.surface) * 24 + mesher.surface.count * 21 + len(mesher.regressor.values) * 6)
