"""The benchmark of the fit, arrays in, numbers out: speed, accuracy beside the published protocol, gap to the floor.

Everything of one report is measured in one run on one machine, ours and the published protocol by the same judge.
"""

import copy
import gc
import statistics as stats
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from fitting.config import FitConfig
from fitting.fit import FitResult, Status, fit_batch
from fitting.many import fit_many
from fitting.model import FitModel, prepare
from hmr_skel.bench import baseline
from hmr_skel.bench.floor import floor_fit
from hmr_skel.bench.flops import FlopCounter, gemm_flops_per_s
from hmr_skel.bench.judge import Judge, summary
from hmr_skel.bench.machine import machine, peak_memory_mb
from hmr_skel.body.dofs import limits
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams

Progress = Callable[[str, int, int], object]
"""Called with what is being measured, how much of it is done, and out of how much."""

FAR_ABOVE_FLOOR_MM = 1.0
LIMIT_TOLERANCE_RAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How much is measured. The defaults end within 12 minutes on two cores."""

    repeats: int = 3
    """Warm passes over the rows; the median counts."""
    sweep: bool = True
    sweep_batches: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    sweep_rows: tuple[int, ...] = (32, 128, 512, 2048)
    baseline: bool = True
    baseline_rounds: int = 10
    baseline_iterations: int = 20
    baseline_batch: int = 32
    floor: bool = True
    floor_random_starts: int = 4
    floor_coarse_iterations: int = 12
    floor_iterations: int = 40


def subset(num_rows: int, count: int) -> np.ndarray:
    """`count` row numbers spread evenly over a file: row i * num_rows // count for i = 0, 1, ..."""
    count = min(count, num_rows)
    return np.arange(count) * num_rows // count


def bench_fit(
    params: SmplParams,
    compare: SmplParams,
    smpl: Smpl,
    skel: Skel,
    config: FitConfig,
    device: torch.device,
    options: BenchOptions,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """The whole report as JSON values.

    Args:
        params: [N] rows that are timed.
        compare: the rows that all contestants are judged on.
        smpl, skel: the bodies, on the CPU; the annotations are of `smpl`.

    Raises:
        UserError: the floor is asked for beside a recipe that refines the root.
    """
    if options.floor and config.root == "refine":
        raise UserError("the floor is searched with a frozen root, the recipe refines it: measure with --no-floor.")
    report, model = _speed(params, smpl, skel, config, device, options, progress)
    ours = fit_many(compare, model)
    judge = Judge(compare, smpl, skel)
    report |= {"compare_rows": len(compare.betas)} | judge.report(ours.skel)
    report |= {
        "betas_rms": round(float(ours.skel.betas.square().mean().sqrt()), 4),
        "status": _statuses(ours),
        "mflop_per_row": None,
        "share_of_peak": None,
    }
    report |= _arithmetic(compare, smpl, skel, config, device, report["fits_per_s"])
    report["sweep"] = _sweep(params, model, options, progress) if options.sweep else {"by_batch": [], "by_rows": []}
    report["baseline"], report["speedup"] = None, None
    if options.baseline:
        report["baseline"] = _baseline(compare, smpl, skel, device, options, judge, progress)
        report["speedup"] = round(report["fits_per_s"] / report["baseline"]["fits_per_s"], 1)
    report["floor"] = _floor(compare, ours, smpl, model, options, progress) if options.floor else None
    return report | {"config": asdict(config), "machine": machine(device)}


def _speed(
    params: SmplParams, smpl: Smpl, skel: Skel, config: FitConfig, device: torch.device, options: BenchOptions,
    progress: Progress,
) -> tuple[dict[str, Any], FitModel]:  # fmt: skip
    count = len(params.betas)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    model = prepare(*copies(smpl, skel), config, device=device)
    prepare_s = time.perf_counter() - start
    seconds = []
    for index in range(1 + options.repeats):
        gc.collect()
        start = time.perf_counter()
        result = fit_many(
            params,
            model,
            progress=lambda done, i=index: progress("fit", i * count + done, (1 + options.repeats) * count),
        )
        seconds.append(time.perf_counter() - start)
    warm = stats.median(seconds[1:] or seconds)
    low, high = (torch.from_numpy(bound) for bound in limits(config.limits).T)
    q = result.skel.q.double()
    outside = torch.maximum(low - q, q - high)[:, 3:] > LIMIT_TOLERANCE_RAD
    bounded = (low.isfinite() | high.isfinite())[3:]
    return {
        "rows": count,
        "device": str(device),
        "dtype": "float32",  # per vertex; the reduced system is float64
        "solver": "compiled" if model.compiled else "plain",
        "batch": result.batch,
        "fits_per_s": round(count / warm, 2),
        "end_to_end_rows_per_s": None,
        "fits_per_s_cold": round(count / (prepare_s + seconds[0]), 2),
        "seconds": {
            "prepare": round(prepare_s, 3),
            "first_pass": round(seconds[0], 3),
            "warm_passes": [round(s, 3) for s in seconds[1:]],
        },
        "v2v_mm_all_rows": summary(result.v2v_mm[result.v2v_mm.isfinite()]),
        "limit_violations": int(outside.any(1).sum()),
        "limit_violation_shares": {
            "rows": float(outside.any(1).double().mean()),
            "dofs": float(outside[:, bounded].double().mean()),
            "bounded_dofs": int(bounded.sum()),
        },
        "peak_memory_mb": round(peak_memory_mb(device), 1),
    }, model  # fmt: skip


def _arithmetic(
    compare: SmplParams, smpl: Smpl, skel: Skel, config: FitConfig, device: torch.device, fits_per_s: float
) -> dict[str, Any]:
    """Counted on the CPU, by the compiled solver for CPUs and by the plain one for what runs on other devices."""
    compiled = None if device.type == "cpu" else False
    model = prepare(*copies(smpl, skel), replace(config, batch=len(compare.betas)), device="cpu", compiled=compiled)
    with FlopCounter() as counter:
        fit_batch(compare, model)
    kernels = _kernel_flops(model, compare)
    per_row, products = (counter.flops + kernels) / len(compare.betas), counter.matrix / len(compare.betas)
    peak = gemm_flops_per_s(device)
    return {
        "mflop_per_row": round(per_row / 1e6, 2),
        "mflop_per_row_in_matrix_products": round(products / 1e6, 2),
        "peak_gflop_per_s": round(peak / 1e9, 1),
        "share_of_peak": round(per_row * fits_per_s / peak, 5),
    }


def _kernel_flops(model: FitModel, rows: SmplParams) -> int:
    """What torch's dispatcher does not see of a fit."""
    if not model.compiled:
        return 0
    from fitting.lanes.work import kernel_flops  # needs numba

    return kernel_flops(lambda: fit_batch(rows, model))


def _sweep(params: SmplParams, model: FitModel, options: BenchOptions, progress: Progress) -> dict[str, list]:
    """Rows/s by batch (over a pass of the largest, at most all rows), and by number of rows at the recipe's batch."""
    count = len(params.betas)
    runs = [
        ("by_batch", batch, min(count, max(options.sweep_batches))) for batch in options.sweep_batches if batch <= count
    ]
    runs += [
        ("by_rows", model.config.batch_on(model.device.type), rows) for rows in options.sweep_rows if rows <= count
    ]
    found: dict[str, list] = {"by_batch": [], "by_rows": []}
    for index, (kind, batch, rows) in enumerate(runs):
        progress("sweep", index, len(runs))
        sized = replace(model, config=replace(model.config, batch=batch, gpu_batch=batch))
        chosen = params[:rows]
        if kind == "by_batch":
            fit_many(params[:batch], sized)  # a new shape: what is compiled for it is not timed
        start = time.perf_counter()
        used = fit_many(chosen, sized).batch
        rate = round(rows / (time.perf_counter() - start), 2)
        if kind == "by_rows" or used == batch:  # threads share the rows: a batch may be too large for that
            found[kind].append({"batch": used, "rows": rows, "fits_per_s": rate})
    progress("sweep", len(runs), len(runs))
    return found


def _baseline(
    compare: SmplParams, smpl: Smpl, skel: Skel, device: torch.device, options: BenchOptions, judge: Judge,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    smpl, skel = copies(smpl, skel)
    count = len(compare.betas)
    calls = baseline.num_calls(count, options.baseline_rounds, options.baseline_batch)
    result = baseline.published_fit(
        compare, smpl.to(device), skel.to(device), rounds=options.baseline_rounds,
        iterations=options.baseline_iterations, batch=options.baseline_batch,
        progress=lambda done: progress("published protocol", done, calls),
    )  # fmt: skip
    q = result.skel.q.double()
    low, high = (torch.from_numpy(bound) for bound in limits("anatomical").T)
    outside = torch.maximum(low - q, q - high)[:, 3:] > LIMIT_TOLERANCE_RAD
    return {
        "fits_per_s": round(count / result.seconds, 4),
        "seconds_per_row": round(result.seconds / count, 4),
        **judge.report(result.skel),
        "betas_rms": round(float(result.skel.betas.square().mean().sqrt()), 4),
        "rows_outside_anatomical_limits": int(outside.any(1).sum()),
        "batch": options.baseline_batch,
        "rounds": options.baseline_rounds,
        "iterations": options.baseline_iterations,
        "evaluations": result.evaluations,
    }


def _floor(
    compare: SmplParams, ours: FitResult, smpl: Smpl, model: FitModel, options: BenchOptions, progress: Progress
) -> dict[str, Any]:
    sound = (ours.status != Status.rejected).nonzero().squeeze(1)
    skel = SkelParams(ours.skel.q[sound], ours.skel.betas[sound], ours.skel.transl[sound])
    floor = floor_fit(
        compare[sound], skel, smpl, model, random_starts=options.floor_random_starts,
        coarse_iterations=options.floor_coarse_iterations, iterations=options.floor_iterations,
        progress=lambda done, total: progress("floor", done, total),
    )  # fmt: skip
    gap, apart = floor.energy_gap_percent, floor.v2v_gap_mm
    far = (apart > FAR_ABOVE_FLOOR_MM).nonzero().squeeze(1)
    worst = gap.argsort(descending=True)[:5].tolist()
    return {
        "v2v_mm": summary(floor.v2v_mm),
        "energy_gap_percent": round(float(gap.mean()), 4),
        "energy_gap_percent_by_row": summary(gap),
        "v2v_gap_mm": round(float(apart.abs().mean()), 4),
        "v2v_gap_mm_max": round(float(apart.max()), 4),
        "rows_over_1mm": len(far),
        "rows_over_1mm_status": [Status(int(ours.status[sound][row])).name for row in far.tolist()],
        "at_the_floor": int((gap < 0.01).sum()),
        "unfinished_percent": round(100 * float(floor.decrement.max()), 6),
        "found_from": {name: floor.start.count(name) for name in sorted(set(floor.start))},
        "worst": [
            {"row": row, "energy_gap_percent": round(float(gap[row]), 3), "v2v_gap_mm": round(float(apart[row]), 3),
             "found_from": floor.start[row], "ends": int(floor.ends[row])}
            for row in worst
        ],
        "seconds": round(floor.seconds, 1),
    }  # fmt: skip


def copies(smpl: Smpl, skel: Skel) -> tuple[Smpl, Skel]:
    """Modules move in place: without copies, a model on a device would follow the next one to another."""
    return copy.deepcopy(smpl), copy.deepcopy(skel)


def _statuses(result: FitResult) -> dict[str, int]:
    return {status.name: int((result.status == status).sum()) for status in Status}
