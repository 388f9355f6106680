"""Find what commands need: a dataset and its manifest, body models, a trained network."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmr_skel.errors import UserError
from hmr_skel.places import data_folder, manifest_file, runs_folder

if TYPE_CHECKING:
    import numpy as np

    from hmr_skel.data.load import Shards
    from hmr_skel.data.manifest import Manifest
    from hmr_skel.data.storage import Place

Picture = Callable[[Mapping[str, Any]], "np.ndarray | str"]
"""The image of a row, RGB [H W 3], or why there is none."""


def open_dataset(args: argparse.Namespace) -> tuple["Manifest", "Place"]:
    """The manifest and its dataset, from --manifest and --data, or the data folder. --build builds it first."""
    from hmr_skel.data.manifest import load_manifest

    manifest = load_manifest(args.manifest)
    data = args.data if args.data is not None else data_folder() / manifest.name
    if args.build:
        build_missing(args.manifest, data, quiet=args.quiet)
    return manifest, data


def build_missing(manifest: str, data: "Place", *, quiet: bool) -> None:
    """Fit the shards of a manifest unless all are complete (from any build), and render images that it generates."""
    from hmr_skel.commands.build import render_images
    from hmr_skel.data.manifest import load_manifest

    if not has_all_shards(data):
        command = [sys.executable, "-m", "hmr_skel.cli", "dataset", "--manifest", manifest, "--out", str(data)]
        # Prefect and its temporary server run in a process of their own, not in the training's.
        if subprocess.run(command + ["-q"] * quiet, check=False).returncode:
            raise UserError(f"the dataset {data} could not be built. The messages above say why.")
    sources = load_manifest(manifest).sources
    if any(source.generate is not None and source.image_root is not None for source in sources):
        render_images(manifest, quiet=quiet)


def has_all_shards(data: "Place") -> bool:
    """Whether every shard of the dataset in this folder is complete, from any build."""
    from hmr_skel.data.shards import find_states

    states = find_states(data).values()
    return bool(states) and all(state.kind == "complete" for state in states)


def manifest_of_shards(path: str | None, name: str) -> "Manifest":
    """The given manifest, or the one that the shards name. Raises `UserError` if it is not there."""
    from hmr_skel.data.manifest import load_manifest

    usual = manifest_file(f"manifests/{Path(name).name}.toml")  # a name from a file must not lead to another folder
    if path is None and not usual.is_file():
        raise UserError(f"the shards were made by {name!r}, and {usual} is not there. Name it with --manifest FILE.")
    manifest = load_manifest(path or usual)
    if manifest.name != name:
        found = f"{path or usual} is the manifest {manifest.name!r}, but the shards were made by {name!r}"
        raise UserError(f"{found}. Name that one with --manifest FILE.")
    return manifest


def manifest_body_models(manifest: "Manifest") -> Path:
    """The folder of a manifest's body models. Missing files of the open body are made."""
    from hmr_skel.body.open_body.export import make_open_body

    if manifest.body_models.kind == "open":
        make_open_body(manifest.body_models.path, quiet=True)
    return manifest.body_models.path


def models_and_images(args: argparse.Namespace, table: "Shards") -> tuple[Path, Picture]:
    """The folder of the rows' body models, and a function that finds the image of a row.

    For a dataset, its manifest says both (--manifest, or the one that the shards name). A table of `convert` or
    `predict` says whether it is of the open body. --body-models overrides both.
    """
    from hmr_skel.data.images import ImageRule, image_rules
    from hmr_skel.data.storage import open_parquet
    from hmr_skel.report.gather import manifest_name
    from hmr_skel.report.pictures import image_of

    if "row_id" in table.columns:
        manifest = manifest_of_shards(args.manifest, manifest_name(table.paths[0], args.dataset))
        rules = image_rules(manifest)
        named = args.body_models and named_body_models(args.body_models, quiet=True)
        return named or manifest_body_models(manifest), lambda row: image_of(row, rules.get(row["source"]))
    here = ImageRule(Path.cwd())  # a table from elsewhere must not open other pictures
    with open_parquet(table.paths[0]) as file:
        body = (file.schema_arrow.metadata or {}).get(b"hmr_skel.body")
    named = args.body_models
    if named is None and (body == b"open" or (body is None and not os.environ.get("HMR_SKEL_BODY_MODELS"))):
        named = "open"
        if body is None:
            print(f"note: {table.paths[0]} does not say which body it is of; using the open body", file=sys.stderr)
    return named_body_models(named, quiet=True), lambda row: image_of(row, here, as_stored=False)


def named_body_models(named: str | None, *, quiet: bool) -> Path:
    """The folder that --body-models or HMR_SKEL_BODY_MODELS names, see `models_folder`; else raises `UserError`."""
    named = named or os.environ.get("HMR_SKEL_BODY_MODELS")
    if not named:
        raise UserError(
            "no body models. Name the folder of the licensed SMPL and SKEL files with --body-models DIR or "
            "HMR_SKEL_BODY_MODELS, or try the open body with --body-models open."
        )
    from hmr_skel.body.open_body.export import models_folder

    return models_folder(named, quiet=quiet)


def network_file(path: Path | None) -> Path:
    """The network in a run's folder, or the file itself; None: the newest. Raises `UserError` if there is none."""
    if path is not None:
        file = path / "network.safetensors" if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"{file}: no such file. Train a network first (hmr-skel train), or name another file.")
        return file
    found = sorted(runs_folder().glob("*/network.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            f"no trained network in {runs_folder()}. Train one first (make train, or hmr-skel train), or name its file."
        )
    return found[-1]
