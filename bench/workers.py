"""`python -m bench workers`: how much faster two processes build a dataset than one, warm and end to end."""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from bench.arguments import new_parser
from flows.cluster import THREADS, environments
from flows.shard import Builder
from flows.sources import make_missing
from hmr_skel.bench.measures import machine
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.output import Bars, show
from hmr_skel.data.manifest import Manifest, load_manifest
from hmr_skel.data.shards import is_complete
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError

WORKERS = """\
Build the same shards with one process and with --workers of them into one folder, warm and end to end, from label rows
to shards on disk: rows/s of each, and how many times one worker's rate all of them reach (ratio). On a CPU the cores
are divided among them, and one worker is timed twice: with as many threads as each of them has, which is what they are
compared with, and with all (ratio_of_threads). On GPUs each has one of its own."""
START_TIMEOUT_S = 300.0
SHARDS_A_WORKER = 8
"""Enough that the end, where one waits for the other's last, weighs little."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("workers", WORKERS, "manifest", "device", "json", "quiet")
    add_number(parser, "--rows", int, 1, default=4096, help="to fit each time")
    add_number(parser, "--workers", int, 1, default=2, help="how many")
    parser.set_defaults(run=run_workers)
    return run(parser, argv)


def run_workers(args: argparse.Namespace) -> None:
    """Measure and print."""
    if args.workers < 2:
        raise UserError("--workers: expected a whole number from 2; one worker is what they are compared with.")
    device = resolve_device(args.device)
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        report = bench_workers(
            load_manifest(args.manifest), args.rows, args.workers, Path(work), str(device.type), bars
        )
    report |= {"device": str(device), "machine": machine(device)}
    show(args, workers_text(report), report)


def bench_workers(
    manifest: Manifest, rows: int, workers: int, out: Path, device: str, progress: Callable[[str, int, int], object]
) -> dict[str, Any]:
    """Rows/s of one worker, of so many, and on a CPU of one that has all their threads; JSON values.

    Each process has its models loaded and has fitted a shard before the clock starts; it stops when every shard is
    complete on disk.

    Args:
        manifest: whose rows are fitted, in shards of a size of this benchmark's choosing.
        rows: of labels to fit, or all there are.
        workers: at most one a GPU, or one a core, to be worth the while.
        out: a folder for the datasets.

    Raises `UserError` where the device, a label file or a body model cannot be used, or a worker fails.
    """
    make_missing(manifest)
    found = resolve_device(device)
    places = environments(workers, found.type)
    size = max(rows // (workers * SHARDS_A_WORKER), 1)
    manifest = replace(manifest, rows_per_shard=size, held_out_shards=0)
    runs = [("one", [places[-1]]), ("all", places)]
    if found.type == "cpu":
        threads = sum(int(place["OMP_NUM_THREADS"]) for place in places)
        runs.append(("one_with_all_threads", [{"OMP_NUM_THREADS": str(threads)}]))
    report: dict[str, Any] = {}
    for number, (name, own) in enumerate(runs):
        progress("workers", number, len(runs))
        done, seconds = _timed(manifest, rows, own, out / name, found.type)
        report[name] = {
            "workers": len(own),
            "threads_per_worker": int(own[0]["OMP_NUM_THREADS"]),
            "rows_per_s": round(done / seconds, 2),
        }
        report |= {"rows": done, "shards": -(-done // size)}
    one = report["one"]["rows_per_s"]
    return report | {
        "ratio": round(report["all"]["rows_per_s"] / one, 3),
        "ratio_of_threads": round(report["one_with_all_threads"]["rows_per_s"] / one, 3)
        if found.type == "cpu"
        else None,
    }


def _timed(manifest: Manifest, rows: int, places: list[dict[str, str]], out: Path, device: str) -> tuple[int, float]:
    """Rows that were fitted, and the seconds it took."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    barrier = context.Barrier(len(places) + 1)
    workers = [
        context.Process(target=_work, args=(manifest, rows, out, device, place, i, len(places), barrier), daemon=True)
        for i, place in enumerate(places)
    ]
    for worker in workers:
        worker.start()
    try:
        barrier.wait(START_TIMEOUT_S)
        start = time.perf_counter()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
    except BrokenBarrierError as error:
        raise UserError("a worker did not start; see above.") from error
    finally:
        for worker in workers:
            worker.kill()
    builder = Builder(manifest, out, device, quiet=True)
    wanted = _wanted(builder, rows)
    if not all(is_complete(out, builder.shards[i], builder.fingerprint(builder.shards[i])) for i in wanted):
        raise UserError("not every shard was built; see above.")
    return sum(builder.shards[i].num_rows for i in wanted), seconds


def _work(
    manifest: Manifest, rows: int, out: Path, device: str, place: dict[str, str], first: int, step: int, start: Barrier
) -> None:
    """Build every `step`-th shard, as a Dask worker or the flow's own process does."""
    os.environ |= place
    import torch

    torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    builder = Builder(manifest, out, device, quiet=True)
    wanted = _wanted(builder, rows)
    builder.load_models(wanted)
    builder.out = out.with_name(f"{out.name}-warm-{os.getpid()}")
    builder.build(wanted[-1], progress=False)
    builder.out = out
    start.wait(START_TIMEOUT_S)
    with ThreadPoolExecutor(THREADS if step == 1 else 1) as threads:
        list(threads.map(lambda index: builder.build(index, progress=False), wanted[first::step]))


def _wanted(builder: Builder, rows: int) -> list[int]:
    return [shard.index for shard in builder.shards if shard.index * builder.manifest.rows_per_shard < rows]


def workers_text(report: dict) -> str:
    """The report as a table."""
    lines = [f"{'workers':>8}{'threads each':>14}{'rows/s':>10}{'times one':>11}"]
    one = report["one"]["rows_per_s"]
    for name in ("one", "one_with_all_threads", "all"):
        if name in report:
            run = report[name]
            cells = f"{run['workers']:>8}{run['threads_per_worker']:>14}{run['rows_per_s']:>10.1f}"
            lines.append(f"{cells}{run['rows_per_s'] / one:>11.2f}")
    return "\n".join([*lines, f"{report['rows']:,} rows in {report['shards']} shards, {report['device']}"])
