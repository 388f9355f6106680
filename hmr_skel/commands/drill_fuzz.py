"""`hmr-skel drill fuzz`."""

import argparse
import json
import tempfile
from pathlib import Path

from hmr_skel.errors import UserError

FUZZ = """\
Read mutated files and see that each ends in a result or in one clear error: label files (with and without Python
objects), model files, manifests, Parquet shards, shards to verify, meta files, networks, published checkpoints, mean
poses, images, and motions to convert. Guided by coverage: inputs that reach new lines of ours are mutated further.
Limits: 10 s an input, 2 GB in all; an audit hook reports what a reader writes outside its folder, starts, connects to.
What is found goes to --out as files, to be read again. Exit status: 0 where nothing was found, else 1."""


def add_commands(kinds: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add `fuzz` to `drill`."""
    parser = kinds.add_parser(
        "fuzz",
        help="mutated files, for all that reads other people's",
        description=FUZZ,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--executions",
        type=int,
        default=5000,
        metavar="N",
        help="inputs per reader (default: %(default)s: ten minutes)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where inputs go that something is wrong with")
    parser.set_defaults(run=run_fuzz)
    return parser


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
