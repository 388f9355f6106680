"""`python -m bench io`: the whole way from a label file to Parquet shards, and its parts, timed."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.arguments import new_parser
from hmr_skel.bench.fit import FitInputs, bench_files
from hmr_skel.bench.measures import machine
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.output import Bars, show, table

IO = """\
Time the whole way from a label file to Parquet shards, and its parts: reading, checking, fitting, writing (rows/s). The
shards go to a temporary folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("io", IO, "manifest", "device", "labels", "json", "quiet")
    add_number(parser, "--rows", int, 1, default=4096, help="rows to time (default: %(default)s)")
    parser.set_defaults(run=run_io)
    return run(parser, argv)


def run_io(args: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        inputs = FitInputs.open(args.manifest, args.labels, args.rows, args.device, Path(work), quiet=args.quiet)
        device = inputs.device
        report = bench_files(inputs.manifest, args.rows, Path(work) / "out", str(device), bars)
    report = {"rows": report.pop("end_to_end_rows"), "device": str(device)} | report | {"machine": machine(device)}
    show(args, io_text(report), report)


def io_text(report: Mapping[str, Any]) -> str:
    """For people."""
    rows = [
        {"": "end to end", "rows/s": report["end_to_end_rows_per_s"]},
        {"": f"cold ({report['open_s']:.1f} s to open all files)", "rows/s": report["end_to_end_rows_per_s_cold"]},
        *({"": part, "rows/s": report[f"{part}_rows_per_s"]} for part in ("read", "check", "fit", "write")),
    ]
    size = f"{report['rows']:,} rows, {report['bytes_per_row']:,.0f} bytes a row"
    return f"label file to Parquet: {size}\n{table(rows)}"
