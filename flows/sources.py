"""What a manifest needs on disk: found, or, where the manifest says how, made on first use.

The open body is exported and the default labels are generated under a lock-free rule: files appear by rename and are
the same whoever makes them, so that two processes that start at once do the work twice and agree.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import fitting
import hmr_skel
from hmr_skel.data.atomic import replacing
from hmr_skel.data.fingerprint import code_version
from hmr_skel.data.manifest import BodyModels, Manifest, Source
from hmr_skel.errors import UserError

SMPL_FILES = {"neutral": "SMPL_NEUTRAL.pkl", "male": "SMPL_MALE.pkl", "female": "SMPL_FEMALE.pkl"}
SKEL_FILES = {"male": "skel_male.pkl", "female": "skel_female.pkl"}
J19_FILE = "SMPL_to_J19.pkl"

_PACKAGE = Path(hmr_skel.__file__).parent
FIT_CODE = (
    Path(fitting.__file__).parent,
    _PACKAGE / "body",
    _PACKAGE / "data",
    _PACKAGE / "rows.py",
    Path(__file__).with_name("shard.py"),
)
"""The code that determines the rows of a shard."""
_LABEL_CODE = (_PACKAGE / "open_data", _PACKAGE / "body")


def make_missing(manifest: Manifest, *, quiet: bool = False) -> None:
    """Export the open body and generate label files, as far as the manifest asks for it and they are not there.

    Raises `UserError` where they cannot be written.
    """
    if manifest.body_models.kind == "open":
        _export_open_body(manifest.body_models.path, quiet)
    for source in manifest.sources:
        if source.generate is not None:
            _generate_labels(source, manifest.body_models, quiet)


def model_file(models: BodyModels, name: str) -> Path:
    """The file of that name among the body models. Raises `UserError` where it is not there."""
    path = models.path / name
    if not path.is_file():
        found = sorted(p.name for p in models.path.glob("*.*")) if models.path.is_dir() else []
        raise UserError(
            f"no body model {path}. The folder "
            + (f"has {', '.join(found[:12])}. " if found else "does not exist or is empty. ")
            + f"Expected the official file under the name {name}; `hmr-skel doctor` lists them all, and "
            "manifests/open.toml needs none."
        )
    return path


def _export_open_body(directory: Path, quiet: bool) -> None:
    stamp, version = directory / "made-by.json", code_version([_PACKAGE / "body" / "open_body"])
    asset = [[p.name, p.stat().st_size] for p in sorted((_PACKAGE / "body" / "open_body").glob("*.npz"))]
    wanted = {"code": version, "asset": asset}
    names = [*SMPL_FILES.values(), *SKEL_FILES.values(), J19_FILE]
    if _is(stamp, wanted) and all((directory / name).is_file() for name in names):
        return
    from hmr_skel.body.open_body.export import export_body

    _say(f"exporting the open body to {directory}", quiet)
    export_body(directory)
    _write_stamp(stamp, wanted)


def _generate_labels(source: Source, models: BodyModels, quiet: bool) -> None:
    assert source.generate is not None
    wanted = {
        "code": code_version(_LABEL_CODE),
        "kind": source.generate.kind,
        "rows": source.generate.rows,
        "seed": source.generate.seed,
    }
    stamp = source.file.with_name(source.file.name + ".made-by.json")
    if source.file.is_file() and _is(stamp, wanted):
        return
    if source.file.is_file() and not stamp.exists():
        return  # somebody put it there: theirs
    from hmr_skel.open_data.labels import make_labels

    _say(f"generating {source.generate.rows:,} rows of labels: {source.file}", quiet)
    make_labels(source.file, source.generate.rows, source.generate.seed, models.path)
    _write_stamp(stamp, wanted)


def _is(stamp: Path, wanted: dict) -> bool:
    try:
        return json.loads(stamp.read_text()) == wanted
    except (OSError, ValueError):
        return False


def _write_stamp(stamp: Path, content: dict) -> None:
    with replacing(stamp) as temporary:
        temporary.write_text(json.dumps(content))


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def existing(models: BodyModels, names: Iterable[str]) -> list[Path]:
    """Those of the files that are there."""
    return [models.path / name for name in names if (models.path / name).is_file()]
