"""Data on a GPU, and kernel launches. The data are torch tensors; kernels see them as stacks of chunks, [C ... L]."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitting.batch import filled
from fitting.lanes.state import LANES
from fitting.lanes.surface import Sparse
from fitting.mesh import mesh_basis
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError

BLOCK = 288  # vertices of one thread: enough threads for every core, and few sums to add up
_PRODUCTS = 16  # chunks whose products are taken at once
_SCRATCH = 64  # chunks whose vertices are in memory at once, 11 MB each; a multiple of `_PRODUCTS`


@dataclass(frozen=True)
class Records:
    """Records [C] of one layout."""

    layout: np.dtype
    memory: Tensor  # [C itemsize] uint8

    @classmethod
    def zeros(cls, layout: np.dtype, count: int, device: torch.device) -> "Records":
        return cls(layout, torch.zeros(count, layout.itemsize, dtype=torch.uint8, device=device))

    @classmethod
    def of(cls, records: np.ndarray, device: torch.device) -> "Records":
        return cls(records.dtype, torch.from_numpy(records.view(np.uint8).reshape(len(records), -1)).to(device))

    def __getitem__(self, chunks: slice) -> "Records":
        return Records(self.layout, self.memory[chunks])

    def field(self, name: str) -> Tensor:
        """A view [C ...]."""
        known: Any = self.layout.fields
        kind, first = known[name][:2]
        item, shape = kind.subdtype or (kind, ())
        dtype = torch.from_numpy(np.empty(0, item)).dtype
        return self.memory[:, first : first + kind.itemsize].view(dtype).unflatten(1, shape)


def launch(function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
    """Run a function of `fitting.gpu.launches` on the device of its arguments, in torch's current stream there.

    Args:
        grid: how many blocks: one for each chunk, or of chunks, and each one's parts.
        arguments: numbers, tensors and `Records`.
    """
    from numba import cuda

    from fitting.gpu.kernels import on_threads

    def seen(argument: Any) -> Any:
        if isinstance(argument, Records):
            return cuda.as_cuda_array(argument.memory.view(-1), sync=False).view(argument.layout)
        return cuda.as_cuda_array(argument, sync=False) if isinstance(argument, Tensor) else argument

    if 0 in np.atleast_1d(grid):
        return
    memory = [getattr(argument, "memory", argument) for argument in arguments]
    device = next(tensor.device for tensor in memory if isinstance(tensor, Tensor))
    with torch.cuda.device(device):  # numba takes the context that is current
        try:
            stream = cuda.external_stream(torch.cuda.current_stream().cuda_stream)
            getattr(on_threads(), function)[grid, LANES, stream](*map(seen, arguments))
        except Exception as error:  # numba-cuda's own, or that of the bindings below it: neither is torch's
            said = f"{type(error).__name__}: {error}"
            if "CUDA" not in said.upper():
                raise
            # As torch says it, and callers know it.
            kind = torch.OutOfMemoryError if "OUT_OF_MEMORY" in said else RuntimeError
            raise kind(f"CUDA error: {said}") from error


def check(device: torch.device) -> None:
    """Run a small kernel on the device. If that fails, raise a `UserError` that says what was found and what to do."""
    advice = "`make setup CUDA=1` installs what the driver needs; --device cpu fits without a GPU"
    if find_spec("numba_cuda") is None:
        raise UserError(f"{device}: fits there need numba-cuda, which is not installed. {advice}.")
    try:
        coarse = torch.get_float32_matmul_precision() != "highest" or torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # torch's older names may not be asked once its newer one was set
        coarse = torch.backends.cuda.matmul.fp32_precision == "tf32"
    if coarse:
        raise UserError(
            f"{device}: matrix products are set to TF32, which is too coarse for the fit. Call "
            "torch.set_float32_matmul_precision('highest')."
        )
    try:
        rows = torch.arange(LANES, device=device).flip(0).unsqueeze(0)
        found = regrouped(torch.arange(2.0 * LANES, device=device).view(1, 2, LANES), rows)
        right = found[0, 0].tolist() == rows[0].tolist()
    except Exception as error:  # of torch, numba-cuda, or the libraries that it looks for
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{device}: no kernel runs there: {said}. {advice}.") from error
    if not right:
        raise UserError(f"{device}: a kernel that was run there to try gave wrong numbers. {advice}.")


def regrouped(stack: Tensor, rows: Tensor) -> Tensor:
    """The rows [C' L], by their numbers in a stack [C ... L], as a stack [C' ... L] of their own."""
    if stack.ndim == 2:
        return stack.flatten()[rows]
    out = stack.new_empty(len(rows), *stack.shape[1:])
    flat = stack.flatten(1, -2)
    parts = -(-flat.shape[1] // 512)
    launch("regroup", (len(rows), parts), flat, rows, parts, out.flatten(1, -2))
    return out


def products(matrix: Tensor, stack: Tensor, out: Tensor | None = None) -> Tensor:
    """matrix [M K] times each of a stack [C K L], [C M L]; into `out`, in which there is room for whole `_PRODUCTS`.

    cuBLAS chooses by the shape in which order it adds up. Always so many at once, a row comes out alike in any batch.
    """
    count = len(stack)
    if out is None:
        out = stack.new_empty(-(-count // _PRODUCTS) * _PRODUCTS, len(matrix), LANES)
    for first in range(0, count, _PRODUCTS):
        part = stack[first : first + _PRODUCTS]
        if len(part) < _PRODUCTS or not part.is_contiguous():
            part = torch.cat((part, part.new_zeros(_PRODUCTS - len(part), *part.shape[1:])))
        torch.bmm(matrix.expand(_PRODUCTS, -1, -1), part, out=out[first : first + _PRODUCTS])
    return out[:count]


class DeviceSurface:
    """Some vertices of a body; by default all."""

    def __init__(self, model: Smpl | Skel, vertices: Tensor | None = None) -> None:
        rows = mesh_basis(model)
        self.numbers = torch.arange(rows.shape[1], device=rows.device) if vertices is None else vertices
        self.count = len(self.numbers)
        self.basis = rows[:, self.numbers].flatten(1).T.contiguous()  # [3V R] template, shape directions, correctives
        self.by_pose = self.basis[:, 11:].T.contiguous()
        self.weights = device_sparse(model.weights[self.numbers])
        self.parts = -(-self.count // BLOCK)

    def in_groups(self, coefficients: Tensor, see: Callable[[slice, Tensor], None]) -> None:
        """Call `see` with some chunks and their rest positions [C' V 3 L], for as many at a time as there is room for.

        `coefficients` [C R L] are those of the basis.
        """
        chunks = min(-(-len(coefficients) // _PRODUCTS) * _PRODUCTS, _SCRATCH)
        room = coefficients.new_empty(chunks, self.count, 3, LANES)
        for first in range(0, len(coefficients), _SCRATCH):
            part = slice(first, min(first + _SCRATCH, len(coefficients)))
            products(self.basis, coefficients[part], room.flatten(1, 2))
            see(part, room[: part.stop - first])

    def posed(self, coefficients: Tensor, transforms: Tensor, shift: Tensor) -> Tensor:
        """See `fitting.mesh.BodySurface`."""
        mesh = coefficients.new_empty(len(coefficients), self.count, 3, LANES)

        def skin(part: slice, rest: Tensor) -> None:
            turn = rest.new_empty(len(rest), self.parts, 3, 4, LANES)
            launch(
                "pose_mesh", (len(rest), self.parts), rest, self.numbers, transforms[part], *self.weights, shift[part],
                BLOCK, turn, mesh[part],
            )  # fmt: skip

        self.in_groups(coefficients, skin)
        return mesh

    def sparse(self, matrix: Tensor) -> tuple[Tensor, ...]:
        """See `fitting.mesh.BodySurface`."""
        return device_sparse(matrix)

    def points(self, matrix: tuple[Tensor, ...], mesh: Tensor) -> Tensor:
        """See `fitting.mesh.BodySurface`."""
        out = mesh.new_empty(len(mesh), len(matrix[0]) - 1, 3, LANES)
        launch("points", (len(out), out.shape[1]), *matrix, mesh, out)
        return out

    def regrouped(self, mesh: Tensor, rows: Tensor) -> Tensor:
        """See `fitting.mesh.BodySurface`."""
        return regrouped(mesh, filled(rows).view(-1, LANES))


def device_sparse(matrix: Tensor) -> tuple[Tensor, ...]:
    """Starts, columns and values of `fitting.lanes.surface.Sparse`, on the device of the matrix."""
    sparse = Sparse.of(matrix)
    return tuple(torch.from_numpy(array).to(matrix.device) for array in (sparse.starts, sparse.columns, sparse.values))
