"""`python -m tools.drill fuzz`: mutated files for all that reads other people's, and a table of what came of it."""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

from hmr_skel.errors import UserError

FUZZ = """\
Read mutated files and see that each ends in a result or in one clear error: label files (with and without Python
objects), model files and regressors, manifests, Parquet shards, shards to verify, meta files, networks, published
checkpoints, training states and logs, mean poses, the benchmarks' label files, predictions, boxes, images, and motions
to convert. Guided by coverage: inputs that reach new lines of ours are mutated further.

A process per kind of file. An input has 10 MB at most and 10 s. An input that wants more than 2 GB beside what the
process has counts as refused. An audit hook reports what is read and written outside the input's folder, started and
connected to; a process that ends is a finding too. Inputs that something is wrong with go to --out, to be read again.
--corpus keeps inputs that reached new lines, for the next run to start from. A long run: --minutes 480 --corpus DIR
--out DIR.
Exit status: 0 where nothing was found, else 1."""


def add_commands(kinds: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add `fuzz`."""
    fuzz = kinds.add_parser(
        "fuzz",
        help="mutated files, for all that reads other people's",
        description=FUZZ,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    much = fuzz.add_mutually_exclusive_group()
    much.add_argument(
        "--executions", type=int, default=5000, metavar="N", help="inputs per reader (default: %(default)s)"
    )
    much.add_argument("--minutes", type=float, metavar="M", help="of all readers together, in place of a number")
    fuzz.add_argument(
        "--target", action="append", metavar="NAME", help="a reader, by its name in the table (default: all)"
    )
    fuzz.add_argument("--corpus", type=Path, metavar="DIR", help="inputs to start from and to add to")
    fuzz.add_argument("--out", type=Path, metavar="DIR", help="where inputs go that something is wrong with")
    fuzz.set_defaults(run=run_fuzz)
    return fuzz


def run_fuzz(args: argparse.Namespace) -> int:
    """Fuzz every reader; print the table."""
    from tqdm import tqdm

    from tools.drill.fuzz import fuzz_table
    from tools.drill.fuzz_process import fuzz_apart
    from tools.drill.fuzz_targets import TARGETS

    if args.executions < 1 or args.seed < 0 or (args.minutes is not None and not 0 < args.minutes < float("inf")):
        raise UserError("--executions: expected a whole number from 1; --seed: from 0; --minutes: more than 0.")
    names = [target.name for target in TARGETS]
    if unknown := [name for name in args.target or () if name not in names]:
        raise UserError(f"--target {unknown[0]!r}: there is no such reader. There are: {', '.join(names)}.")
    targets = [target for target in TARGETS if target.name in (args.target or names)]
    timed = args.minutes is not None
    executions = 2**63 if timed else args.executions
    seconds = 60 * args.minutes / len(targets) if timed else float("inf")
    campaigns = []
    total = None if timed else executions * len(targets)
    with (
        tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as name,
        tqdm(total=total, disable=True if args.quiet else None, leave=False) as bar,
    ):
        for target in targets:
            bar.set_description(target.name)
            corpus = [] if args.corpus is None else _read_corpus(args.corpus / _as_file(target.name))
            campaign = fuzz_apart(
                target, Path(name), executions=executions, seed=args.seed, seconds=seconds, corpus=corpus,
                progress=bar.update,
            )  # fmt: skip
            campaigns.append(campaign)
            if args.corpus is not None:
                _write(args.corpus / _as_file(target.name), campaign.corpus)
            if args.out is not None and campaign.findings:
                _write(args.out / _as_file(target.name), [finding.data for finding in campaign.findings])
    findings = [finding for campaign in campaigns for finding in campaign.findings]
    if not args.quiet:
        print(fuzz_table(campaigns))
        print(f"seed {args.seed}")
        for what in dict.fromkeys(f"{finding.target}: {finding.what}" for finding in findings):
            print(what)
    if args.json:
        counts = {c.target: {"executions": c.executions, "findings": len(c.findings)} for c in campaigns}
        print(json.dumps({"seed": args.seed, "targets": counts}))
    return 1 if findings else 0


def _as_file(name: str) -> str:
    return name.replace(" ", "-")


def _read_corpus(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()]


def _write(folder: Path, inputs: list[bytes]) -> None:
    """Each under the hash of its content, so that runs add to each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
