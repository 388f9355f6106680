"""`python -m bench fit`, which `make bench` calls: `hmr-skel bench fit`, beside the published protocol and the floor.

Everything of one report is measured in one run on one machine, ours and the published protocol by the same judge.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import new_parser
from bench.baseline import published_fit
from bench.floor import floor_fit
from fitting.batch import TILE
from fitting.fit import Status, fit_batch
from fitting.many import fit_many
from fitting.model import FitModel
from hmr_skel.bench.fit import FitInputs, Progress, bench_fit, rows_outside
from hmr_skel.bench.measures import Judge
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.bench import add_fit_arguments, fit_text
from hmr_skel.commands.output import show, table
from hmr_skel.data.meta import statistics
from hmr_skel.errors import UserError
from hmr_skel.progress import measuring
from hmr_skel.rows import SkelParams, SmplParams
from hmr_skel.train.flops import peak_flops_per_s

FIT = """\
Time the fit on --rows rows, and judge it on --compare-rows of them, spread evenly over the file, beside
  the published aligner's protocol (autograd, L-BFGS, four steps; our own implementation), and
  the floor: a long float64 search from many starts for the least of the same objective.
Everything is measured in one run on one machine. Units: rows per second, millimetres of mean vertex distance per row
(v2v), radians. On two CPU cores the whole takes under 12 minutes; --no-baseline and --no-floor are the slow parts.
On a GPU it leaves out both and times 1,024 to 65,536 rows instead, with memory and the share of the device's limits."""

FAR_ABOVE_FLOOR_MM = 1.0
SWEEP_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
SWEEP_ROWS = (32, 128, 512, 2048)
GPU_ROWS = (1024, 4096, 16384, 32768, 65536)
_BYTES_PER_FLOP = 20 / (2 * (182 + 171))
"""Of a visit's products and what reads them: five accesses to a float32 (rest, target, pull) for a column each of the
basis and, but for template and shape, of its transpose. Steps between visits come on top and are left out."""
FLOOR_STEPS = (12, 40)
"""On a twentieth of the vertices, and on all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("fit", FIT, "manifest", "labels", "device", "json", "quiet")
    add_fit_arguments(parser)
    parser.add_argument("--no-baseline", action="store_true", help="without the published protocol")
    add_number(parser, "--baseline-rounds", int, 1, default=10, help="its optimiser's calls a step (published: 10)")
    add_number(parser, "--baseline-iterations", int, 1, default=20, help="iterations a call (published: 20)")
    add_number(parser, "--baseline-batch", int, 1, default=32, help="rows together")
    parser.add_argument("--no-floor", action="store_true", help="without the search for the least objective")
    add_number(parser, "--floor-starts", int, 1, default=4, help="its random starts")
    parser.add_argument("--no-sweep", action="store_true", help="without the rates by batch size and by rows")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw rows/s by batch size and by rows into this PNG")
    parser.set_defaults(run=run_fit)
    return run(parser, argv)


def run_fit(args: argparse.Namespace) -> None:
    """Measure, print, draw."""
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, measuring(args.quiet) as bars:
        inputs = FitInputs.open(args.manifest, args.labels, args.rows, args.device, Path(work), quiet=args.quiet)
        if not args.no_floor and inputs.config.root == "refine":
            raise UserError("the floor is searched with a fixed root, the recipe refines it: measure with --no-floor.")
        report, model = bench_fit(
            inputs, rows=args.rows, compare_rows=args.compare_rows, batch=args.batch, repeats=args.repeats,
            files=None if args.no_files else Path(work) / "out", progress=bars,
        )  # fmt: skip
        compared, _ = inputs.spread(args.compare_rows)
        report |= _arithmetic(inputs, model, report["fits_per_s"])
        if inputs.device.type == "cuda":
            args.no_sweep = args.no_baseline = args.no_floor = True
            report["on_gpu"] = _on_gpu(inputs.params, model, report["mflop_per_row"], bars)
        if not args.no_sweep:
            report["sweep"] = _sweep(inputs.params[torch.arange(args.rows) % len(inputs.params.betas)], model, bars)
        if not args.no_baseline:
            report["baseline"] = _baseline(compared, inputs, args, bars)
            report["speedup"] = round(report["fits_per_s"] / report["baseline"]["fits_per_s"], 1)
        if not args.no_floor:
            report["floor"] = _floor(compared, inputs, model, args.floor_starts, bars)
    shown = table(report["on_gpu"]["by_rows"]) if "on_gpu" in report else ""
    drawn = "" if args.plot is None or args.no_sweep else f"\n{_draw(report, args.plot)}"
    show(args, "\n".join(filter(None, (fit_text(report), shown, drawn.strip()))), report)


def _arithmetic(inputs: FitInputs, model: FitModel, fits_per_s: float) -> dict[str, Any]:
    """The matrix products of a row, two operations a multiply-add, counted by torch on some rows.

    Torch sees its own operations only, not those of the compiled kernels.
    """
    count = len(inputs.params.betas)
    number = TILE if inputs.device.type == "cpu" else 128 * TILE  # a GPU takes the products of many tiles at once
    rows = inputs.params[torch.arange(number) * count // number]
    with FlopCounterMode(display=False) as counter:
        fit_batch(rows, model)
    a_row = counter.get_total_flops() / number
    peak, source = peak_flops_per_s(inputs.device, bf16=False)
    return {
        "mflop_per_row": round(a_row / 1e6, 2),
        "peak_gflop_per_s": round(peak / 1e9, 1),
        "peak_source": source,
        "share_of_peak": round(a_row * fits_per_s / peak, 5),
    }


def _on_gpu(params: SmplParams, model: FitModel, mflop_per_row: float, progress: Progress) -> dict[str, Any]:
    """By number of rows: rows/s of the first and of a second pass, and the memory that they took.

    Kernels are compiled before; a first pass finds no memory that torch kept from an earlier one.
    """
    device, block = model.device, torch.empty(2**28, device=model.device)
    copies = []
    for _ in range(5):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        block.copy_(block.roll(0))
        torch.cuda.synchronize(device)
        copies.append(4 * block.nbytes / (time.perf_counter() - start))
    del block
    found = []
    for index, rows in enumerate(GPU_ROWS):
        progress("rows", index, len(GPU_ROWS))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        timed, rates = params[torch.arange(rows) % len(params.betas)], []
        for _ in range(2):
            start = time.perf_counter()
            used = fit_many(timed, model).batch
            rates.append(rows / (time.perf_counter() - start))
        found.append(
            {
                "rows": rows,
                "batch": used,
                "fits_per_s_first": round(rates[0], 1),
                "fits_per_s": round(rates[1], 1),
                "memory_mb": round(torch.cuda.max_memory_allocated(device) / 1e6),
                "share_of_bandwidth_by_products": round(
                    rates[1] * 1e6 * mflop_per_row * _BYTES_PER_FLOP / max(copies), 4
                ),
            }
        )
    progress("rows", len(GPU_ROWS), len(GPU_ROWS))
    return {"bandwidth_gb_per_s": round(max(copies) / 1e9, 1), "by_rows": found}


def _sweep(params: SmplParams, model: FitModel, progress: Progress) -> dict[str, list]:
    """Rows/s by batch (over a pass of the largest, at most all rows), and by number of rows at the recipe's batch."""
    count = len(params.betas)
    usual = model.config.batch_on(model.device.type)
    runs = [("by_batch", batch, min(count, max(SWEEP_BATCHES))) for batch in SWEEP_BATCHES if batch <= count]
    runs += [("by_rows", usual, rows) for rows in SWEEP_ROWS if rows <= count]
    found: dict[str, list] = {"by_batch": [], "by_rows": []}
    for index, (kind, batch, rows) in enumerate(runs):
        progress("sweep", index, len(runs))
        sized = replace(model, config=replace(model.config, batch=batch, gpu_batch=batch))
        if kind == "by_batch":
            fit_many(params[:batch], sized)  # a new shape: what is compiled for it is not timed
        start = time.perf_counter()
        used = fit_many(params[:rows], sized).batch
        rate = round(rows / (time.perf_counter() - start), 2)
        if kind == "by_rows" or used == batch:  # threads share the rows: a batch may be too large for that
            found[kind].append({"batch": used, "rows": rows, "fits_per_s": rate})
    progress("sweep", len(runs), len(runs))
    return found


def _baseline(compared: SmplParams, inputs: FitInputs, args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    smpl, skel = inputs.copies()
    count, batch = len(compared.betas), args.baseline_batch
    result = published_fit(
        compared, smpl.to(inputs.device), skel.to(inputs.device), rounds=args.baseline_rounds, batch=batch,
        iterations=args.baseline_iterations, progress=partial(progress, "published protocol"),
    )  # fmt: skip
    return {
        "fits_per_s": round(count / result.seconds, 4),
        **Judge(compared, inputs.smpl, inputs.skel).report(result.skel),
        "rows_outside_anatomical_limits": rows_outside(result.skel, "anatomical"),
        "batch": batch,
    }


def _floor(compared: SmplParams, inputs: FitInputs, model: FitModel, starts: int, progress: Progress) -> dict[str, Any]:
    ours = fit_many(compared, model)
    sound = (ours.status != Status.rejected).nonzero().squeeze(1)
    skel = SkelParams(ours.skel.q[sound], ours.skel.betas[sound], ours.skel.transl[sound])
    coarse, steps = FLOOR_STEPS
    floor = floor_fit(
        compared[sound], skel, inputs.smpl, model, random_starts=starts, coarse_iterations=coarse, iterations=steps,
        progress=partial(progress, "floor"),
    )  # fmt: skip
    gap, apart = floor.energy_gap_percent, floor.v2v_gap_mm
    far = (apart > FAR_ABOVE_FLOOR_MM).nonzero().squeeze(1).tolist()
    return {
        "v2v_mm": statistics(floor.v2v_mm.numpy()),
        "energy_gap_percent": round(float(gap.mean()), 4),
        "v2v_gap_mm": round(float(apart.abs().mean()), 4),
        "rows_over_1mm": len(far),
        "rows_over_1mm_status": [Status(int(ours.status[sound][row])).name for row in far],
    }


def _draw(report: dict[str, Any], path: Path) -> str:
    """Draw the sweep into a PNG; returns a line that says so."""
    try:
        import matplotlib
    except ImportError:
        return "no plot: matplotlib is not installed (make setup EXTRAS=train)"
    matplotlib.use("Agg")  # no window, no display
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    labels = {"by_batch": "rows in a batch", "by_rows": f"rows (batches of {report['batch']})"}
    for axes, (kind, label) in zip(panels, labels.items(), strict=True):
        runs = report["sweep"][kind]
        axes.plot([run[kind.removeprefix("by_")] for run in runs], [run["fits_per_s"] for run in runs], "o-")
        axes.set(xscale="log", yscale="log", xlabel=label)
        for formatted in (axes.xaxis.set_major_formatter, axes.yaxis.set_major_formatter):
            formatted("{x:,.0f}")
        axes.grid(alpha=0.3, which="both")
        if report["baseline"] is not None:
            axes.axhline(report["baseline"]["fits_per_s"], color="tab:red", linestyle="--", label="published protocol")
            axes.legend()
    panels[0].set_ylabel("whole fits per second")
    figure.suptitle(f"{report['machine'].get('gpu') or report['machine']['cpu']}, {report['dtype']}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return f"plot: {path}"
