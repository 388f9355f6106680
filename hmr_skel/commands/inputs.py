"""What commands start from: a dataset and its manifest, body models, a trained network."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.errors import UserError
from hmr_skel.places import data_folder, manifest_file, runs_folder

if TYPE_CHECKING:
    from hmr_skel.data.manifest import Manifest
    from hmr_skel.data.storage import Place


def open_dataset(args: argparse.Namespace) -> tuple["Manifest", "Place"]:
    """The manifest of --manifest, and its dataset: --data, or NAME in the data folder. --build builds it first."""
    from hmr_skel.data.manifest import load_manifest

    manifest = load_manifest(args.manifest)
    data = args.data if args.data is not None else data_folder() / manifest.name
    if args.build:
        build_missing(args.manifest, data, quiet=args.quiet)
    return manifest, data


def build_missing(manifest: str, data: "Place", *, quiet: bool) -> None:
    """Fit the shards of a manifest unless all are there (whoever made them), and render images that it generates."""
    from hmr_skel.commands.build import render_images
    from hmr_skel.data.manifest import load_manifest

    more = ["-q"] if quiet else []
    if not has_all_shards(data):
        command = [sys.executable, "-m", "hmr_skel.cli", "dataset", "--manifest", manifest, "--out", str(data), *more]
        # A process of its own: Prefect and its temporary server stay out of the training's.
        if subprocess.run(command, check=False).returncode:
            raise UserError(f"the dataset {data} could not be built, see above.")
    sources = load_manifest(manifest).sources
    if any(source.generate is not None and source.image_root is not None for source in sources):
        render_images(manifest, quiet=quiet)


def has_all_shards(data: "Place") -> bool:
    """Whether every shard of the dataset in this folder is complete, whoever made it."""
    from hmr_skel.data.shards import find_states

    states = find_states(data).values()
    return bool(states) and all(state.kind == "complete" for state in states)


def manifest_of_shards(path: str | None, name: str) -> "Manifest":
    """The manifest that was given, or the one that the shards name. Raises `UserError` where there is none."""
    from hmr_skel.data.manifest import load_manifest

    usual = manifest_file(f"manifests/{Path(name).name}.toml")  # a name out of a file leads nowhere else
    if path is None and not usual.is_file():
        raise UserError(f"the shards were made by {name!r}, and {usual} is not there. Name it with --manifest FILE.")
    manifest = load_manifest(path or usual)
    if manifest.name != name:
        found = f"{path or usual} is the manifest {manifest.name!r}, but the shards were made by {name!r}"
        raise UserError(f"{found}. Name that one with --manifest FILE.")
    return manifest


def manifest_body_models(path: str) -> Path:
    """The folder of a manifest's body models. The openly licensed ones are made where they are missing."""
    from flows.sources import make_missing
    from hmr_skel.data.manifest import load_manifest

    manifest = load_manifest(path)
    if manifest.body_models.kind == "open":
        make_missing(manifest, quiet=True)
    return manifest.body_models.path


def named_body_models(named: str | None, *, quiet: bool) -> Path:
    """The folder that --body-models or HMR_SKEL_BODY_MODELS names; for `open`, `open_body`. `UserError` without."""
    named = named or os.environ.get("HMR_SKEL_BODY_MODELS")
    if not named:
        raise UserError(
            "no body models: SMPL's and SKEL's licensed files are needed. Name their folder with --body-models DIR or "
            "HMR_SKEL_BODY_MODELS; --body-models open takes the openly licensed body, to try."
        )
    return open_body(quiet=quiet) if named == "open" else Path(named)


def open_body(*, quiet: bool) -> Path:
    """The folder of the openly licensed body, exported there where it is missing."""
    from flows.sources import make_open_body

    folder = data_folder() / "open" / "body_models"
    make_open_body(folder, quiet=quiet)
    return folder


def network_file(path: Path | None) -> Path:
    """The network in a run's folder, or the file itself; for None the one trained last. `UserError` without one."""
    if path is not None:
        return path / "network.safetensors" if path.is_dir() else path
    found = sorted(runs_folder().glob("*/network.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            f"no trained network in {runs_folder()}. Train one first (make train, or hmr-skel train), or name its file."
        )
    return found[-1]
