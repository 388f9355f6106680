"""`hmr-skel bench workers`: what a second process, or GPU, is worth."""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from hmr_skel.errors import UserError

WORKERS = """\
Build the same shards with one process and with --workers of them into one folder, warm and end to end, from label rows
to shards on disk: rows/s of each, and how many times one worker's rate all of them reach (ratio). On a CPU the cores
are divided among them, and one worker is timed twice: with as many threads as each of them has, which is what they are
compared with, and with all (ratio_of_threads). On GPUs each has one of its own."""


def add_commands(actions: argparse._SubParsersAction, count: Callable[[str], int]) -> None:
    """Add `workers`; `count` reads a whole number from 1."""
    action = actions.add_parser(
        "workers",
        help="one process beside several that share a dataset",
        description=WORKERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument(
        "--manifest",
        default="manifests/open.toml",
        metavar="FILE",
        help="labels and body models (default: %(default)s)",
    )
    action.add_argument("--rows", type=count, default=4096, help="rows to fit each time (default: %(default)s)")
    action.add_argument("--workers", type=count, default=2, metavar="N", help="(default: %(default)s)")
    action.add_argument("--device", default="auto", help="cpu, cuda (default: auto)")
    action.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
    action.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
    action.set_defaults(run=run_workers)


def run_workers(args: argparse.Namespace) -> None:
    """Measure and print."""
    from fitting.machine import machine
    from flows.bench_workers import bench_workers
    from hmr_skel.commands.bench import Bars
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.device import resolve_device

    if args.workers < 2:
        raise UserError("--workers: expected a whole number from 2; one worker is what they are compared with.")
    device = resolve_device(args.device)
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        report = bench_workers(
            load_manifest(args.manifest), args.rows, args.workers, Path(work), str(device.type), bars
        )
    report |= {"device": str(device), "machine": machine(device)}
    if not args.quiet:
        print(workers_text(report))
    if args.json:
        print(json.dumps(report))


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
