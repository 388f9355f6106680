"""Fit any number of rows by `fit_batch`, in batches that fit into memory, and with the better gender if asked."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fitting.batch import TILE, where
from fitting.config import recipe
from fitting.fit import Begun, FitResult, begin, finish, fit_batch
from fitting.mesh import Placed
from fitting.model import FitModel, prepare
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams

_ENOUGH = 128  # rows that need more than others, and so their meshes, wait for each other on a CPU
_LONG_ENOUGH = 8  # batches that wait for such rows: where all are easy, none may come
_ROW_BYTES, _SCRATCH_BYTES = 280_000, 1_200_000_000  # what a batch takes on a GPU


@runtime_checkable
class Meshes(Protocol):
    """Meshes [N 6890 3] that are read in parts."""

    def __getitem__(self, rows: slice, /) -> Placed: ...


def fit(
    params: SmplParams, smpl: Smpl, skel: Skel, *, recipe_name: str = "default", device: str | torch.device = "cpu"
) -> FitResult:
    """Fit SKEL to [N] rows of SMPL parameters, each row independently.

    Args:
        params: `hmr_skel.rows.SmplParams`: `global_orient` [N 3] and `body_pose` [N 23 3] axis-angles in rad, `betas`
            [N 10], `transl` [N 3] m.
        smpl: the SMPL model of the parameters, from `Smpl.load`.
        skel: the male or female SKEL, from `Skel.load`.
        recipe_name: a name that `fitting.recipe` knows.
        device: the device of the fit; both bodies are moved there and stay there.

    Returns:
        A `FitResult` on the CPU: `skel.q` [N 46] rad, `skel.betas` [N 10], `skel.transl` [N 3] m, `v2v_mm` [N] (mean
        distance of the meshes), `status` [N] and more.

    Raises:
        UserError: no recipe has that name, or the device's memory is too small for 64 rows.
        ValueError: the gender of the SKEL model is not known.
    """
    return fit_many(params, prepare(smpl, skel, recipe(recipe_name), device=device))


def fit_many(
    params: SmplParams,
    model: FitModel,
    points: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
    mesh: Meshes | None = None,
) -> FitResult:
    """Fit [N] rows in batches of the recipe's size, which is halved each time the device runs out of memory.

    The result is on the CPU; its `batch` is the last size.

    Args:
        params: [N] rows on any device.
        points: [K 6890] as in `fit_batch`.
        progress: called with the number of rows done (`fit_best` counts each model).
        mesh: [N] as in `fit_batch`, read batch by batch.

    Raises:
        UserError: the device's memory is too small for 64 rows.
    """
    points = None if points is None else points.to(model.device)

    def part(rows: slice) -> tuple[SmplParams, FitModel, Tensor | None, Placed | None]:
        return params[rows], model, points, None if mesh is None else mesh[rows]

    return fit_parts(len(params.betas), model, part, progress)


Part = Callable[[slice], tuple[SmplParams, FitModel, Tensor | None, Placed | None]]
"""Some of the rows, as `fit_batch` and `begin` take them."""


def fit_parts(count: int, model: FitModel, part: Part, progress: Callable[[int], object] | None = None) -> FitResult:
    """`fit_many` of `count` rows that `part` makes when their batch begins, on the thread that fits it."""
    way = _side_by_side if model.device.type == "cpu" else _in_turn
    return way(count, model, part, progress)


def _in_turn(count: int, model: FitModel, part: Part, progress: Callable[[int], object] | None) -> FitResult:
    """Fit batches one after another, and halve them when the device runs out of memory."""
    size = min(model.config.batch_on(model.device.type), _room_on(model.device))

    def fitted(rows: slice) -> FitResult | None:
        try:
            result = fit_batch(*part(rows))
            return _merge(lambda column: column.cpu(), [result], result.skel_gender)
        except torch.OutOfMemoryError:
            return None  # only then nothing holds the batch: within this clause the traceback does

    results, first = [], 0
    while first < count or not results:
        last = min(first + size, count)
        result = fitted(slice(first, last))
        if result is None:
            if size <= TILE:
                raise UserError(
                    f"{model.device}: out of memory at {TILE} rows, the least. Free the device, or fit "
                    "with --device cpu."
                )
            size = max(size // 2 // TILE, 1) * TILE
            torch.cuda.empty_cache()
            continue
        results.append(result)
        if progress is not None:
            progress(last)
        first = last
        if count == 0:
            break
    return _joined(results, size)


def _room_on(device: torch.device) -> int:
    """How many rows the device has memory for, in whole tiles: what is free there, or kept by torch for later use."""
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max((free - _SCRATCH_BYTES) // _ROW_BYTES // TILE, 1) * TILE


def _side_by_side(count: int, model: FitModel, part: Part, progress: Callable[[int], object] | None) -> FitResult:
    """Fit batches on as many threads as torch may use, with one core each; they share nothing."""
    with one_thread_each() as (pool, threads):
        # Use smaller batches, in whole chunks of rows, if a core would otherwise be idle in the last round.
        size = max(min(model.config.batch, -(-count // (threads * TILE)) * TILE), TILE)
        starts = deque(range(0, max(count, 1), size))
        begun: deque[tuple[int, Future[Begun | FitResult]]] = deque()
        results: list[Future[list[FitResult]]] = []
        waiting: list[Begun] = []

        def fit_part(first: int) -> Begun | FitResult:
            rows = part(slice(first, min(first + size, count)))
            return fit_batch(*rows) if model.config.refines else begin(*rows)

        try:
            while starts or begun:
                while starts and len(begun) < 2 * threads:  # not all at once: what is begun takes memory until it ends
                    begun.append((starts[0], pool.submit(fit_part, starts.popleft())))
                first, found = begun[0][0], begun.popleft()[1].result()
                if isinstance(found, FitResult):
                    results.append(pool.submit(lambda found=found: [found]))
                else:
                    waiting.append(found)
                enough = sum(len(batch.few) for batch in waiting) >= _ENOUGH or len(waiting) == _LONG_ENOUGH
                if enough or (waiting and not begun):
                    results.append(pool.submit(finish, model, waiting))
                    waiting = []
                if progress is not None:
                    progress(min(first + size, count))
            finished = [result for batches in results for result in batches.result()]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return _joined(finished, size)


_STARTING = threading.Lock()


@contextmanager
def one_thread_each() -> Generator[tuple[ThreadPoolExecutor, int]]:
    """A pool of as many threads as torch may use, and their number. In each of them torch uses one core.

    torch has a number for each thread and one for new threads, and a thread that sets its own sets both. So all threads
    set theirs at the start, and then the caller sets the number for new threads back.
    """
    with _STARTING:
        threads = torch.get_num_threads()
        pool, all_have = ThreadPoolExecutor(threads), threading.Barrier(threads)

        def set_own(_: int) -> None:
            torch.get_num_threads()  # the first time a thread asks, torch gives it the number of threads to come
            torch.set_num_threads(1)
            all_have.wait()

        list(pool.map(set_own, range(threads)))
        torch.set_num_threads(threads)
    with pool:
        yield pool, threads


def fit_best(
    params: SmplParams,
    models: Sequence[FitModel],
    points: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> FitResult:
    """Fit with each model (male and female), and keep for each row the one with the smaller mean distance."""
    return best_of([fit_many(params, model, points, progress) for model in models])


def best_of(runs: Sequence[FitResult]) -> FitResult:
    """For each row, the fit with the smaller mean distance."""
    best = runs[0]
    for other in runs[1:]:
        better = (other.v2v_mm < best.v2v_mm) | (best.v2v_mm.isnan() & ~other.v2v_mm.isnan())
        gender = [b if flag else a for a, b, flag in zip(best.skel_gender, other.skel_gender, better, strict=True)]
        best = _merge(lambda a, b, better=better: where(better, b, a), [best, other], gender)
    return replace(best, batch=min(run.batch for run in runs))


def _joined(results: Sequence[FitResult], batch: int) -> FitResult:
    """Concatenate the results of batches."""
    gender = [name for result in results for name in result.skel_gender]
    return replace(_merge(lambda *parts: torch.cat(parts), results, gender), batch=batch)


def _merge(combine: Callable[..., Tensor], results: Sequence[FitResult], gender: list[str]) -> FitResult:
    """Combine results column by column."""

    def columns(parts: Sequence[Any], names: Iterable[str]) -> dict[str, Tensor]:
        return {name: combine(*(getattr(part, name) for part in parts)) for name in names}

    first = results[0]
    names = [f.name for f in fields(first) if isinstance(getattr(first, f.name), Tensor)]
    skel = SkelParams(**columns([result.skel for result in results], [f.name for f in fields(SkelParams)]))
    return replace(first, skel=skel, skel_gender=gender, **columns(results, names))
