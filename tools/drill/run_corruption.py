"""`python -m tools.drill corruption`."""

import argparse
import json
import tempfile
from pathlib import Path

from hmr_skel.commands.inputs import open_body
from hmr_skel.errors import UserError

CORRUPTION = """\
Build a small dataset on the open body, damage a copy of it many times (bits flipped in data, meta and rejects files;
files cut, grown, swapped, removed, duplicated; shards removed, duplicated, replaced by those of another dataset), and
see each time whether `hmr-skel verify` finds it and names that shard and no other, and whether `--repair` restores
equality. Before and after, the undamaged dataset must verify without a problem, a sample of rows fitted again.
100 times take about a minute. Exit status: 0 where nothing was missed, else 1."""


def add_commands(kinds: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add `corruption`."""
    parser = kinds.add_parser(
        "corruption",
        help="damage to finished datasets, found and repaired",
        description=CORRUPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=100, metavar="N", help="(default: %(default)s)")
    parser.set_defaults(run=run_corruption)
    return parser


def run_corruption(args: argparse.Namespace) -> int:
    """Damage, verify, repair, compare; print the table."""
    from collections import Counter

    from tqdm import tqdm

    from flows.shard import Builder
    from flows.verify import verify_dataset
    from tools.drill.corruption import corruption_drill, corruption_table
    from tools.drill.small import small_manifest

    if args.times < 1 or args.seed < 0:
        raise UserError("--times: expected a whole number from 1; --seed: from 0.")
    with tempfile.TemporaryDirectory(prefix="hmr-skel-drill-") as name:
        folder, models = Path(name), open_body(quiet=args.quiet)
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
