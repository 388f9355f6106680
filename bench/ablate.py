"""`python -m bench ablate`, which `make ablate` calls: the paper's Tables 4 and 5, trained and measured here."""

import argparse
import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import new_parser
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.evaluate import add_benchmark_arguments, write_tables
from hmr_skel.commands.evaluations import OpenBenchmarks, evaluate_on_held_out
from hmr_skel.commands.output import show
from hmr_skel.commands.train import add_run_arguments, new_run
from hmr_skel.data.samples import SampleDataset
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.evaluate.paper import MPJPE_PA_PVE, PCK, TABLE_4, TABLE_5, Column
from hmr_skel.evaluate.summary import METRIC_NAMES, groups_of, intervals
from hmr_skel.evaluate.tables import OurLine, SideBySide
from hmr_skel.model.checkpoint import load_any_network
from hmr_skel.places import runs_folder
from hmr_skel.train.loop import Outcome, Run, train
from hmr_skel.train.recipes import Recipe, load_recipe

ABLATE = """\
Train the variants of the paper's Tables 4 and 5 with one recipe, evaluate them on the dataset's held-out shards (and on
benchmarks), and print both tables with our lines below the paper's:
  full        all of it; Table 5's "sparse"
  baseline    HSMR's architecture: no camera, no coarse estimate, no refinement
  no-cam      every crop counts as a photo with f = 5000 px
  no-c2f      the decoder starts from the mean body
  no-refine   only the last decoder layer corrects the estimate
  full-super  every decoder layer has all losses in place of the refinement's
  looped      one decoder layer used over and over
The recipe's epochs are cut to --epochs, the warm-up in proportion: with seven, the seven runs of `tiny` end within an
hour on two cores. The same command goes on where it was stopped. The dataset's images have to be there: make images, or
--build."""

HELD_OUT = "held-out"


@dataclass(frozen=True)
class Variant:
    """One line of a table, or of both."""

    name: str
    """On the command line, and of the run's folder."""
    lines: dict[str, str]
    """The number of the paper's table -> the line in it."""
    changes: tuple[str, ...]
    """As `load_recipe` takes them."""


VARIANTS = (
    Variant("full", {"4": "full", "5": "sparse"}, ()),
    Variant(
        "baseline",
        {"4": "baseline + our data"},
        ("network.camera=false", "network.coarse=false", "network.refine=false"),
    ),
    Variant("no-cam", {"4": "w/o Cam"}, ("network.camera=false",)),
    Variant("no-c2f", {"4": "w/o C2F"}, ("network.coarse=false",)),
    Variant("no-refine", {"4": "w/o Refine"}, ("network.refine=false",)),
    Variant("full-super", {"5": "full super."}, ("losses.full_supervision=true",)),
    Variant("looped", {"5": "looped"}, ("network.looped=true",)),
)


def chosen_variants(text: str) -> tuple[Variant, ...]:
    """Those of a list such as `full,looped`, or `all`. `full` is always among them: the others are compared with it.

    Raises `UserError` for an unknown one.
    """
    names = [name.strip() for name in text.split(",")]
    known = [variant.name for variant in VARIANTS]
    unknown = [name for name in names if name not in (*known, "all")]
    if unknown:
        raise UserError(f"no variant {unknown[0]!r}. There are {', '.join(known)}, or `all`.")
    return tuple(v for v in VARIANTS if "all" in names or v.name in names or v.name == "full")


def variant_recipe(variant: Variant, name: str, changes: Sequence[str]) -> Recipe:
    """The recipe of that name, with the user's changes and the variant's. Raises `UserError` as `load_recipe`."""
    return load_recipe(name, [*changes, *variant.changes])


def shortened(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe with fewer passes, and as much shorter a rise of its learning rate."""
    if epochs >= recipe.epochs:
        return recipe
    return replace(recipe, epochs=epochs, warmup_epochs=recipe.warmup_epochs * epochs / recipe.epochs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("ablate", ABLATE)
    add_run_arguments(parser, "folder of the runs and tables (default: data/runs/ablation-<recipe>)")
    parser.add_argument("--variants", default="all", metavar="NAMES", help="with commas between (default: all)")
    add_number(parser, "--epochs", float, 0.01, default=7.0, help="of each run, at most (default: 7)")
    parser.add_argument(
        "--benchmark", metavar="NAMES", help="evaluate on these too; `hmr-skel evaluate --help` lists them"
    )
    add_benchmark_arguments(parser)
    parser.set_defaults(run=run_ablate)
    return run(parser, argv)


def run_ablate(args: argparse.Namespace) -> None:
    """Train, evaluate, print, write."""
    variants = chosen_variants(args.variants)
    recipes = {v.name: shortened(variant_recipe(v, args.recipe, args.set), args.epochs) for v in variants}
    run = new_run(args, args.out or runs_folder() / f"ablation-{args.recipe}")
    rows = SampleDataset(run.dataset, run.images, recipes["full"].samples, split="train", quiet=True)
    opened = None
    if args.benchmark:  # hours before they are needed: what is missing is to show now
        opened = OpenBenchmarks(args.benchmark, args, resolve_device(args.device), rows.gender)
    epochs = recipes["full"].epochs
    if not args.quiet:
        print(f"{len(variants)} runs of {epochs:g} epochs, {len(rows):,} rows each, in {run.out}")
    outcomes = {}
    for number, variant in enumerate(variants, 1):
        if not args.quiet:
            print(f"{number} of {len(variants)}: {variant.name}", flush=True)
        outcomes[variant.name] = _trained(recipes[variant.name], replace(run, out=run.out / variant.name))
    networks = {name: outcome.network for name, outcome in outcomes.items()}
    seconds = {name: outcome.seconds for name, outcome in outcomes.items()}
    report: dict[str, Any] = {**_held_out(run, networks), "epochs": epochs, "seconds": seconds}

    def write() -> tuple[list[SideBySide], str]:
        tables = _tables(args.recipe, recipes["full"], run, variants, report)
        report["tables"] = [table.as_dict() for table in tables]
        return tables, write_tables(run.out, [table.markdown() for table in tables], report)

    tables, files = write()
    if opened is not None:
        loaded = [load_any_network(file) for file in networks.values()]
        for benchmark, one in opened.reports(list(networks.values()), loaded, {}).items():
            for name, stages in zip(networks, one["networks"], strict=True):
                report["variants"][name][benchmark] = stages
        tables, files = write()
    texts = "\n\n".join(table.text() for table in tables)
    show(args, f"\n{texts}\n\nwritten: {files}\ntraining took {sum(seconds.values()):.0f} s", report)


def _trained(recipe: Recipe, run: Run) -> Outcome:
    """Train, or go on; a bar on a terminal, and none of what a single run says of itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        outcome = train(recipe, run)
    if outcome is None:
        raise UserError("ablate trains one run after the other in one process. Start it without torchrun.")
    return outcome


def _held_out(run: Run, networks: Mapping[str, Path]) -> dict[str, Any]:
    """Errors of all variants on the held-out shards, and how much each is worse than `full`, as JSON."""
    device, files = resolve_device(run.device), list(networks.values())
    report, found, sequences = evaluate_on_held_out(
        files, run.dataset, run.images, run.body_models, device, [], quiet=True
    )
    errors = dict(zip(networks, found, strict=True))
    groups, against = groups_of(sequences), {}
    for name, one in errors.items():
        differences = {m: one["final"][m] - errors["full"]["final"][m] for m in MPJPE_PA_PVE}
        ends = intervals(differences, groups)
        against[name] = {m: [values.double().mean().item(), *ends.get(m, ())] for m, values in differences.items()}
    return {
        "dataset": str(run.dataset),
        "rows": len(sequences),
        "recordings": len(set(sequences)),
        "left_out": report["left_out"],
        "variants": {name: {HELD_OUT: one} for name, one in zip(networks, report["networks"], strict=True)},
        "against_full_mm": against,
    }


def _tables(
    name: str, recipe: Recipe, run: Run, variants: Sequence[Variant], report: Mapping[str, Any]
) -> list[SideBySide]:
    """Tables 4 and 5 with our lines."""
    results, depth = report["variants"], recipe.network.decoder.depth
    tables = []
    for table in (TABLE_4, TABLE_5):
        ours, notes = [], []
        for variant in (variant for variant in variants if table.number in variant.lines):
            line = variant.lines[table.number]
            details = (
                "L_skel" if variant.name == "full-super" else "L_refine",
                f"1 x {depth}" if variant.name == "looped" else f"{depth} x 1",
            )
            cells = {benchmark: stages["final"] for benchmark, stages in results[variant.name].items()}
            ours.append(OurLine(line, cells, (str(run.dataset),) if table is TABLE_4 else details))
            if variant.name != "full":
                differences = ", ".join(
                    f"{METRIC_NAMES[metric]} {mean:+.1f}" + (f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else "")
                    for metric, (mean, *ends) in report["against_full_mm"][variant.name].items()
                )
                notes.append(f"{HELD_OUT}, {line} less full, mm [95 %]: {differences}")
        mean = "/".join(f"{results['full'][HELD_OUT]['mean_pose'][metric]:.1f}" for metric in MPJPE_PA_PVE)
        notes.append(
            f"{HELD_OUT}: {report['rows']:,} rows of {report['recordings']:,} recordings of {run.dataset}, another "
            f"data set than the paper's columns; the mean pose has {mean}; recipe {name}, {report['epochs']:g} "
            f"epochs, seed {recipe.seed} alone: intervals are over recordings, not over seeds"
        )
        more = (Column(HELD_OUT, MPJPE_PA_PVE), Column(HELD_OUT, PCK))
        tables.append(SideBySide(table, ours, more, tuple(notes)))
    return tables
