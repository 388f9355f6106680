"""A small dataset to do harm to: labels of the default kind, the open body, a few rows a shard."""

from pathlib import Path

import numpy as np

from hmr_skel.data.manifest import Manifest, load_manifest
from hmr_skel.open_data.labels import make_labels

SHARDS, ROWS_PER_SHARD = 4, 6
MANIFEST = """\
name = "{name}"
skel_gender = "male"
rows_per_shard = {rows_per_shard}
held_out_shards = 1

[body_models]
kind = "files"
path = "{body_models}"

[[sources]]
name = "{name}"
format = "camerahmr"
file = "{labels}"
"""
"""Of one source; to be formatted."""


def make_small(
    folder: Path, body_models: Path, *, shards: int = SHARDS, rows_per_shard: int = ROWS_PER_SHARD, seed: int = 0
) -> Path:
    """Write labels and manifest to a folder; returns the manifest. Every second shard has a row to be rejected."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / "labels.npz"
    make_labels(labels, shards * rows_per_shard, seed, body_models)
    with np.load(labels) as file:
        arrays = dict(file)
    arrays["shape"][:: 2 * rows_per_shard, 3] = np.nan
    np.savez(labels, **arrays)
    manifest = folder / "drill.toml"
    manifest.write_text(
        MANIFEST.format(name="drill", rows_per_shard=rows_per_shard, body_models=body_models, labels=labels)
    )
    return manifest


def small_manifest(folder: Path, body_models: Path, **changes: int) -> Manifest:
    """`make_small`, loaded."""
    return load_manifest(make_small(folder, body_models, **changes))
