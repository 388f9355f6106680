"""What a GPU holds: torch's tensors, which kernels see as stacks of chunks, [C ... L], and launches on them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitting.lanes.state import LANES
from fitting.lanes.surface import Sparse
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
    """Runs a function of `fitting.gpu.launches` on the device of its arguments, in torch's current stream there.

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
        except cuda.cudadrv.driver.CudaAPIError as error:
            raise RuntimeError(f"CUDA error: {error}") from error  # as torch says it, and callers know it


def check(device: torch.device) -> None:
    """Run a small kernel there. Raises `UserError` where that fails, with what was found and what to do."""
    advice = "`make setup CUDA=1` installs what the driver needs; --device cpu fits without a GPU"
    if find_spec("numba_cuda") is None:
        raise UserError(f"{device}: fits there need numba-cuda, which is not installed. {advice}.")
    if torch.get_float32_matmul_precision() != "highest" or torch.backends.cuda.matmul.allow_tf32:
        raise UserError(
            f"{device}: matrix products are set to TF32, which is too coarse for the fit. Call "
            "torch.set_float32_matmul_precision('highest')."
        )
    try:
        rows = torch.arange(LANES, device=device).flip(0).unsqueeze(0)
        found = regrouped(torch.arange(2.0 * LANES, device=device).view(1, 2, LANES), rows)
        right = found[0, 0].tolist() == rows[0].tolist()
    except Exception as error:  # of torch, numba-cuda, or the libraries that it looks for
        raise UserError(f"{device}: no kernel runs there: {str(error).splitlines()[0]}. {advice}.") from error
    if not right:
        raise UserError(f"{device}: a kernel that was run there to try gave wrong numbers. {advice}.")


def filled_up(count: int, device: torch.device) -> Tensor:
    """Row numbers in whole chunks [C L]; the first row fills up the last one."""
    numbers = torch.arange(-(-count // LANES) * LANES, device=device)
    return numbers.where(numbers < count, 0).view(-1, LANES)


def stacked(values: Tensor) -> Tensor:
    """[B ...] to [C ... L]."""
    return values[filled_up(len(values), values.device)].movedim(1, -1).contiguous()


def unstacked(stack: Tensor, count: int) -> Tensor:
    """[C ... L] back to [B ...]."""
    return stack.movedim(-1, 1).flatten(0, 1)[:count].contiguous()


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
    """Some vertices of a body, all if not said."""

    def __init__(self, model: Smpl | Skel, vertices: Tensor | None = None) -> None:
        rows = torch.cat((model.template.flatten()[None], model.shapedirs, model.posedirs)).unflatten(-1, (-1, 3))
        self.numbers = torch.arange(rows.shape[1], device=rows.device) if vertices is None else vertices
        self.count = len(self.numbers)
        self.basis = rows[:, self.numbers].flatten(1).T.contiguous()  # [3V R] template, shape directions, correctives
        self.by_pose = self.basis[:, 11:].T.contiguous()
        self.weights = device_sparse(model.weights[self.numbers])
        self.parts = -(-self.count // BLOCK)

    def in_groups(self, coefficients: Tensor, see: Callable[[slice, Tensor], None]) -> None:
        """Calls `see` with some chunks and their rest positions [C' V 3 L], for as many at a time as there is room for.

        `coefficients` [C R L] are those of the basis.
        """
        chunks = min(-(-len(coefficients) // _PRODUCTS) * _PRODUCTS, _SCRATCH)
        room = coefficients.new_empty(chunks, self.count, 3, LANES)
        for first in range(0, len(coefficients), _SCRATCH):
            part = slice(first, min(first + _SCRATCH, len(coefficients)))
            products(self.basis, coefficients[part], room.flatten(1, 2))
            see(part, room[: part.stop - first])


def device_sparse(matrix: Tensor) -> tuple[Tensor, ...]:
    """Starts, columns and values of `fitting.lanes.surface.Sparse`, on the device of the matrix."""
    sparse = Sparse.of(matrix)
    return tuple(torch.from_numpy(array).to(matrix.device) for array in (sparse.starts, sparse.columns, sparse.values))


@dataclass(frozen=True)
class DeviceMesh:
    """Vertices of [B] rows."""

    chunks: Tensor  # [C V 3 L] float32
    count: int

    def tensor(self) -> Tensor:
        """As [B 3 V]."""
        return unstacked(self.chunks, self.count).mT

    def distance(self, other: "DeviceMesh") -> Tensor:
        """Between equal vertices, [B V]."""
        return unstacked((self.chunks - other.chunks).norm(dim=2), self.count)

    def moved(self, rotmat: Tensor, shift: Tensor) -> "DeviceMesh":
        """R^T (y - s) of `rotmat` [B 3 3] and `shift` [B 3]."""
        turn, apart = stacked(rotmat.float()).unsqueeze(1), self.chunks - stacked(shift.float()).unsqueeze(1)
        out = torch.zeros_like(apart)
        for i, j in itertools.product(range(3), range(3)):
            out[:, :, i] += turn[:, :, j, i] * apart[:, :, j]
        return DeviceMesh(out, self.count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Tensor | slice) -> "DeviceMesh":
        numbers = torch.arange(self.count, device=self.chunks.device)[rows]
        return DeviceMesh(regrouped(self.chunks, numbers[filled_up(len(numbers), numbers.device)]), len(numbers))


class DeviceMesher:
    """Poses a body's mesh, as `fitting.lanes.mesh.LaneMesher` does on a CPU."""

    def __init__(self, body: Smpl | Skel, regressor: Tensor) -> None:
        """`regressor` [24 V] gives SKEL's anatomical joints."""
        self.surface = DeviceSurface(body)
        self.regressor = (*device_sparse(regressor), regressor.sum(1))

    def __call__(
        self, betas: Tensor, local: Tensor, transforms: Tensor, offset: Tensor, points: Tensor | None
    ) -> tuple[DeviceMesh, Tensor, Tensor | None]:
        """See `LaneMesher.__call__`."""
        eye = torch.eye(3, dtype=local.dtype, device=local.device)
        coefficients = stacked(torch.cat((torch.ones_like(betas[:, :1]), betas, (local - eye).flatten(1)), 1))
        bones, shift, surface = stacked(transforms), stacked(-offset), self.surface
        mesh = coefficients.new_empty(len(coefficients), surface.count, 3, LANES)

        def skin(part: slice, rest: Tensor) -> None:
            turn = rest.new_empty(len(rest), surface.parts, 3, 4, LANES)
            grid = (len(rest), surface.parts)
            launch(
                "pose_mesh", grid, rest, surface.numbers, bones[part], *surface.weights, shift[part], BLOCK, turn,
                mesh[part],
            )  # fmt: skip

        surface.in_groups(coefficients, skin)
        return self._with_points(DeviceMesh(mesh, len(betas)), offset, points)

    def given(
        self, mesh: Tensor, place: Tensor, offset: Tensor, points: Tensor | None
    ) -> tuple[DeviceMesh, Tensor, Tensor | None]:
        """See `LaneMesher.given`."""
        return self._with_points(DeviceMesh(stacked(mesh + (place - offset)[:, None]), len(mesh)), offset, points)

    def _with_points(
        self, mesh: DeviceMesh, offset: Tensor, points: Tensor | None
    ) -> tuple[DeviceMesh, Tensor, Tensor | None]:
        wanted = [self.regressor] if points is None else [self.regressor, (*device_sparse(points), points.sum(1))]
        found = []
        for *sparse, sums in wanted:
            out = mesh.chunks.new_empty(len(mesh.chunks), len(sums), 3, LANES)
            launch("points", (len(out), len(sums)), *sparse, mesh.chunks, out)
            # The mesh was moved before the points were taken: a regressor whose rows do not sum to 1 sees that.
            found.append(unstacked(out, mesh.count) + sums[:, None] * offset[:, None])
        return mesh, found[0] - offset[:, None], found[1] if len(found) > 1 else None
