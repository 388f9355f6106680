"""What a manifest needs on disk: found, or, where the manifest says how, made on first use.

The open body is exported and the default labels are generated without locks: files appear by rename and are
the same whoever makes them. Two processes that start at once do the work twice and agree.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, load_skel_arrays, model_path
from hmr_skel.body.open_body.export import is_stamp, make_open_body, open_body_version
from hmr_skel.data.manifest import BodyModels, Manifest, Source
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.storage import put_bytes
from hmr_skel.open_data import LABELS_VERSION
from hmr_skel.progress import progress_bar

J19_FILE = "SMPL_to_J19.pkl"


def make_missing(manifest: Manifest, *, quiet: bool = False) -> None:
    """Export the open body and generate label files, as far as the manifest asks for it and they are not there.

    Raises `UserError` where they cannot be written.
    """
    if manifest.body_models.kind == "open":
        make_open_body(manifest.body_models.path, quiet=quiet)
    for source in manifest.sources:
        if source.generate is not None:
            _generate_labels(source, manifest.body_models, quiet)


@dataclass(frozen=True)
class ModelFiles:
    """The body model files that a manifest's fits read."""

    folder: Path
    smpl_genders: tuple[str, ...]
    """Of the SMPL models that are needed for sure; rows may name others. Empty where nothing is to be fitted."""
    skel_genders: tuple[str, ...]
    open: bool
    """Whether they are the open body's."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Raises `UserError` where a model that is needed for sure is not there. Opens none."""
        best = manifest.skel_gender == "best"
        smpl = sorted({s.smpl_gender or "neutral" for s in manifest.sources if s.format == "camerahmr"})
        genders = tuple(SKEL_FILES) if best else (manifest.skel_gender,)
        files = cls(manifest.body_models.path, tuple(smpl), genders, manifest.body_models.kind == "open")
        if smpl:
            for name in (*(SMPL_FILES[g] for g in smpl), *(SKEL_FILES[g] for g in files.skel_genders), J19_FILE):
                model_path(files.folder, name)
        return files

    def sha256(self, notes: Path) -> str:
        """Of all files that a fit may read, by name and content; of the open body without its bones, which are only
        drawn. `notes` is a folder to remember it in, see `file_sha256`."""
        names = (*SMPL_FILES.values(), *(SKEL_FILES[gender] for gender in self.skel_genders), J19_FILE)
        files = (self.folder / name for name in names if (self.folder / name).is_file())
        how = (notes / "without_bones", without_bones) if self.open else (notes,)
        found = sorted((path.name, file_sha256(path, *how)) for path in files)
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def without_bones(path: Path) -> str:
    """sha256 hex of a model file; of a SKEL file's arrays but for the bone meshes, so that these may be mended."""
    if path.name not in SKEL_FILES.values():
        return file_sha256(path)
    found = hashlib.sha256()
    for name, array in load_skel_arrays(path).items():
        if not name.startswith("skel_"):
            found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def _generate_labels(source: Source, models: BodyModels, quiet: bool) -> None:
    assert source.generate is not None
    kind, rows, seed = source.generate.kind, source.generate.rows, source.generate.seed
    body = open_body_version() if models.kind == "open" else None
    wanted = {"version": LABELS_VERSION, "body": body, "kind": kind, "rows": rows, "seed": seed}
    stamp = source.file.with_name(source.file.name + ".made-by.json")
    if source.file.is_file() and (is_stamp(stamp, wanted) or not stamp.exists()):  # without a stamp not of our making
        return
    from hmr_skel.open_data.labels import make_labels

    if not quiet:
        print(f"generating {rows:,} rows of labels: {source.file}", file=sys.stderr, flush=True)
    with progress_bar(quiet, "row", rows, "labels") as bar:
        make_labels(source.file, rows, seed, models.path, progress=lambda done: bar.update(done - bar.n))
    put_bytes(stamp, json.dumps(wanted).encode())
