"""`python -m tools.drill`: faults and corruption (see each one's --help), and fuzz."""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hmr_skel.cli import run
from hmr_skel.errors import UserError
from tools.drill import run_corruption, run_faults

FUZZ = """\
Give mutated files to everything that reads other people's files, and see that each ends in a result or in one clear
error. Inputs that reach new lines of the package are mutated further. Each reader runs in a process of its own.

A finding is an input that raises another error, takes more than 10 s, or ends the process; or a reader that reads or
writes outside the input's folder, starts a program or connects to something. An input of more than 10 MB is cut, and
one that wants more than 2 GB of memory counts as refused. Exit status: 0 where nothing was found, else 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tools.drill", description=__doc__)
    kinds = parser.add_subparsers(title="drills", metavar="DRILL", required=True)
    drills = [kind.add_commands(kinds) for kind in (run_corruption, run_faults)]
    for drill in (*drills, add_fuzz(kinds)):
        drill.add_argument("--seed", type=int, default=0, help="of what is done where (default: %(default)s)")
        drill.add_argument("--json", action="store_true", help="print the table as one JSON object, the last line")
        drill.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
    return run(parser, argv)


def add_fuzz(kinds: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add `fuzz`."""
    fuzz = kinds.add_parser("fuzz", description=FUZZ, formatter_class=argparse.RawDescriptionHelpFormatter)
    much = fuzz.add_mutually_exclusive_group()
    much.add_argument("--executions", type=int, default=5000, metavar="N", help="inputs a reader (default: 5000)")
    much.add_argument("--minutes", type=float, metavar="M", help="of all readers together, in place of a number")
    fuzz.add_argument("--reader", action="append", metavar="NAME", help="as the table names it (default: all)")
    fuzz.add_argument("--out", type=Path, metavar="DIR", help="where inputs go that something is wrong with")
    fuzz.set_defaults(run=run_fuzz)
    return fuzz


def run_fuzz(args: argparse.Namespace) -> int:
    """Fuzz the readers; print the table."""
    from tqdm import tqdm

    from tools.drill.fuzz import fuzz_apart, fuzz_table
    from tools.drill.readers import READERS

    if args.executions < 1 or args.seed < 0 or (args.minutes is not None and not 0 < args.minutes < float("inf")):
        raise UserError("--executions: expected a whole number from 1; --seed: from 0; --minutes: more than 0.")
    names = [reader.name for reader in READERS]
    if unknown := [name for name in args.reader or () if name not in names]:
        raise UserError(f"--reader {unknown[0]!r}: there is no such reader. There are: {', '.join(names)}.")
    readers = [reader for reader in READERS if reader.name in (args.reader or names)]
    much: dict = {"executions": args.executions}
    if args.minutes is not None:
        much = {"executions": 2**62, "seconds": 60 * args.minutes / len(readers)}
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"  # it comments on every damaged picture
    campaigns = []
    with tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as folder:
        for reader in tqdm(readers, unit="reader", disable=True if args.quiet else None, leave=False):
            campaigns.append(fuzz_apart(reader, Path(folder), seed=args.seed, **much))
    findings = [(one.reader, what, data) for one in campaigns for what, data in one.findings]
    if args.out is not None:
        for reader, _, data in findings:
            path = args.out / reader.replace(" ", "-") / hashlib.sha256(data).hexdigest()[:16]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if not args.quiet:
        print(fuzz_table(campaigns))
        print(f"seed {args.seed}")
        print("\n".join(dict.fromkeys(f"{reader}: {what}" for reader, what, _ in findings)))
    if args.json:
        counts = {one.reader: {"executions": one.executions, "findings": len(one.findings)} for one in campaigns}
        print(json.dumps({"seed": args.seed, "readers": counts}))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
