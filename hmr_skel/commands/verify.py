"""`hmr-skel verify`: is a dataset on disk what its meta files say it is?"""

import argparse
from pathlib import Path

VERIFY = """\
Check a dataset folder against its own meta files: checksums, columns, finite values, and that every row that was to be
read was kept or rejected, once. Needs neither manifest nor label files. Exit status: 0 where all is sound, else 1."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `verify`."""
    verify = commands.add_parser(
        "verify",
        help="check a dataset on disk",
        description=VERIFY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("dataset", metavar="DATASET", type=Path, help="the dataset's folder, for instance data/open")
    verify.set_defaults(run=run_verify)


def run_verify(args: argparse.Namespace) -> int:
    """One line for each thing that is wrong."""
    from hmr_skel.data.verify import verify_dataset

    problems = verify_dataset(args.dataset)
    for problem in problems:
        print(problem)
    finished = len(list((args.dataset / "meta").glob("shard-*.json")))
    print(f"{args.dataset}: {finished:,} finished shards, {len(problems):,} problems")
    return 1 if problems else 0
