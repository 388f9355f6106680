"""`hmr-skel ablate`: the paper's Tables 4 and 5, trained and measured here in one command."""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.commands.build_missing import build_missing
from hmr_skel.commands.evaluate import HELD_OUT, add_benchmark_arguments
from hmr_skel.commands.places import place
from hmr_skel.commands.train import RUNS
from hmr_skel.errors import UserError

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

_TRIAL_STEPS, _TRIAL_LOG = 40, 10


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `ablate`."""
    ablate = commands.add_parser(
        "ablate",
        help="the paper's ablations (Tables 4 and 5), trained and measured here",
        description=ABLATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ablate.add_argument("--recipe", default="tiny", metavar="NAME", help="tiny, vit_b or vit_h (default: %(default)s)")
    ablate.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field, see `hmr-skel train -h`"
    )
    ablate.add_argument("--variants", default="all", metavar="NAMES", help="with commas between (default: all)")
    ablate.add_argument(
        "--minutes", type=float, default=60.0, metavar="M", help="that all of it may take (default: %(default)g)"
    )
    ablate.add_argument(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="images, body models (default: %(default)s)"
    )
    ablate.add_argument("--data", type=place, metavar="DIR", help="the dataset (default: data/<manifest name>)")
    ablate.add_argument("--build", action="store_true", help="build the dataset and render its images where missing")
    ablate.add_argument(
        "--out", type=Path, metavar="DIR", help="runs and tables (default: data/runs/ablation-<recipe>)"
    )
    ablate.add_argument("--fresh", action="store_true", help="begin anew, whatever is in that folder")
    ablate.add_argument("--vitpose", type=Path, metavar="FILE", help="vitpose_backbone.pth, from which vit_h starts")
    ablate.add_argument("--benchmark", metavar="NAMES", help="evaluate on these too, see `hmr-skel evaluate -h`")
    ablate.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    ablate.add_argument("--workers", type=int, metavar="N", help="loader processes (default: by the cores)")
    ablate.add_argument("--json", action="store_true", help="print the tables as one JSON object, the last line")
    ablate.add_argument("-q", "--quiet", action="store_true", help="no progress, no tables")
    add_benchmark_arguments(ablate)
    ablate.set_defaults(run=run_ablate, interrupted="the same command goes on from the last state that was saved")


def run_ablate(args: argparse.Namespace) -> None:
    """Plan, train, evaluate, print, write."""
    from hmr_skel.data.images import image_rules
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.data.samples import SampleDataset
    from hmr_skel.device import resolve_device
    from hmr_skel.train.loop import Run
    from hmr_skel.train.recipes import chosen_variants, shortened, variant_recipe

    if not args.minutes > 0:
        raise UserError(f"--minutes {args.minutes:g}: expected more than 0.")
    variants = chosen_variants(args.variants)
    recipes = {variant.name: variant_recipe(variant, args.recipe, args.set) for variant in variants}
    manifest = load_manifest(args.manifest)
    data = args.data if args.data is not None else Path("data") / manifest.name
    if args.build:
        build_missing(args.manifest, data, quiet=args.quiet)
    out = args.out if args.out is not None else RUNS / f"ablation-{args.recipe}"
    run = Run(
        dataset=data,
        body_models=manifest.body_models.path,
        images=image_rules(manifest),
        out=out,
        vitpose=args.vitpose,
        device=args.device,
        workers=args.workers,
        fresh=args.fresh,
        quiet=args.quiet,
    )
    rows = SampleDataset(data, run.images, recipes["full"].samples, split="train", quiet=True)
    opened = None
    if args.benchmark:  # hours before they are needed: what is missing is to show now
        from hmr_skel.commands.evaluate_benchmarks import open_benchmarks

        opened = open_benchmarks(args.benchmark, args, resolve_device(args.device), rows.gender)
    plan = _plan(args, run, recipes["full"], len(rows), len(variants))
    if not args.quiet:
        speed = "" if plan["images_per_s"] is None else f" ({plan['images_per_s']:.1f} images/s measured)"
        print(f"{len(variants)} runs of {plan['epochs']:g} epochs, {plan['rows']:,} rows each{speed}, in {out}")
    outcomes = {}
    for number, variant in enumerate(variants, 1):
        if not args.quiet:
            print(f"{number} of {len(variants)}: {variant.name}", flush=True)
        outcomes[variant.name] = _trained(
            shortened(recipes[variant.name], plan["epochs"]), replace(run, out=out / variant.name)
        )
    networks = {name: outcome.network for name, outcome in outcomes.items()}
    report = _held_out(args, run, networks) | {
        "plan": plan,
        "seconds": {name: outcome.seconds for name, outcome in outcomes.items()},
    }
    tables = _tables(args, run, variants, report)
    _write(out, report, tables)
    if opened is not None:
        _add_benchmarks(args, opened, networks, report)
        tables = _tables(args, run, variants, report)
        _write(out, report, tables)
    if not args.quiet:
        print("\n" + "\n\n".join(table.text() for table in tables))
        print(f"\nwritten: {out / 'tables.md'}, {out / 'report.json'}")
        print(f"training took {sum(report['seconds'].values()):.0f} s")
    if args.json:
        print(json.dumps(report))


def _write(out: Path, report: dict[str, Any], tables: list) -> None:
    from hmr_skel.data.atomic import replacing

    report["tables"] = [table.as_dict() for table in tables]
    with replacing(out / "tables.md") as temporary:
        temporary.write_text("\n\n".join(table.markdown() for table in tables) + "\n")
    with replacing(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def _plan(args: argparse.Namespace, run, recipe, rows: int, runs: int) -> dict[str, Any]:
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
        outcome = _trained(trial, replace(run, out=Path(folder), log_every=_TRIAL_LOG))
    epochs = affordable_epochs(recipe, rows, runs, outcome.images_per_s, args.minutes)
    plan = asked | {"epochs": epochs, "images_per_s": outcome.images_per_s}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(plan, indent=2) + "\n")
    return plan


def _trained(recipe, run):
    """Train, or go on; a bar on a terminal, and none of what a single run says of itself."""
    from hmr_skel.train.loop import train

    with contextlib.redirect_stdout(io.StringIO()):
        outcome = train(recipe, run)
    if outcome is None:
        raise UserError("ablate trains one run after the other in one process. Start it without torchrun.")
    return outcome


def _held_out(args: argparse.Namespace, run, networks: Mapping[str, Path]) -> dict[str, Any]:
    """Errors of all variants on the held-out shards, as JSON."""
    from hmr_skel.device import resolve_device
    from hmr_skel.evaluate.held_out import HeldOut, evaluate_held_out, held_out_sequences, mean_body, summaries
    from hmr_skel.evaluate.paper import MPJPE_PA_PVE
    from hmr_skel.evaluate.summary import groups_of, intervals
    from hmr_skel.model.checkpoint import load_network

    device = resolve_device(args.device)
    held_out = HeldOut.open(run.dataset, run.images, run.body_models, device, quiet=True)
    loaded = [load_network(file, skel_gender=held_out.dataset.gender)[0].to(device) for file in networks.values()]
    found, left_out = evaluate_held_out(loaded, mean_body(run.dataset), held_out)
    errors = dict(zip(networks, found, strict=True))
    _, sequences = held_out_sequences(found[0], held_out)
    groups = groups_of(sequences)
    against = {}
    for name, one in errors.items():
        differences = {m: one["final"][m] - errors["full"]["final"][m] for m in MPJPE_PA_PVE}
        ends = intervals(differences, groups)
        against[name] = {m: [values.double().mean().item(), *ends.get(m, ())] for m, values in differences.items()}
    return {
        "dataset": str(run.dataset),
        "rows": len(sequences),
        "recordings": len(set(sequences)),
        "left_out": left_out,
        "variants": {name: {HELD_OUT: summaries(one, held_out)} for name, one in errors.items()},
        "against_full_mm": against,
    }


def _add_benchmarks(args: argparse.Namespace, opened, networks: Mapping[str, Path], report: dict[str, Any]) -> None:
    """Errors of all variants on benchmarks, into the report."""
    from hmr_skel.commands.evaluate_benchmarks import benchmark_reports
    from hmr_skel.device import resolve_device
    from hmr_skel.model.checkpoint import load_network

    loaded = [load_network(file) for file in networks.values()]
    found, _ = benchmark_reports(opened, list(networks.values()), loaded, {}, args, resolve_device(args.device))
    for benchmark, one in found.items():
        for name, stages in zip(networks, one["networks"], strict=True):
            report["variants"][name][benchmark] = stages


def _tables(args: argparse.Namespace, run, variants, report: Mapping[str, Any]) -> list:
    """The two tables of a report."""
    from hmr_skel.evaluate.paper import MPJPE_PA_PVE, PCK, TABLE_4, TABLE_5, Column
    from hmr_skel.evaluate.tables import OurLine, SideBySide
    from hmr_skel.train.recipes import variant_recipe

    results = report["variants"]
    more = (Column(HELD_OUT, MPJPE_PA_PVE), Column(HELD_OUT, PCK))
    recipe = variant_recipe(variants[0], args.recipe, args.set)
    tables = []
    for table in (TABLE_4, TABLE_5):
        ours, notes = [], []
        for variant in variants:
            line = variant.lines.get(table.number)
            if line is None:
                continue
            cells = {benchmark: stages["final"] for benchmark, stages in results[variant.name].items()}
            ours.append(OurLine(line, cells, _details(table.number, variant.name, run, recipe)))
            if variant.name != "full":
                differences = _differences(report["against_full_mm"][variant.name])
                notes.append(f"{HELD_OUT}, {line} less full, mm [95 %]: {differences}")
        mean = "/".join(f"{results['full'][HELD_OUT]['mean_pose'][metric]:.1f}" for metric in MPJPE_PA_PVE)
        notes.append(
            f"{HELD_OUT}: {report['rows']:,} rows of {report['recordings']:,} recordings of {run.dataset}, another "
            f"data set than the paper's columns; the mean pose has {mean}; recipe {args.recipe}, "
            f"{report['plan']['epochs']:g} epochs, seed {recipe.seed} alone: intervals are over recordings, not over "
            "seeds"
        )
        tables.append(SideBySide(table, ours, more, tuple(notes)))
    return tables


def _details(table: str, variant: str, run, recipe) -> tuple[str, ...]:
    """What the paper's tables say of a line beside its name, for ours."""
    if table == "4":
        return (str(run.dataset),)
    depth = recipe.network.decoder.depth
    loss = "L_skel" if variant == "full-super" else "L_refine"
    return loss, f"1 x {depth}" if variant == "looped" else f"{depth} x 1"


def _differences(found: Mapping[str, list[float]]) -> str:
    from hmr_skel.evaluate.summary import METRIC_NAMES

    return ", ".join(
        f"{METRIC_NAMES[metric]} {mean:+.1f}" + (f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else "")
        for metric, (mean, *ends) in found.items()
    )
