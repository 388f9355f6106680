"""`python -m tools.drill soak`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from hmr_skel.commands.inputs import open_body
from hmr_skel.errors import UserError

SOAK = """\
Build a large dataset as a user would, by a whole `hmr-skel dataset` with a Prefect database of its own, and watch it:
every minute the shards done, the rate, memory, open files and threads of the process that fits and of Prefect's server
(the most in that minute), the size of the database, and the time left that the run shows beside what it then took.

"own" is memory that no file is behind; the rest are libraries and label files that are mapped, as far as they have been
read. Over the second half of the shards, by least squares, own memory may grow by 10 MB per 100 shards, files and
threads by 10 per 100 shards, the database by 64 kB a shard; the time left may be off by 20 % in the median. The last is
no fair demand while others use the machine.
200,000 rows take 0.7 GB of temporary space and, on two quiet cores, a quarter of an hour or so.
Exit status: 0 where all that holds and the dataset is whole, else 1."""


def add_commands(kinds: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add `soak`."""
    parser = kinds.add_parser(
        "soak",
        help="a long run: memory, open files, Prefect's database, the time left",
        description=SOAK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=200_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--shards", type=int, default=300, metavar="N", help="about so many (default: %(default)s)")
    parser.add_argument(
        "--every", type=float, default=60.0, metavar="SECONDS", help="between samples (default: %(default)s)"
    )
    parser.set_defaults(run=run_soak)
    return parser


def run_soak(args: argparse.Namespace) -> int:
    """Make labels, run, watch; print the table."""
    from dataclasses import asdict

    from flows.sources import make_missing
    from hmr_skel.data.manifest import load_manifest
    from tools.drill.soak import Sample, soak, write_manifest
    from tools.drill.soak_verdict import HEAD, checks, line, table

    if sys.platform != "linux":
        raise UserError("the soak reads /proc, which only Linux has.")
    if not 1 <= args.shards <= args.rows or args.every <= 0 or args.seed < 0:
        raise UserError("--shards: expected 1 to --rows; --every: more than 0; --seed: from 0.")
    with tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as name:
        folder = Path(name)
        manifest = write_manifest(folder, open_body(quiet=args.quiet).absolute(), args.rows, args.shards, args.seed)
        make_missing(load_manifest(manifest), quiet=args.quiet)
        samples: list[Sample] = []

        def show(sample: Sample) -> None:
            if not args.quiet:
                print(line(sample, samples[-1] if samples else None), file=sys.stderr, flush=True)
            samples.append(sample)

        if not args.quiet:
            print(HEAD, file=sys.stderr, flush=True)
        run = soak(manifest, folder, every_s=args.every, progress=show)
    found = checks(run)
    summary = json.loads(run.output.splitlines()[-1]) if run.status == 0 else None
    whole = summary is not None and summary["kept"] + summary["rejected"] == args.rows and not summary["failed"]
    passed = whole and all(check.passed for check in found)
    if not args.quiet:
        print(table(run))
        for check in found:
            print(check.text())
        print(f"seed {args.seed}; {args.rows:,} rows in {run.seconds:.0f} s; what the run printed at its end:")
        print("\n".join(run.output.splitlines()[:-1] if summary else run.log.splitlines()[-20:]))
    if args.json:
        report = {"seed": args.seed, "rows": args.rows, "shards": run.shards, "seconds": run.seconds, "passed": passed}
        report |= {"checks": [asdict(check) | {"passed": check.passed} for check in found]}
        report |= {name: summary[name] if summary else None for name in ("stages", "slow")}
        print(json.dumps(report | {"samples": [asdict(sample) for sample in run.samples]}))
    return 0 if passed else 1
