"""Any number of rows through `fit_batch`: in batches that fit the device's memory, by the better gender if asked."""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from torch import Tensor

from fitting.batch import TILE
from fitting.fit import FitResult, fit_batch
from fitting.model import FitModel
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams


def fit_many(
    params: SmplParams,
    model: FitModel,
    points: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> FitResult:
    """Fit [N] rows in batches of the recipe's size, halved for good when the device runs out of memory.

    The result is on the CPU; its `batch` is the size that memory allowed.

    Args:
        params: [N] rows on any device.
        points: [K 6890] as in `fit_batch`.
        progress: called with the number of rows done so far (`fit_best` counts once per model).

    Raises:
        UserError: not even one row fits into the device's memory.
    """
    points = None if points is None else points.to(model.device)
    if model.compiled:
        return _side_by_side(params, model, points, progress)
    count, size = len(params.betas), model.config.batch_on(model.device.type)
    results, first = [], 0
    while first < count or not results:
        last = min(first + size, count)
        try:
            results.append(_to_cpu(fit_batch(params[first:last], model, points)))
        except torch.OutOfMemoryError:
            if size == 1:
                raise UserError(
                    f"{model.device}: out of memory at a batch of one row. Free the device, or fit with --device cpu."
                ) from None
            size = max(size // 2, 1)
            torch.cuda.empty_cache()
            continue
        if progress is not None:
            progress(last)
        first = last
        if count == 0:
            break
    return replace(_concatenate(results), batch=size)


def _side_by_side(
    params: SmplParams, model: FitModel, points: Tensor | None, progress: Callable[[int], object] | None
) -> FitResult:
    """Batches on as many threads as torch may use, each on one core: nothing is shared, so nothing is waited for."""
    count = len(params.betas)
    with _one_thread_each() as (pool, threads):
        # A last round in which a core is idle is shared out, in whole chunks of rows.
        size = max(min(model.config.batch, -(-count // (threads * TILE)) * TILE), TILE)
        starts = range(0, max(count, 1), size)
        results, done = [], 0
        try:
            for result in pool.map(lambda first: fit_batch(params[first : first + size], model, points), starts):
                results.append(result)
                done += len(result.v2v_mm)
                if progress is not None:
                    progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return replace(_concatenate(results), batch=size)


_STARTING = threading.Lock()


@contextmanager
def _one_thread_each() -> Generator[tuple[ThreadPoolExecutor, int]]:
    """As many threads as torch may use, and how many that are. In each torch keeps to it: the others have the cores.

    torch has a number for each thread and one for threads to come, and a thread that sets its own sets both. So all set
    theirs at the start, and the caller, whose own stays as it is, then sets that of threads to come back.
    """
    with _STARTING:
        threads = torch.get_num_threads()
        pool, all_have = ThreadPoolExecutor(threads), threading.Barrier(threads)

        def set_own(_: int) -> None:
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
    """Fit with every model (male and female) and keep, row by row, the one with the smaller mean distance."""
    return best_of([fit_many(params, model, points, progress) for model in models])


def best_of(runs: Sequence[FitResult]) -> FitResult:
    """Row by row, the fit with the smaller mean distance."""
    best = runs[0]
    for other in runs[1:]:
        better = (other.v2v_mm < best.v2v_mm) | (best.v2v_mm.isnan() & ~other.v2v_mm.isnan())
        gender = [b if flag else a for a, b, flag in zip(best.skel_gender, other.skel_gender, better, strict=True)]
        best = _merge(lambda a, b, better=better: torch.where(_column(better, a), b, a), [best, other], gender)
    return replace(best, batch=min(run.batch for run in runs))


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (like.ndim - 1))


def _to_cpu(result: FitResult) -> FitResult:
    return _merge(lambda value: value.cpu(), [result], result.skel_gender)


def _concatenate(results: list[FitResult]) -> FitResult:
    if len(results) == 1:
        return results[0]
    return _merge(lambda *values: torch.cat(values), results, [g for r in results for g in r.skel_gender])


def _merge(combine: Callable[..., Tensor], results: list[FitResult], gender: list[str]) -> FitResult:
    """Combine results column by column."""

    def column(name: str) -> Tensor:
        return combine(*(getattr(result, name) for result in results))

    names = [f.name for f in fields(FitResult) if f.name not in ("skel", "skel_gender", "target_points", "batch")]
    return FitResult(
        skel=SkelParams(*(combine(*(getattr(r.skel, f.name) for r in results)) for f in fields(SkelParams))),
        skel_gender=gender,
        target_points=None if results[0].target_points is None else column("target_points"),
        batch=results[0].batch,
        **{name: column(name) for name in names},
    )
