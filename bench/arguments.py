"""Command-line options that several benchmarks have, and how each ends."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from hmr_skel.commands.build import DEFAULT_MANIFEST


def new_parser(name: str, text: str) -> argparse.ArgumentParser:
    """The parser of `python -m bench <name>`, with what all of them have."""
    parser = argparse.ArgumentParser(
        f"python -m bench {name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="labels and body models (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")


def show(report: dict[str, Any], text: Callable[[dict[str, Any]], str], args: argparse.Namespace) -> None:
    """Print the report: as text, unless quiet, and as JSON where asked for."""
    if not args.quiet:
        print(text(report))
    if args.json:
        print(json.dumps(report))
