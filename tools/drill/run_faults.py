"""`python -m tools.drill faults`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from hmr_skel.commands.inputs import open_body
from hmr_skel.errors import UserError

FAULTS = """\
Build a small dataset on the open body again and again, each time with one fault at a seeded moment; start it again, and
compare with the undisturbed one. kill -9 of the worker (the process that fits), of the flow (a whole `hmr-skel
dataset`) and of its Prefect server; SIGTERM and SIGINT; a disk that is full while a file is written or flushed; a label
file that cannot be read, or is cut short while it is in use; a device without memory, where the batch halves and the
result is equal within rounding; and two independent builds of the same shards, where each must be built once. Full
disks, read errors and want of memory are put into the process that fits; the others are real.

The table: times each fault was done, rows lost, rows duplicated, files that are half there or temporary, restarts,
complete shards that were built again, datasets equal to the undisturbed one in every column.
A quarter of an hour on two quiet cores, most of it for Prefect. Exit status: 0 where nothing was lost, else 1."""


def add_commands(kinds: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add `faults`."""
    parser = kinds.add_parser(
        "faults",
        help="kills, full disks, broken sources and more, during builds",
        description=FAULTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--kills", type=int, default=50, metavar="N", help="three fifths of workers, a fifth each of flows and servers "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--others", type=int, default=3, metavar="N", help="of each other fault (default: %(default)s)")
    parser.set_defaults(run=run_faults)
    return parser


def run_faults(args: argparse.Namespace) -> int:
    """Break builds, start them again, compare; print the table."""
    import time
    from dataclasses import asdict
    from random import Random

    from tqdm import tqdm

    from flows.shard import Builder
    from tools.drill.faults import FAULTS as WORKER_FAULTS
    from tools.drill.faults import KILL_WORKER, Setting, faults_table
    from tools.drill.prefect_faults import prefect_faults, time_flow
    from tools.drill.small import make_small

    if args.kills < 0 or args.others < 0 or args.seed < 0:
        raise UserError("--kills, --others and --seed: expected whole numbers from 0.")
    of_prefect = args.kills // 5
    times = {KILL_WORKER: args.kills - 2 * of_prefect} | {
        name: args.others for name in WORKER_FAULTS if name != KILL_WORKER
    }
    results = []
    with tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as name:
        folder = Path(name)
        manifest = make_small(folder / "small", open_body(quiet=args.quiet).absolute())
        builder = Builder.open(manifest, folder / "undisturbed", "cpu", quiet=True)
        builder.load_models(range(len(builder.shards)))
        start = time.monotonic()
        for index in range(len(builder.shards)):
            builder.build(index, progress=False)
        setting = Setting(manifest, builder.local, len(builder.shards), time.monotonic() - start)
        plan = [(fault, WORKER_FAULTS[fault], number) for fault, number in times.items()]
        if of_prefect:
            time_flow(setting, folder / "first")  # makes the server's database
            plan += [(*item, of_prefect) for item in prefect_faults(time_flow(setting, folder / "second")).items()]
        rng = Random(args.seed)
        with tqdm(total=sum(n for *_, n in plan), disable=True if args.quiet else None, leave=False) as bar:
            for fault, do, number in plan:
                for _ in range(number):
                    bar.set_description(fault)
                    place = folder / f"run{len(results)}"
                    place.mkdir()
                    results.append(do(setting, place, rng))
                    bar.update()
                    if bar.disable and not args.quiet:  # no terminal, perhaps a log file
                        print(results[-1], file=sys.stderr, flush=True)
    bad = [result for result in results if not result.passed]
    if not args.quiet:
        print(faults_table(results))
        print(f"seed {args.seed}")
        for result in bad:
            print(f"failed: {result}")
    if args.json:
        print(json.dumps({"seed": args.seed, "passed": not bad, "results": [asdict(result) for result in results]}))
    return 1 if bad else 0
