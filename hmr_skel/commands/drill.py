"""`hmr-skel drill`: harm done on purpose, with a seed, and a table of what came of it."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from hmr_skel.errors import UserError

CORRUPTION = """\
Build a small dataset on the open body, damage a copy of it many times (bits flipped in data, meta and rejects files;
files cut, grown, swapped, removed, duplicated; shards removed, duplicated, replaced by those of another dataset), and
see each time whether `hmr-skel verify` finds it and names that shard and no other, and whether `--repair` restores
equality. Before and after, the undamaged dataset must verify without a problem, a sample of rows fitted again.
100 times take about a minute. Exit status: 0 where nothing was missed, else 1."""


FAULTS = """\
Build a small dataset on the open body again and again, each time with one fault at a seeded moment; start it again, and
compare with the undisturbed one. kill -9 of the worker (the process that fits), of the flow (a whole `hmr-skel
dataset`) and of its Prefect server; SIGTERM and SIGINT; a disk that is full while a file is written or flushed; a label
file that cannot be read, or is cut short while it is in use; a device without memory, where the batch halves and the
result is equal within rounding; two workers on the same shards, where each must be built once; kill -9 of one of two,
where the other must finish all; and a shard that ends the process each time, which is set aside the third time and
named, while the others are built. Full disks, read errors and want of memory are put into
the process that fits; the others are real.

The table: times each fault was done, rows lost, rows duplicated, files that are half there or temporary, restarts,
complete shards that were built again, datasets equal to the undisturbed one in every column.
A quarter of an hour on two quiet cores, most of it for Prefect. Exit status: 0 where nothing was lost, else 1."""


FUZZ = """\
Read mutated files and see that each ends in a result or in one clear error: label files (with and without Python
objects), model files, manifests, Parquet shards, shards to verify, meta files, networks, published checkpoints, mean
poses, images, and motions to convert. Guided by coverage: inputs that reach new lines of ours are mutated further.
Limits: 10 s an input, 2 GB in all; an audit hook reports what a reader writes outside its folder, starts, connects to.
What is found goes to --out as files, to be read again. Exit status: 0 where nothing was found, else 1."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `drill`."""
    drill = commands.add_parser("drill", help="do harm to builds and datasets on purpose, and see what comes of it")
    kinds = drill.add_subparsers(title="drills", metavar="DRILL", required=True)
    corruption = kinds.add_parser(
        "corruption",
        help="damage to finished datasets, found and repaired",
        description=CORRUPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    corruption.add_argument("--times", type=int, default=100, metavar="N", help="(default: %(default)s)")
    corruption.set_defaults(run=run_corruption)
    faults = kinds.add_parser(
        "faults",
        help="kills, full disks, broken sources and more, during builds",
        description=FAULTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    faults.add_argument(
        "--kills", type=int, default=50, metavar="N", help="three fifths of workers, a fifth each of flows and servers "
        "(default: %(default)s)",
    )  # fmt: skip
    faults.add_argument("--others", type=int, default=3, metavar="N", help="of each other fault (default: %(default)s)")
    faults.set_defaults(run=run_faults)
    fuzz = kinds.add_parser(
        "fuzz",
        help="mutated files, for all that reads other people's",
        description=FUZZ,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fuzz.add_argument(
        "--executions",
        type=int,
        default=5000,
        metavar="N",
        help="inputs per reader (default: %(default)s: ten minutes)",
    )
    fuzz.add_argument("--out", type=Path, metavar="DIR", help="where inputs go that something is wrong with")
    fuzz.set_defaults(run=run_fuzz)
    for parser in (corruption, faults, fuzz):
        parser.add_argument("--seed", type=int, default=0, help="of what is done where (default: %(default)s)")
        parser.add_argument("--json", action="store_true", help="print the table as one JSON object, the last line")
        parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")


def run_corruption(args: argparse.Namespace) -> int:
    """Damage, verify, repair, compare; print the table."""
    from collections import Counter

    from tqdm import tqdm

    from flows.drill.corruption import corruption_drill, corruption_table
    from flows.drill.small import small_manifest
    from flows.shard import Builder
    from flows.verify import verify_dataset

    if args.times < 1 or args.seed < 0:
        raise UserError("--times: expected a whole number from 1; --seed: from 0.")
    with tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as name:
        folder, models = Path(name), open_body(args.quiet)
        builders = [
            Builder(
                small_manifest(folder / kind, models, seed=seed),
                folder / kind / "out",
                "cpu",
                quiet=True,
                any_plan=True,
            )
            for kind, seed in (("ours", 0), ("other", 1))
        ]
        for builder in builders:
            for index in range(len(builder.shards)):
                builder.build(index, progress=False)
        ours, other = builders
        false_alarms = len(verify_dataset(ours.out, ours).problems)
        with tqdm(total=args.times, desc="drill", disable=True if args.quiet else None, leave=False) as bar:
            outcomes = corruption_drill(
                ours, other.local, folder / "work", times=args.times, seed=args.seed, progress=bar.update
            )
        false_alarms += len(verify_dataset(ours.out, ours).problems)
    missed = [one for one in outcomes if not (one.found and one.restored and not one.others)]
    if not args.quiet:
        print(corruption_table(outcomes))
        print(f"seed {args.seed}; problems reported on the undamaged dataset, before and after: {false_alarms}")
        for one in missed:
            print(f"missed: {one.kind}: {one.text}")
    if args.json:
        kinds = Counter(one.kind for one in outcomes)
        report = {"seed": args.seed, "times": args.times, "kinds": dict(kinds), "false_alarms": false_alarms}
        report |= {name: sum(getattr(one, name) for one in outcomes) for name in ("found", "by_files", "restored")}
        print(json.dumps(report))
    return 1 if missed or false_alarms else 0


def run_faults(args: argparse.Namespace) -> int:
    """Break builds, start them again, compare; print the table."""
    import time
    from dataclasses import asdict
    from random import Random

    from tqdm import tqdm

    from flows.drill.faults import FAULTS as WORKER_FAULTS
    from flows.drill.faults import KILL_WORKER, Setting, faults_table
    from flows.drill.prefect_faults import prefect_faults, time_flow
    from flows.drill.small import make_small
    from flows.shard import Builder

    if args.kills < 0 or args.others < 0 or args.seed < 0:
        raise UserError("--kills, --others and --seed: expected whole numbers from 0.")
    of_prefect = args.kills // 5
    times = {KILL_WORKER: args.kills - 2 * of_prefect} | {
        name: args.others for name in WORKER_FAULTS if name != KILL_WORKER
    }
    results = []
    with tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as name:
        folder = Path(name)
        manifest = make_small(folder / "small", open_body(args.quiet).absolute())
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


def run_fuzz(args: argparse.Namespace) -> int:
    """Fuzz every reader; print the table."""
    import os

    from tqdm import tqdm

    from flows.drill.fuzz import Watch, fuzz, fuzz_table
    from flows.drill.fuzz_targets import TARGETS

    if args.executions < 1 or args.seed < 0:
        raise UserError("--executions: expected a whole number from 1; --seed: from 0.")
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"  # it has something to say on every damaged picture
    watch = Watch()
    campaigns = []
    with (
        tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as name,
        tqdm(total=args.executions * len(TARGETS), disable=True if args.quiet else None, leave=False) as bar,
    ):
        for target in TARGETS:
            bar.set_description(target.name)
            campaigns.append(
                fuzz(target, Path(name) / "x", watch, executions=args.executions, seed=args.seed, progress=bar.update)
            )
    findings = [finding for campaign in campaigns for finding in campaign.findings]
    if args.out is not None and findings:
        args.out.mkdir(parents=True, exist_ok=True)
        for number, finding in enumerate(findings):
            (args.out / f"{finding.target.replace(' ', '-')}-{number:04d}").write_bytes(finding.data)
    if not args.quiet:
        print(fuzz_table(campaigns))
        print(f"seed {args.seed}")
        for what in dict.fromkeys(f"{finding.target}: {finding.what}" for finding in findings):
            print(what)
    if args.json:
        counts = {c.target: {"executions": c.executions, "findings": len(c.findings)} for c in campaigns}
        print(json.dumps({"seed": args.seed, "targets": counts}))
    return 1 if findings else 0


def open_body(quiet: bool) -> Path:
    """The folder of the open body, exported there where it is missing."""
    from hmr_skel.commands.body_models import OPEN, named_body_models

    folder = named_body_models(OPEN, quiet=quiet)
    assert folder is not None
    return folder
