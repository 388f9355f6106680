"""Find the files that a manifest needs, or make them on first use if the manifest says how.

No lock is needed: files appear by rename and are the same from any process.
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
    """Export the open body and generate label files, if the manifest needs them and they are missing.

    Raises `UserError` if they cannot be written.
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
    """The genders of the SMPL models that are always needed; rows may name others. Empty if nothing is fitted."""
    skel_genders: tuple[str, ...]
    open: bool
    """Whether they are files of the open body."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Find the files, without opening them. Raises `UserError` if one that is always needed is missing."""
        best = manifest.skel_gender == "best"
        smpl = sorted({s.smpl_gender or "neutral" for s in manifest.sources if s.format == "camerahmr"})
        genders = tuple(SKEL_FILES) if best else (manifest.skel_gender,)
        files = cls(manifest.body_models.path, tuple(smpl), genders, manifest.body_models.kind == "open")
        if smpl:
            for name in (*(SMPL_FILES[g] for g in smpl), *(SKEL_FILES[g] for g in files.skel_genders), J19_FILE):
                model_path(files.folder, name)
        return files

    def sha256(self, notes: Path) -> str:
        """The hash of all files that a fit may read, by name and content, without the open body's bones, which are only
        drawn. The folder `notes` keeps the hashes of files, see `file_sha256`."""
        names = (*SMPL_FILES.values(), *(SKEL_FILES[gender] for gender in self.skel_genders), J19_FILE)
        files = (self.folder / name for name in names if (self.folder / name).is_file())
        how = (notes / "without_bones", without_bones) if self.open else (notes,)
        found = sorted((path.name, file_sha256(path, *how)) for path in files)
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def without_bones(path: Path) -> str:
    """The sha256 of a model file; for a SKEL file, of its arrays without the bone meshes, which may then change."""
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
    if source.file.is_file() and (
        is_stamp(stamp, wanted) or not stamp.exists()
    ):  # without a stamp, the file is the user's
        return
    from hmr_skel.open_data.labels import make_labels

    if not quiet:
        print(f"generating {rows:,} rows of labels: {source.file}", file=sys.stderr, flush=True)
    with progress_bar(quiet, "row", rows, "labels") as bar:
        make_labels(source.file, rows, seed, models.path, progress=lambda done: bar.update(done - bar.n))
    put_bytes(stamp, json.dumps(wanted).encode())
