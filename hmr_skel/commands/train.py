"""`hmr-skel train`: a dataset to a network."""

import argparse
import json
from pathlib import Path

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.commands.build_missing import build_missing
from hmr_skel.commands.places import place
from hmr_skel.errors import UserError

RUNS = Path("data/runs")
"""Where runs go, each in a folder named for its recipe."""

TRAIN = """\
Train SKEL-CF on a dataset's shards (all but the held-out ones) and their images. The recipe says how, the manifest
where images and body models are. Into the run's folder go
  network.safetensors   the averaged weights, with the recipe in the header (network.json has it too)
  state.pt              what a later run of the same command goes on from: after Ctrl-C, SIGTERM, or a crash
  log.jsonl, curves.png, tensorboard/
Several GPUs: torchrun --nproc-per-node 8 -m hmr_skel.cli train --recipe vit_h --vitpose vitpose_backbone.pth"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `train`."""
    train = commands.add_parser(
        "train",
        help="train SKEL-CF on a dataset",
        description=TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    train.add_argument("-h", "--help", action=_HelpWithFields, nargs=0, help="show this, and every field of a recipe")
    train.add_argument("--recipe", default="tiny", metavar="NAME", help="tiny, vit_b or vit_h (default: %(default)s)")
    train.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe, see below"
    )
    train.add_argument("--show", action="store_true", help="print the recipe in full and stop")
    train.add_argument(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="images, body models (default: %(default)s)"
    )
    train.add_argument("--data", type=place, metavar="DIR", help="the dataset (default: data/<manifest name>)")
    train.add_argument("--build", action="store_true", help="build the dataset and render its images where missing")
    train.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: data/runs/<recipe>)")
    train.add_argument("--fresh", action="store_true", help="begin anew, whatever is in that folder")
    train.add_argument("--vitpose", type=Path, metavar="FILE", help="vitpose_backbone.pth, from which vit_h starts")
    train.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    train.add_argument("--workers", type=int, metavar="N", help="loader processes a device (default: by the cores)")
    train.add_argument("--checkpoint-every", type=int, default=500, metavar="N", help="steps (default: %(default)s)")
    train.add_argument("--log-every", type=int, default=10, metavar="N", help="steps (default: %(default)s)")
    train.add_argument("--json", action="store_true", help="print the outcome as one JSON object, the last line")
    train.add_argument("-q", "--quiet", action="store_true", help="no progress, no report but errors")
    train.set_defaults(run=run_train, interrupted="the same command goes on from the last state that was saved")


class _HelpWithFields(argparse.Action):
    """Reads the recipe's fields only when it is asked for help."""

    def __call__(self, parser, namespace, values, option_string=None):
        from hmr_skel.train.field_help import recipe_help

        parser.epilog = recipe_help()
        parser.print_help()
        parser.exit()


def run_train(args: argparse.Namespace) -> None:
    """Train, and draw the curves."""
    from dataclasses import asdict

    from hmr_skel.train.recipes import load_recipe, recipe_text

    recipe = load_recipe(args.recipe, args.set)
    if args.show:
        print(recipe_text(recipe))
        return
    for name, least in (("workers", 0), ("checkpoint_every", 1), ("log_every", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {least}.")

    from hmr_skel.data.images import image_rules
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.train.log import plot_log
    from hmr_skel.train.loop import Run, train

    manifest = load_manifest(args.manifest)
    data = args.data if args.data is not None else Path("data") / manifest.name
    if args.build:
        build_missing(args.manifest, data, quiet=args.quiet)
    out = args.out if args.out is not None else RUNS / recipe.name
    run = Run(
        dataset=data,
        body_models=manifest.body_models.path,
        images=image_rules(manifest),
        out=out,
        vitpose=args.vitpose,
        device=args.device,
        workers=args.workers,
        checkpoint_every=args.checkpoint_every,
        log_every=args.log_every,
        fresh=args.fresh,
        quiet=args.quiet,
    )
    outcome = train(recipe, run)
    if outcome is None:  # another process reports
        return
    plotted = plot_log(out / "log.jsonl", out / "curves.png")
    if not args.quiet:
        print(outcome.text())
        if plotted:
            print(f"curves: {out / 'curves.png'}")
        else:
            print("no curves.png: matplotlib is not installed (make setup EXTRAS=train)")
    if args.json:
        print(json.dumps(asdict(outcome) | {"network": str(outcome.network)}))
