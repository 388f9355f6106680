"""`hmr-skel drill`: harm done on purpose, with a seed, and a table of what came of it."""

import argparse

from hmr_skel.commands import drill_corruption, drill_faults, drill_fuzz, drill_soak


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `drill`."""
    drill = commands.add_parser("drill", help="do harm to builds and datasets on purpose, and see what comes of it")
    kinds = drill.add_subparsers(title="drills", metavar="DRILL", required=True)
    for kind in (drill_corruption, drill_faults, drill_fuzz, drill_soak):
        parser = kind.add_commands(kinds)
        parser.add_argument("--seed", type=int, default=0, help="of what is done where (default: %(default)s)")
        parser.add_argument("--json", action="store_true", help="print the table as one JSON object, the last line")
        parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
