"""A dataset for those who have none yet: what `make train` and `make evaluate` begin with."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.data.storage import Place


def build_missing(manifest: str, data: "Place", *, quiet: bool) -> None:
    """Fit the shards of a manifest unless all are there (whoever made them), and render images that it generates."""
    from hmr_skel.commands.images import default_workers, run_images
    from hmr_skel.data.manifest import load_manifest

    more = ["-q"] if quiet else []
    if not has_all_shards(data):
        command = [sys.executable, "-m", "hmr_skel.cli", "dataset", "--manifest", manifest, "--out", str(data), *more]
        # A process of its own: Prefect and its temporary server stay out of the training's.
        if subprocess.run(command, check=False).returncode:
            raise UserError(f"the dataset {data} could not be built, see above.")
    loaded = load_manifest(manifest)
    generated = [source for source in loaded.sources if source.generate is not None]
    if not all(has_all_images(source.file, source.image_root) for source in generated):
        run_images(argparse.Namespace(manifest=manifest, workers=default_workers(), quiet=quiet))


def has_all_shards(data: "Place") -> bool:
    """Whether every shard of the dataset in this folder has been finished."""
    metas = sorted((data / "meta").glob("shard-*.json"))
    try:
        return bool(metas) and len(metas) == json.loads(metas[0].read_text())["shards"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def has_all_images(labels: Path, image_root: Path | None) -> bool:
    """Whether there is a picture for every row of a generated label file."""
    from hmr_skel.open_data.images import read_labels

    if image_root is None:
        return True
    if not labels.is_file():
        return False
    return all((image_root / str(name)).is_file() for name in read_labels(labels)["imgname"])
