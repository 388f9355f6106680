"""`python -m bench io`: the whole way from a label file to Parquet shards, and its parts, timed."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.arguments import add_device, new_parser, show
from hmr_skel.bench.files import bench_files, with_labels
from hmr_skel.bench.machine import machine
from hmr_skel.bench.text import Bars, line
from hmr_skel.cli import run
from hmr_skel.commands.bench import count_from_one
from hmr_skel.data.manifest import load_manifest
from hmr_skel.device import resolve_device

IO = """\
Time the whole way from a label file to Parquet shards, and its parts: reading, checking, fitting, writing (rows/s). The
shards go to a temporary folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("io", IO)
    add_device(parser)
    parser.add_argument("--labels", type=Path, metavar="FILE", help="a CameraHMR-format npz in place of its labels")
    parser.add_argument("--rows", type=count_from_one, default=4096, help="rows to time (default: %(default)s)")
    parser.set_defaults(run=run_io)
    return run(parser, argv)


def run_io(args: argparse.Namespace) -> None:
    """Measure and print."""
    device = resolve_device(args.device)
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        manifest = with_labels(load_manifest(args.manifest), args.labels, args.rows)
        report = bench_files(manifest, args.rows, Path(work) / "out", str(device), bars)
    report = {"rows": report.pop("end_to_end_rows"), "device": str(device)} | report | {"machine": machine(device)}
    show(report, io_text, args)


def io_text(report: Mapping[str, Any]) -> str:
    """For people."""
    lines = [
        f"label file to Parquet: {report['rows']:,} rows, {report['bytes_per_row']:,.0f} bytes a row",
        line("end to end", f"{report['end_to_end_rows_per_s']:,.1f} rows/s"),
        line(
            "cold", f"{report['end_to_end_rows_per_s_cold']:,.1f} rows/s ({report['open_s']:.1f} s to open all files)"
        ),
    ]
    for part in ("read", "check", "fit", "write"):
        lines.append(line(part, f"{report[f'{part}_rows_per_s']:,.0f} rows/s"))
    return "\n".join(lines)
