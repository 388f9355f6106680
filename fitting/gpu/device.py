"""Data on a GPU, and kernel launches. The data are torch tensors; kernels see them as stacks of chunks, [C ... L]."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitting.fit import Status, fit_batch
from fitting.lanes.state import LANES, SEEN
from fitting.mesh import mesh_basis, sparse
from fitting.model import FitModel
from fitting.stack import Records
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from hmr_skel.rows import SmplParams

BLOCK = 288  # vertices of one thread: enough threads for every core, and few sums to add up
_PRODUCTS = 16  # chunks whose products are taken at once
_WORTH = 0.6  # of the chunks
_APART_MM = 0.05  # between mean distances by float32 and by float32 in another order; 0.0002 on the open body
_SCRATCH = 64  # chunks whose vertices are in memory at once, 11 MB each; a multiple of `_PRODUCTS`


def launch(function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
    """Run a function of `fitting.lanes.launches` on the device of its arguments, in torch's current stream there.

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


_ADVICE = "`make setup CUDA=1` installs what the driver needs; --device cpu fits without a GPU"


def check(device: torch.device) -> None:
    """Raise a `UserError` if numba-cuda is missing, or matrix products are not exact to float32."""
    if find_spec("numba_cuda") is None:
        raise UserError(f"{device}: fits there need numba-cuda, which is not installed. {_ADVICE}.")
    try:
        coarse = torch.get_float32_matmul_precision() != "highest" or torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # torch's older names may not be asked once its newer one was set
        coarse = torch.backends.cuda.matmul.fp32_precision == "tf32"
    if coarse:
        raise UserError(
            f"{device}: matrix products are set to TF32, which is too coarse for the fit. Call "
            "torch.set_float32_matmul_precision('highest')."
        )


def try_out(model: FitModel) -> None:
    """Launch every kernel, in the fit of one row. A `UserError` says if one fails, or if they find another distance of
    the fitted skin from the annotated mesh than torch does."""
    device, smpl = model.device, model.targets.smpl
    pose = torch.linspace(-0.3, 0.3, 69, device=device).view(1, 23, 3)
    row = SmplParams(pose[:, 0], pose, pose.new_zeros(1, 10), pose.new_zeros(1, 3))
    try:
        rows = torch.arange(LANES, device=device).flip(0).unsqueeze(0)
        moved = Gpu().regrouped(torch.arange(2.0 * LANES, device=device).view(1, 2, LANES), rows)[0, 0]
        found = fit_batch(row, model)
        target = smpl(row.global_orient, row.body_pose, row.betas, row.transl).vertices
        skin = model.skel(found.skel.q, found.skel.betas, found.skel.transl).vertices
        apart = float((skin - target).norm(dim=-1).mean() * 1000 - found.v2v_mm)
        right = moved.tolist() == rows[0].tolist() and int(found.status) != Status.max_iterations
    except Exception as error:  # of torch, numba-cuda, or the libraries that it looks for
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{device}: no kernel runs there: {said}. {_ADVICE}.") from error
    if not right or not abs(apart) < _APART_MM:
        raise UserError(f"{device}: kernels that were run there to try gave wrong numbers. {_ADVICE}.")


class Gpu:
    """See `fitting.mesh.Engine`."""

    together = desks = 2**20  # all
    shares = 64
    steps = 4

    def is_worth(self, rows: int, chunks: int) -> bool:
        """Regrouping into more chunks takes memory, and more time than it saves."""
        return -(-rows // LANES) <= _WORTH * chunks

    def surface(
        self, body: Smpl | Skel, vertices: Tensor | None = None, importance: Tensor | None = None,
        by_betas: bool = False,
    ) -> "DeviceSurface":  # fmt: skip
        return DeviceSurface(self, body, vertices, importance, by_betas)

    def launch(self, function: str, grid: int | tuple[int, int], *arguments: Any) -> None:
        launch(function, grid, *arguments)

    def products(self, matrix: Tensor, stack: Tensor, out: Tensor | None = None) -> Tensor:
        """Into `out`, if given, in which there is room for whole `_PRODUCTS`.

        cuBLAS chooses by the shape in which order it adds up. Always so many at once, a row comes out alike in any
        batch.
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

    def regrouped(self, stack: Tensor, rows: Tensor) -> Tensor:
        if stack.ndim == 2:
            return stack.flatten()[rows]
        out = stack.new_empty(len(rows), *stack.shape[1:])
        flat = stack.flatten(1, -2)
        parts = -(-flat.shape[1] // 512)
        self.launch("regroup", (len(rows), parts), flat, rows, parts, out.flatten(1, -2))
        return out


class DeviceSurface:
    """See `fitting.mesh.BodySurface`."""

    def __init__(
        self, gpu: Gpu, body: Smpl | Skel, vertices: Tensor | None, importance: Tensor | None, by_betas: bool
    ) -> None:
        rows = mesh_basis(body)
        self.gpu, self.importance = gpu, importance
        self.numbers = torch.arange(rows.shape[1], device=rows.device) if vertices is None else vertices
        self.count = len(self.numbers)
        self.basis = rows[:, self.numbers].flatten(1).T.contiguous()  # [3V R] template, shape directions, correctives
        self.by_basis = self.basis[:, 1 if by_betas else 11 :].T.contiguous()
        self.weights = sparse(body.weights[self.numbers])
        self.parts = -(-self.count // BLOCK)

    def _rests(self, coefficients: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Some chunks and their rest positions [C' V 3 L], as many at a time as there is room for.

        `coefficients` [C R L] are those of the basis.
        """
        chunks = min(-(-len(coefficients) // _PRODUCTS) * _PRODUCTS, _SCRATCH)
        room = coefficients.new_empty(chunks, self.count, 3, LANES)
        for first in range(0, len(coefficients), _SCRATCH):
            part = slice(first, min(first + _SCRATCH, len(coefficients)))
            self.gpu.products(self.basis, coefficients[part], room.flatten(1, 2))
            yield part, room[: part.stop - first]

    def posed(self, coefficients: Tensor, transforms: Tensor, shift: Tensor) -> Tensor:
        """See `fitting.mesh.BodySurface`."""
        mesh = coefficients.new_empty(len(coefficients), self.count, 3, LANES)
        for part, rest in self._rests(coefficients):
            turn = rest.new_empty(len(rest), self.parts, 3, 4, LANES)
            self.gpu.launch(
                "pose_mesh", (len(rest), self.parts), rest, self.numbers, transforms[part], *self.weights, shift[part],
                BLOCK, turn, mesh[part],
            )  # fmt: skip
        return mesh

    def visit(
        self, targets: Tensor, posed: Records, correctives: bool, by_basis: Tensor
    ) -> Iterator[tuple[slice, int, Records]]:
        """See `fitting.mesh.BodySurface`."""
        for part, rest in self._rests(posed.field("coefficients")):
            pull, seen = torch.empty_like(rest), Records.zeros(SEEN, len(rest) * self.parts, rest.device)
            self.gpu.launch(
                "look", (len(rest), self.parts), rest, targets[part], self.numbers, self.importance, *self.weights,
                correctives, self.parts, BLOCK, pull, posed[part], seen,
            )  # fmt: skip
            by_basis[part] = 0.0
            if correctives:
                by_basis[part, -len(self.by_basis) :] = -self.gpu.products(self.by_basis, pull.flatten(1, 2))
            yield part, self.parts, seen
