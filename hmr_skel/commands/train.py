"""`hmr-skel train` and `ablate`: a network from a dataset, and the variants of the paper's ablations."""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmr_skel.commands.arguments import RUNS, add, add_number, new_command
from hmr_skel.commands.evaluate import HELD_OUT, add_benchmark_arguments
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.evaluate.tables import SideBySide
    from hmr_skel.train.loop import Outcome, Run
    from hmr_skel.train.recipes import Recipe, Variant

TRAIN = """\
Train SKEL-CF on a dataset's shards (all but the held-out ones) and their images. The recipe says how, the manifest
where images and body models are. Into the run's folder go
  network.safetensors   the averaged weights, with the recipe in the header (network.json has it too)
  state.pt              what a later run of the same command goes on from: after Ctrl-C, SIGTERM, or a crash
  log.jsonl, curves.png, tensorboard/
Several GPUs: torchrun --nproc-per-node 8 -m hmr_skel.cli train --recipe vit_h --vitpose vitpose_backbone.pth"""

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
Steps are timed first, on the variant that takes longest, and the recipe's epochs are cut so that all runs end within
--minutes (the warm-up in proportion); --set epochs=N asks for N instead, however long it takes. The same command goes
on where it was stopped, with the same epochs. The dataset's images have to be there: make images, or --build."""

_GOES_ON = "the same command goes on from the last state that was saved"
_TRIAL_STEPS, _TRIAL_LOG = 40, 10


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `train` and `ablate`."""
    train = new_command(commands, "train", "train SKEL-CF on a dataset", TRAIN, run_train, _GOES_ON, add_help=False)
    train.add_argument("-h", "--help", action=_HelpWithFields, nargs=0, help="show this, and every field of a recipe")
    _add_run(train, "the run's folder (default: data/runs/<recipe>)")
    train.add_argument("--show", action="store_true", help="print the recipe in full and stop")
    add_number(train, "--checkpoint-every", int, 1, default=500, metavar="N", help="steps (default: %(default)s)")
    add_number(train, "--log-every", int, 1, default=10, metavar="N", help="steps (default: %(default)s)")

    ablate = new_command(
        commands, "ablate", "the paper's ablations (Tables 4 and 5), trained and measured here", ABLATE, run_ablate,
        _GOES_ON,
    )  # fmt: skip
    _add_run(ablate, "folder of the runs and tables (default: data/runs/ablation-<recipe>)")
    ablate.add_argument("--variants", default="all", metavar="NAMES", help="with commas between (default: all)")
    add_number(
        ablate, "--minutes", float, 0, above=True, default=60.0, metavar="M",
        help="that all of it may take (default: %(default)g)",
    )  # fmt: skip
    ablate.add_argument(
        "--benchmark", metavar="NAMES", help="evaluate on these too; `hmr-skel evaluate --help` lists them"
    )
    add_benchmark_arguments(ablate)


class _HelpWithFields(argparse.Action):
    """Reads the recipe's fields only when it is asked for help."""

    def __call__(self, parser, namespace, values, option_string=None):
        from hmr_skel.train.field_help import recipe_help

        parser.epilog = recipe_help()
        parser.print_help()
        parser.exit()


def _add_run(parser: argparse.ArgumentParser, out: str) -> None:
    """What both commands have."""
    add(parser, "recipe", "set", "manifest", "data", "build")
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    parser.add_argument("--fresh", action="store_true", help="start anew, whatever is in that folder")
    parser.add_argument("--vitpose", type=Path, metavar="FILE", help="vitpose_backbone.pth, from which vit_h starts")
    add_number(
        parser, "--workers", int, 0, metavar="N", help="processes that load images for a device (default: by the cores)"
    )
    add(parser, "device", "json", "quiet")


def run_train(args: argparse.Namespace) -> None:
    """Train, and draw the curves."""
    from hmr_skel.train.recipes import load_recipe, recipe_text

    recipe = load_recipe(args.recipe, args.set)
    if args.show:
        print(recipe_text(recipe))
        return

    from hmr_skel.commands.output import show
    from hmr_skel.train.log import plot_log
    from hmr_skel.train.loop import train

    run = replace(_run(args, RUNS / recipe.name), checkpoint_every=args.checkpoint_every, log_every=args.log_every)
    outcome = train(recipe, run)
    if outcome is None:  # another process reports
        return
    plotted = plot_log(run.out / "log.jsonl", run.out / "curves.png")
    curves = (
        f"curves: {run.out / 'curves.png'}"
        if plotted
        else ("no curves.png: matplotlib is not installed (make setup EXTRAS=train)")
    )
    show(args, f"{outcome.text()}\n{curves}", asdict(outcome) | {"network": str(outcome.network)})


def _run(args: argparse.Namespace, out: Path) -> "Run":
    """Where to read and write; the dataset is built first where --build says so."""
    from hmr_skel.commands.inputs import open_dataset
    from hmr_skel.data.images import image_rules
    from hmr_skel.train.loop import Run

    manifest, data = open_dataset(args)
    return Run(
        dataset=data,
        body_models=manifest.body_models.path,
        images=image_rules(manifest),
        out=args.out if args.out is not None else out,
        vitpose=args.vitpose,
        device=args.device,
        workers=args.workers,
        fresh=args.fresh,
        quiet=args.quiet,
    )


def run_ablate(args: argparse.Namespace) -> None:
    """Plan, train, evaluate, print, write."""
    from hmr_skel.commands.evaluate import write_tables
    from hmr_skel.commands.evaluations import OpenBenchmarks
    from hmr_skel.commands.output import show
    from hmr_skel.data.samples import SampleDataset
    from hmr_skel.device import resolve_device
    from hmr_skel.model.checkpoint import load_any_network
    from hmr_skel.train.recipes import chosen_variants, shortened, variant_recipe

    variants = chosen_variants(args.variants)
    recipes = {variant.name: variant_recipe(variant, args.recipe, args.set) for variant in variants}
    run = _run(args, RUNS / f"ablation-{args.recipe}")
    rows = SampleDataset(run.dataset, run.images, recipes["full"].samples, split="train", quiet=True)
    opened = None
    if args.benchmark:  # hours before they are needed: what is missing is to show now
        opened = OpenBenchmarks(args.benchmark, args, resolve_device(args.device), rows.gender)
    plan = _plan(args, run, recipes["full"], len(rows), len(variants))
    if not args.quiet:
        speed = "" if plan["images_per_s"] is None else f" ({plan['images_per_s']:.1f} images/s measured)"
        print(f"{len(variants)} runs of {plan['epochs']:g} epochs, {plan['rows']:,} rows each{speed}, in {run.out}")
    outcomes = {}
    for number, variant in enumerate(variants, 1):
        if not args.quiet:
            print(f"{number} of {len(variants)}: {variant.name}", flush=True)
        recipe = shortened(recipes[variant.name], plan["epochs"])
        outcomes[variant.name] = _trained(recipe, replace(run, out=run.out / variant.name))
    networks = {name: outcome.network for name, outcome in outcomes.items()}
    seconds = {name: outcome.seconds for name, outcome in outcomes.items()}
    report: dict[str, Any] = {**_held_out(run, networks), "plan": plan, "seconds": seconds}

    def write() -> tuple[list["SideBySide"], str]:
        tables = _tables(args.recipe, recipes["full"], run, variants, report)
        report["tables"] = [table.as_dict() for table in tables]
        return tables, write_tables(run.out, [table.markdown() for table in tables], report)

    tables, files = write()
    if opened is not None:
        loaded = [load_any_network(file) for file in networks.values()]
        found, _ = opened.reports(list(networks.values()), loaded, {})
        for benchmark, one in found.items():
            for name, stages in zip(networks, one["networks"], strict=True):
                report["variants"][name][benchmark] = stages
        tables, files = write()
    texts = "\n\n".join(table.text() for table in tables)
    show(args, f"\n{texts}\n\nwritten: {files}\ntraining took {sum(seconds.values()):.0f} s", report)


def _plan(args: argparse.Namespace, run: "Run", recipe: "Recipe", rows: int, runs: int) -> dict[str, Any]:
    """How many epochs each run has: what was planned before in this folder, or what the minutes allow."""
    from hmr_skel.data.atomic import replacing
    from hmr_skel.train.recipes import DEAREST, VARIANTS, affordable_epochs, recipe_dict, variant_recipe

    asked = {"recipe": recipe_dict(recipe), "rows": rows, "runs": runs, "minutes": args.minutes}
    if any(change.partition("=")[0].strip() == "epochs" for change in args.set):
        return asked | {"epochs": recipe.epochs, "images_per_s": None}
    file = run.out / "plan.json"
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        before = json.loads(file.read_text())
        if not args.fresh and {name: before[name] for name in asked} == asked and before["epochs"] > 0:
            return before
    dearest = next(variant for variant in VARIANTS if variant.name == DEAREST)
    trial = variant_recipe(dearest, args.recipe, args.set)
    trial = replace(trial, epochs=_TRIAL_STEPS * trial.batch_size / rows, warmup_epochs=0.0)
    if not args.quiet:
        print(f"timing {_TRIAL_STEPS} steps of {DEAREST}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hmr-skel-ablate-") as folder:
        images_per_s = _trained(trial, replace(run, out=Path(folder), log_every=_TRIAL_LOG)).images_per_s
    epochs = affordable_epochs(recipe, rows, runs, images_per_s, args.minutes)
    plan = asked | {"epochs": epochs, "images_per_s": images_per_s}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(plan, indent=2) + "\n")
    return plan


def _trained(recipe: "Recipe", run: "Run") -> "Outcome":
    """Train, or go on; a bar on a terminal, and none of what a single run says of itself."""
    from hmr_skel.train.loop import train

    with contextlib.redirect_stdout(io.StringIO()):
        outcome = train(recipe, run)
    if outcome is None:
        raise UserError("ablate trains one run after the other in one process. Start it without torchrun.")
    return outcome


def _held_out(run: "Run", networks: Mapping[str, Path]) -> dict[str, Any]:
    """Errors of all variants on the held-out shards, and how much each is worse than `full`, as JSON."""
    from hmr_skel.commands.evaluations import evaluate_on_held_out
    from hmr_skel.device import resolve_device
    from hmr_skel.evaluate.paper import MPJPE_PA_PVE
    from hmr_skel.evaluate.summary import groups_of, intervals

    device, files = resolve_device(run.device), list(networks.values())
    found = evaluate_on_held_out(files, run.dataset, run.images, run.body_models, device, quiet=True)
    errors = dict(zip(networks, found.errors, strict=True))
    groups, against = groups_of(found.sequences), {}
    for name, one in errors.items():
        differences = {m: one["final"][m] - errors["full"]["final"][m] for m in MPJPE_PA_PVE}
        ends = intervals(differences, groups)
        against[name] = {m: [values.double().mean().item(), *ends.get(m, ())] for m, values in differences.items()}
    return {
        "dataset": str(run.dataset),
        "rows": len(found.sequences),
        "recordings": len(set(found.sequences)),
        "left_out": found.report["left_out"],
        "variants": {name: {HELD_OUT: one} for name, one in zip(networks, found.report["networks"], strict=True)},
        "against_full_mm": against,
    }


def _tables(
    name: str, recipe: "Recipe", run: "Run", variants: Sequence["Variant"], report: Mapping[str, Any]
) -> list["SideBySide"]:
    """Tables 4 and 5 with our lines."""
    from hmr_skel.evaluate.paper import MPJPE_PA_PVE, PCK, TABLE_4, TABLE_5, Column
    from hmr_skel.evaluate.summary import METRIC_NAMES
    from hmr_skel.evaluate.tables import OurLine, SideBySide

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
            f"data set than the paper's columns; the mean pose has {mean}; recipe {name}, {report['plan']['epochs']:g} "
            f"epochs, seed {recipe.seed} alone: intervals are over recordings, not over seeds"
        )
        more = (Column(HELD_OUT, MPJPE_PA_PVE), Column(HELD_OUT, PCK))
        tables.append(SideBySide(table, ours, more, tuple(notes)))
    return tables
