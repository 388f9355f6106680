"""A small dataset that the commands built: manifests/open.toml with few rows, with images, and with a row rejected."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmr_skel.cli import main

ROOT = Path(__file__).parents[1]
SHARDS, ROWS_PER_SHARD, HELD_OUT = 3, 16, 1
ROWS = SHARDS * ROWS_PER_SHARD
BAD_ROW = 20
"""In shard 1: one of its betas is infinite."""


@dataclass(frozen=True)
class BuiltDataset:
    """Where it is. Read only: all tests of a run share it."""

    root: Path
    """Like the repository's root after `make dataset` and `make images`: manifests/open.toml, data/open."""

    @property
    def manifest(self) -> Path:
        return self.root / "manifests" / "open.toml"

    @property
    def data(self) -> Path:
        """The dataset's folder, with labels.npz, images/ and body_models/ in it."""
        return self.root / "data" / "open"


def build_dataset(root: Path, body_models: Path) -> BuiltDataset:
    """Type what a user types: `images` (which makes the labels), then `fit` for each shard."""
    built = BuiltDataset(root)
    built.manifest.parent.mkdir(parents=True)
    built.data.mkdir(parents=True)
    (built.data / "body_models").symlink_to(body_models)
    text = (ROOT / "manifests" / "open.toml").read_text()
    for before, after in (
        ("${HMR_SKEL_DATA}", f"{root}/data"),
        ("rows = 6144", f"rows = {ROWS}"),
        ("rows_per_shard = 512", f"rows_per_shard = {ROWS_PER_SHARD}"),
        ("held_out_shards = 2", f"held_out_shards = {HELD_OUT}"),
    ):
        assert before in text
        text = text.replace(before, after)
    built.manifest.write_text(text)
    manifest = ["-q", "--manifest", str(built.manifest)]
    assert main(["images", "--workers", "1", *manifest]) == 0
    _spoil(built.data / "labels.npz")
    for shard in range(SHARDS):
        command = ["fit", "--shard", str(shard), "--out", str(built.data), "--device", "cpu", *manifest]
        assert main(command) == 0
    return built


def _spoil(labels: Path) -> None:
    with np.load(labels) as file:
        arrays = dict(file)
    arrays["shape"][BAD_ROW, 4] = np.inf
    np.savez(labels, **arrays)
