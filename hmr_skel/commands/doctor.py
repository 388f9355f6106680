"""`hmr-skel doctor`: what is there, what is missing, what to do."""

import argparse


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `doctor`."""
    doctor = commands.add_parser("doctor", help="what is installed, which files are there, what is missing")
    doctor.add_argument("--manifest", metavar="FILE", help="check this one (default: every manifests/*.toml)")
    doctor.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Print one line per finding."""
    raise NotImplementedError
