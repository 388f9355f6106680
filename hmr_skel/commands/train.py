"""`hmr-skel train`: train a network on a dataset."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.arguments import add, add_number, new_command
from hmr_skel.commands.inputs import open_dataset
from hmr_skel.commands.output import show
from hmr_skel.places import runs_folder

if TYPE_CHECKING:
    from hmr_skel.train.loop import Run

TRAIN = """\
Train SKEL-CF on a dataset's shards, except the held-out ones, and their images. The recipe holds all settings; the
manifest names images and body models. The run's folder gets
  network.safetensors   the averaged weights, with the recipe in the header (and in network.json)
  state.pt              the state from which the same command resumes after Ctrl-C, SIGTERM or a crash
  log.jsonl, curves.png, tensorboard/
Examples: hmr-skel train --build --set epochs=2
          torchrun --nproc-per-node 8 -m hmr_skel.cli train --recipe vit_h --vitpose vitpose_backbone.pth"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    train = new_command(commands, "train", "train SKEL-CF on a dataset", TRAIN, run_train, _fields_text)
    add_run_arguments(train, "folder of the run (default: runs/<recipe> in the data folder)")
    train.add_argument("--show", action="store_true", help="print the whole recipe and stop")
    add_number(train, "--checkpoint-every", int, 1, default=500, help="steps")
    add_number(train, "--log-every", int, 1, default=10, help="steps")


def _fields_text() -> str:
    from hmr_skel.train.field_help import recipe_help

    return recipe_help()


def add_run_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments of a training run."""
    add(parser, "recipe", "set", "manifest", "data", "build")
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    parser.add_argument("--fresh", action="store_true", help="start from the beginning, even if the folder has a run")
    text = "vitpose_backbone.pth, from which vit_h starts; or a checkpoint of 4D-Humans, HSMR, CameraHMR"
    parser.add_argument("--vitpose", type=Path, metavar="FILE", help=text)
    add_number(parser, "--workers", int, 0, help="processes per device that load images (default: by the cores)")
    add(parser, "device", "json", "quiet")


def run_train(args: argparse.Namespace) -> None:
    """Train a network, and draw the curves."""
    from hmr_skel.train.recipes import load_recipe, recipe_text

    recipe = load_recipe(args.recipe, args.set)
    if args.show:
        print(recipe_text(recipe))
        return

    from hmr_skel.train.log import plot_log
    from hmr_skel.train.loop import STATE, encoder_file, train

    out = args.out or runs_folder() / recipe.name
    if recipe.pretrained_encoder and (args.fresh or not (out / STATE).exists()):
        encoder_file(recipe, args.vitpose)  # fail before a dataset is built or opened
    run = replace(new_run(args, out), checkpoint_every=args.checkpoint_every, log_every=args.log_every)
    outcome = train(recipe, run)
    if outcome is None:  # another process prints the result
        return
    picture = run.out / "curves.png"
    missing = "no curves.png: it needs matplotlib (make setup EXTRAS=train; without make, pip install matplotlib)"
    curves = f"curves: {picture}" if plot_log(run.out / "log.jsonl", picture) else missing
    show(args, f"{outcome.text()}\n{curves}", asdict(outcome) | {"network": str(outcome.network)})


def new_run(args: argparse.Namespace, out: Path) -> "Run":
    """The run that the arguments describe, in the folder `out`. With --build, its dataset is built first."""
    from hmr_skel.data.images import image_rules
    from hmr_skel.train.loop import Run

    manifest, data = open_dataset(args)
    told = {name: getattr(args, name) for name in ("vitpose", "device", "workers", "fresh", "quiet")}
    return Run(dataset=data, body_models=manifest.body_models.path, images=image_rules(manifest), out=out, **told)
