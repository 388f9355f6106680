"""`python -m bench loader`: how fast training samples come, of one core and of worker processes."""

import argparse
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from bench import new_parser
from hmr_skel.bench.measures import machine
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.output import show
from hmr_skel.data.images import UnreadableImage, image_rules
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.samples import SampleDataset, batches
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder
from hmr_skel.progress import measuring
from tools.processes import memory_mb

LOADER = """\
Time the making of augmented training samples (256 px crops and their labels, the paper's augmentation) from a dataset's
own images: per second of one core's time, and by the clock with worker processes. Build the dataset and its images
first: make dataset, make images."""
_PASSES = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("loader", LOADER, "manifest", "data", "json", "quiet")
    add_number(parser, "--batch", int, 1, default=64, help="samples of a batch")
    add_number(parser, "--workers", int, 1, nargs="+", default=[1, 2], help="processes (default: 1 2)")
    add_number(parser, "--seconds", int, 1, default=10, help="for each of these")
    parser.set_defaults(run=run_loader)
    return run(parser, argv)


def run_loader(args: argparse.Namespace) -> None:
    """Measure and print."""
    manifest = load_manifest(args.manifest)
    data = args.data or data_folder() / manifest.name
    dataset = SampleDataset(data, image_rules(manifest), quiet=args.quiet)
    with measuring(args.quiet) as bars:
        report = bench_loader(dataset, args.batch, args.workers, float(args.seconds), bars)
    report = {"dataset": str(data), "batch": args.batch} | report | {"machine": machine(torch.device("cpu"))}
    show(args, _text(report), report)


def bench_loader(
    dataset: SampleDataset,
    batch_size: int,
    workers: Sequence[int],
    seconds: float,
    report: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Time the making of samples, and of batches by so many worker processes each.

    Args:
        dataset: what to make samples of, as training does.
        batch_size: of the workers' batches.
        workers: numbers of processes, each timed on its own.
        seconds: how long each of these is watched, after its first batches.
        report: called with what is measured, how much of it is done, and how much there is.

    Returns JSON values: `samples_per_core_s` are samples per second of one core's time, in the best of five passes,
    which leaves out what other processes took; `samples_per_s` of workers are by the clock.
    """
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        one = _one_core(dataset, report)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
    return one | {"workers": [_many(dataset, batch_size, count, seconds, report) for count in workers]}


def _one_core(dataset: SampleDataset, report: Callable[[str, int, int], None]) -> dict[str, Any]:
    chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), 256)).astype(int).tolist()
    made = []
    for number in range(_PASSES):
        start = time.process_time()
        samples = 0
        for index in chosen:
            with contextlib.suppress(UnreadableImage):
                dataset.sample(index, epoch=number)
                samples += 1
        made.append((time.process_time() - start) / max(samples, 1))
        report("one core", number + 1, _PASSES)
    if not samples:
        raise UserError(f"none of {len(chosen)} images can be read. Make them (make images), or check image_root.")
    return {
        "samples": len(chosen),
        "readable": samples,
        "samples_per_core_s": 1 / min(made),
        "sample_ms": 1000 * min(made),
    }


def _many(
    dataset: SampleDataset, batch_size: int, workers: int, seconds: float, report: Callable[[str, int, int], None]
) -> dict[str, Any]:
    what, ticks = f"workers: {workers}", max(1, round(seconds))
    known = {child.pid for child in multiprocessing.active_children()}
    start = time.perf_counter()
    with batches(dataset, batch_size, seed=0, workers=workers) as stream:
        next(stream)
        first = time.perf_counter() - start
        for _ in range(4 * max(1, workers)):  # what was made while nobody asked
            next(stream)
        start, count, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < seconds:
            count += len(next(stream))
            elapsed = time.perf_counter() - start
            report(what, min(ticks, round(elapsed)), ticks)
        own = [child.pid for child in multiprocessing.active_children() if child.pid not in known]
        memory = max((memory_mb(pid)[1] for pid in own if pid is not None), default=0.0)
    return {
        "workers": workers,
        "samples_per_s": count / elapsed,
        "first_batch_s": first,
        "largest_worker_mb": memory or None,
    }


def _text(report: dict) -> str:
    lines = [
        f"{report['dataset']}: {report['readable']} of {report['samples']} images read",
        f"  of one core's time     {report['samples_per_core_s']:,.0f} samples/s ({report['sample_ms']:.2f} ms each)",
    ]
    for many in report["workers"]:
        memory = many["largest_worker_mb"]
        lines.append(
            f"  by the clock, {many['workers']:>2} workers  {many['samples_per_s']:,.0f} samples/s, first batch after "
            f"{many['first_batch_s']:.1f} s" + (f", {memory:,.0f} MB each" if memory is not None else "")
        )
    return "\n".join(lines)
