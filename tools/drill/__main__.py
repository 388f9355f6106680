"""`python -m tools.drill`: harm done on purpose, with a seed, and a table of what it cost."""

import argparse
import sys
from collections.abc import Sequence

from hmr_skel.cli import run
from tools.drill import run_corruption, run_faults, run_fuzz, run_soak


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tools.drill", description=__doc__)
    kinds = parser.add_subparsers(title="drills", metavar="DRILL", required=True)
    for kind in (run_corruption, run_faults, run_fuzz, run_soak):
        drill = kind.add_commands(kinds)
        drill.add_argument("--seed", type=int, default=0, help="of what is done where (default: %(default)s)")
        drill.add_argument("--json", action="store_true", help="print the table as one JSON object, the last line")
        drill.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
    return run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
