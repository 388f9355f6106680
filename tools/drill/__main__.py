"""`python -m tools.drill` breaks builds on purpose and counts the cost; `python -m tools.drill fuzz` mutates files."""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

from flows.address import client_settings
from flows.server import new_password, running_server
from flows.shard import Builder
from hmr_skel.body.open_body.export import models_folder
from hmr_skel.cli import run
from hmr_skel.commands.arguments import HelpFormatter, add_number
from hmr_skel.progress import progress_bar
from tools.drill.faults import FAULTS, Setting, faults_table, time_flow
from tools.drill.fuzz import fuzz_apart, fuzz_table
from tools.drill.readers import READERS
from tools.drill.small import small_manifest

ABOUT_FAULTS = """\
Build a small dataset on the open body again and again with faults at seeded moments, finish it, and compare it with an
undisturbed one:
  workers   kill -9 of a Dask worker of `hmr-skel dataset --workers 2`
  flows     kill -9 of that flow, which is then started again
  crash     a shard that kills each worker that builds it: it is named, and all others are built
  two       two independent builds of the same dataset at once
  disk      a full disk, by a limit of file size or by the system's error
  source    a label file that is cut short while it is read, and mended later
The table counts cases, rows neither kept nor rejected, rows that occur twice, incomplete files, and datasets equal to
the undisturbed one in every column. This takes half an hour on two quiet cores.
Exit status: 0 if nothing went wrong, else 1."""

ABOUT_FUZZ = """\
Give mutated files to everything that reads other people's files, and see that each ends in a result or in one clear
error. Inputs that reach new lines of the package are mutated further. Each reader runs in a process of its own.

A finding is an input that raises another error, takes more than 10 s, or ends the process; or a reader that reads or
writes outside the input's folder, starts a program or connects to something. An input of more than 10 MB is cut, and
one that wants more than 2 GB of memory counts as refused. Exit status: 0 where nothing was found, else 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tools.drill", description=__doc__)
    kinds = parser.add_subparsers(title="drills", metavar="DRILL", required=True)
    faults = kinds.add_parser("faults", description=ABOUT_FAULTS, formatter_class=HelpFormatter)
    faults.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help="as named above")
    add_number(faults, "--cases", int, 1, help="of each (default: 20 kills, 3 to 10 of the others)")
    faults.set_defaults(run=run_faults)
    fuzz = kinds.add_parser("fuzz", description=ABOUT_FUZZ, formatter_class=HelpFormatter)
    add_number(fuzz, "--executions", int, 1, default=5000, help="inputs a reader")
    readers = [reader.name for reader in READERS]
    fuzz.add_argument("--reader", action="append", choices=readers, metavar="NAME", help="as the table names it")
    fuzz.add_argument("--out", type=Path, metavar="DIR", help="where inputs go that something is wrong with")
    fuzz.set_defaults(run=run_fuzz)
    for drill in (faults, fuzz):
        add_number(drill, "--seed", int, 0, default=0, help="of what is done where")
    return run(parser, argv)


def run_faults(args: argparse.Namespace) -> int:
    """Break builds, finish and compare them; print the table."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    def built(kind: str, **size: int) -> Setting:
        """A dataset that is there, undisturbed."""
        say(f"the undisturbed dataset {kind!r}")
        builder = Builder(small_manifest(folder / kind, models, **size), folder / kind / "out", "cpu", quiet=True)
        builder.fitter.load()
        start = time.monotonic()
        for index in range(len(builder.shards)):
            builder.build(index, progress=False)
        seconds = time.monotonic() - start
        return Setting(folder / kind / "drill.toml", builder.local, len(builder.shards), seconds)

    chosen = [name for name in FAULTS if not args.only or name in args.only]
    results = []
    folder = Path(tempfile.mkdtemp(prefix="hmr-skel-drill-"))
    models = models_folder("open", quiet=False).absolute()
    say(f"in {folder}, which is removed where nothing goes wrong")
    with ExitStack() as stack:
        small = built("few")
        if on_dask := {"workers", "flows", "crash"} & set(chosen):
            os.environ["PREFECT_HOME"] = str(folder / "prefect")
            password = new_password()
            _, url = stack.enter_context(running_server(password, ui=False))
            say("Prefect's server runs")
            large = time_flow(built("many", shards=30), client_settings(url, password), folder / "undisturbed")
        for name in chosen:
            fault, usual = FAULTS[name]
            cases, done = args.cases or usual, 0
            (folder / name).mkdir()
            for result in fault(large if name in on_dask else small, folder / name, Random(args.seed), cases):
                results.append(result)
                done += result.cases
                say(f"{name}: {done} of {cases}" + ("" if result.passed else f", failed: {result}"))
    bad = [result for result in results if not result.passed]
    if not bad:
        shutil.rmtree(folder)
    print(f"{faults_table(results)}\nseed {args.seed}")
    for result in bad:
        print(f"failed: {result}")
    return 1 if bad else 0


def run_fuzz(args: argparse.Namespace) -> int:
    """Fuzz the readers; print the table."""
    readers = [reader for reader in READERS if not args.reader or reader.name in args.reader]
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"  # it comments on every damaged picture
    campaigns = []
    with (
        tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as folder,
        progress_bar(False, "reader", len(readers)) as bar,
    ):
        for reader in readers:
            campaigns.append(fuzz_apart(reader, Path(folder), executions=args.executions, seed=args.seed))
            bar.update(1)
    findings = [(one.reader, what, data) for one in campaigns for what, data in one.findings]
    for reader, _, data in findings if args.out is not None else ():
        path = args.out / reader.replace(" ", "-") / hashlib.sha256(data).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{fuzz_table(campaigns)}\nseed {args.seed}")
    print("\n".join(dict.fromkeys(f"{reader}: {what}" for reader, what, _ in findings)))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
