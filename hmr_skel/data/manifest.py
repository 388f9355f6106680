"""Read and check a manifest, which names the sources, body models, recipe and rows per shard of a dataset.

Each field of the classes says which values it takes. Every error names the file and the key and says what was expected.
Relative paths are relative to the working directory. In paths, `${NAME}` and `${NAME:-default}` are replaced by
environment variables; HMR_SKEL_DATA always has a value (`hmr_skel.places.data_folder`). If `manifests/NAME.toml` is
missing, it means the manifest of that name in the package.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hmr_skel.errors import UserError
from hmr_skel.places import DATA_VARIABLE, data_folder, manifest_file, packaged

CAMERAHMR = "camerahmr"
HSMR = "hsmr"

_BOX = {"center": ("center",), "scale": ("scale",), "cam_int": ("cam_int",)}
FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # CameraHMR's label files, with SMPL to be fitted.
    CAMERAHMR: _BOX
    | {
        "imgname": ("imgname",),
        "cam_ext": ("cam_ext",),
        "keypoints_2d": ("gtkps",),
        "keypoints_3d": ("keypoints3d",),
        "smpl_pose": ("pose_cam", "pose"),
        "smpl_betas": ("shape",),
        "smpl_transl": ("trans_cam",),
        "smpl_gender": ("gender",),
    },
    # HSMR's records as arrays, and SKEL-CF's `*-release-skel.npz`, with SKEL, which stays as it is.
    HSMR: _BOX
    | {
        "imgname": ("imgname", "__key__"),
        "keypoints_2d": ("gtkps", "keypoints_2d"),
        "keypoints_3d": ("keypoints3d", "keypoints_3d"),
        "skel_q": ("skel_poses", "orig_poses"),
        "skel_betas": ("skel_betas", "orig_betas"),
        "skel_transl": ("skel_trans",),
    },
}
"""For each format, our columns and their keys in a label file, of which the first present one counts."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    CAMERAHMR: ("imgname", "center", "scale", "cam_int", "smpl_pose", "smpl_betas", "smpl_transl"),
    HSMR: ("imgname", "center", "scale", "skel_q", "skel_betas"),
}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
MAX_SHARDS = 100_000
MAX_NUM_BETAS = 400  # SMPL's own releases have at most 300

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"is {value!r}. Expected a name of letters, digits, - and _, such as coco.")
    return value


def _path(value: Any) -> Any:
    """A path with its variables replaced; pydantic checks values that are not strings."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError("is empty. Expected a path.")
    if "://" in value:  # not repeated, since it may contain a password
        raise ValueError(
            "is a URI. Files in a manifest must be on this machine: copy it to a folder here (aws s3 cp), and "
            "give its path. Only a dataset itself may be in a store (--out)."
        )

    def replaced(match: re.Match) -> str:
        found = os.environ.get(match[1]) or match[2]  # as in a shell, `:-` also replaces an empty variable
        if found is None and match[1] == DATA_VARIABLE:
            return str(data_folder())
        if found is None:
            raise ValueError(
                f"is {value!r}, but the environment variable {match[1]} is not set. "
                f"Set it (export {match[1]}=/some/folder) or write the path into the manifest."
            )
        return found

    return Path(_VARIABLE.sub(replaced, value)).expanduser()


def _replacement(pair: tuple[str, str]) -> tuple[str, str]:
    try:  # compile both, so that a bad rule fails here and not at row two million
        re.sub(*pair, "")
    except (re.error, LookupError) as error:
        raise ValueError(f"is {pair}. Expected a regular expression and its replacement: {error}.") from None
    return pair


_Name = Annotated[str, AfterValidator(_name)]
_Path = Annotated[Path, BeforeValidator(_path)]
_Text = Annotated[str, Field(min_length=1)]
_Replacement = Annotated[tuple[str, str], AfterValidator(_replacement)]
_Keys = Annotated[tuple[_Text, ...], BeforeValidator(lambda keys: (keys,) if isinstance(keys, str) else keys)]
_Gender = Literal["male", "female"]
_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class BodyModels:
    """The place of the model files."""

    kind: Literal["open", "files"]
    """`open`: the open body, exported to `path` on first use. `files`: the user's own files."""
    path: _Path


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Generate:
    """How to make a source's label file if it is missing."""

    kind: Literal["open"]
    """`open`: the synthetic default set."""
    rows: Annotated[int, Field(strict=True, ge=1, le=10**9)]
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = 0


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Source:
    """One label file and how to read it."""

    name: _Name
    """Appears in every row and in `row_id`."""
    format: Literal["camerahmr", "hsmr"]
    """`camerahmr` (SMPL, to be fitted) or `hsmr` (SKEL, passed through)."""
    file: _Path
    description: str = ""
    image_root: _Path | None = None
    """The folder of the images; see `hmr_skel.data.images`."""
    image_path: tuple[_Replacement, ...] = ()
    """Pairs (regular expression, replacement), applied to imgname in order: the path below `image_root`."""
    smpl_gender: Literal["neutral", "male", "female"] | None = None
    """The gender of all rows. By default the file's gender per row if it has one, else neutral."""
    skel_gender: _Gender = "male"
    """The gender of rows annotated with SKEL. HSMR and SKEL-CF have only male."""
    frame: Literal["camera"] = "camera"
    """The frame of poses and translations: x right, y down, z forward. No other is supported."""
    scale_unit: Literal["200px", "px"] = "200px"
    """`200px`: scale * 200 is the box in pixels. `px`: scale is the box in pixels already."""
    num_betas: Annotated[int, Field(strict=True, ge=10, le=MAX_NUM_BETAS)] = 10
    """The most betas that a row of the file may have. Only the first ten are used."""
    allow_pickle: StrictBool = False
    """Read arrays of Python objects (names) by an allow-list of plain types, which some releases need."""
    rows: Annotated[int | None, Field(strict=True, ge=1, le=10**10)] = None
    """Expected number of rows."""
    sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$")] = None
    """Expected hash of the file."""
    exclude: tuple[str, ...] = ()
    """Names, without folder and extension, of images known to be corrupt. Their rows are rejected."""
    fields: Mapping[str, _Keys] = field(default_factory=dict)
    """The keys in the file for every column of the format; without keys, the column is not read."""
    generate: Generate | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Manifest:
    """The settings of a dataset. The same manifest makes the same shards on any machine."""

    name: _Name
    skel_gender: Literal["male", "female", "best"]
    """`male`, `female`, or `best`: for each row the gender that fits better."""
    rows_per_shard: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    """A shard is read, fitted and written in one piece: a million rows take 2 GB of memory."""
    sources: tuple[Source, ...]
    body_models: BodyModels
    description: str = ""
    held_out_shards: Annotated[int, Field(strict=True, ge=0, le=MAX_SHARDS)] = 0
    """The number of last shards, which are for evaluation and not for training."""
    recipe: str = "default"
    """The name of the fit recipe; in a file also `published`, see `parse_manifest`."""
    file: str = ""
    """The name of the manifest's file, without folder, which distinguishes manifests of the same name."""

    @property
    def sha256(self) -> str:
        """The hash of everything here that determines the rows of the shards.

        It does not include places, since moved data must not be fitted again (the fingerprint has the content of files
        and models), descriptions, and expected rows and hashes. A new field of `Source`, or another spelling in
        `FIELDS`, changes it, and then every shard is fitted again.
        """
        content = asdict(self)
        del content["description"], content["body_models"], content["file"]
        for source in content["sources"]:
            for key in ("description", "file", "image_root", "image_path", "rows", "sha256", "generate"):
                del source[key]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def source(self, name: str) -> Source:
        """The source with that name."""
        return next(source for source in self.sources if source.name == name)


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest file. Raises `UserError` for any mistake in it."""
    path = manifest_file(path)
    try:
        return parse_manifest(tomllib.loads(path.read_bytes().decode()), str(path))
    except FileNotFoundError:
        raise UserError(
            f"no manifest {path}. Expected a .toml file; these are always available: {packaged()}."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path} is not valid TOML: {error}.") from error


def parse_manifest(content: Mapping[str, Any], where: str) -> Manifest:
    """A manifest from parsed TOML (or such a dict). `where` names it in errors, which are `UserError`s.

    The recipe `published` makes labels as SKEL-CF's: with `published_shape`, which copies the betas, and always with
    the meshes of the male SMPL.
    """
    try:
        manifest = TypeAdapter(Manifest).validate_python({**content, "file": Path(where).name})
    except ValidationError as error:
        raise UserError(f"{where}: {_what_is_wrong(error, content)}") from None
    if manifest.recipe == "published":
        if manifest.skel_gender != "male":
            raise UserError(
                f"{where}: skel_gender is {manifest.skel_gender!r}. Expected 'male' with recipe 'published'."
            )
        male = tuple(replace(s, smpl_gender="male") if s.format == CAMERAHMR else s for s in manifest.sources)
        manifest = replace(manifest, recipe="published_shape", sources=male)
    sources = tuple(_completed(source, manifest, f"{where}: source {source.name!r}") for source in manifest.sources)
    names = [source.name for source in sources]
    if not 0 < len(names) == len(set(names)):
        raise UserError(f"{where} names sources {names}. Expected one or more [[sources]], each with its own name.")
    return replace(manifest, sources=sources)


def _what_is_wrong(found: ValidationError, content: Mapping[str, Any]) -> str:
    """Describe the first mistake: the key, its value and what was expected. Unknown keys come first."""
    error = min(found.errors(), key=lambda one: one["type"] != "unexpected_keyword_argument")
    at, kind = "", Manifest
    for part in error["loc"]:
        if isinstance(part, int):
            source = content["sources"][part] if at == "sources" else None
            at += f"[{part}]" + (f" ({source.get('name')})" if isinstance(source, Mapping) else "")
        else:
            table, at = kind, f"{at}.{part}" if at else part
            kind = {"sources": Source, "body_models": BodyModels, "generate": Generate}.get(part, kind)
    match error["type"]:
        case "unexpected_keyword_argument":
            known = sorted(one.name for one in fields(table))
            near = "".join(f" Is it {name}?" for name in get_close_matches(str(part), known, 1))
            return f"{at}: unknown key.{near} Known keys here: {', '.join(known)}."
        case "missing":
            return f"{at} is missing. Add this key."
        case "value_error":
            return f"{at} {error['ctx']['error']}"
    return f"{at} is {error['input']!r}. {error['msg'].replace('Input should be', 'Expected')}."


def _completed(source: Source, manifest: Manifest, where: str) -> Source:
    """The source with keys for all columns. Raises `UserError` if its fields contradict one another."""
    if source.format == HSMR and manifest.skel_gender not in ("best", source.skel_gender):
        raise UserError(
            f"{where} has SKEL rows of gender {source.skel_gender!r}, which stay as they are, but the "
            f"manifest's skel_gender is {manifest.skel_gender!r}: one dataset has one gender. Leave the source out, or "
            "change skel_gender."
        )
    known, made = FIELDS[source.format], source.generate
    for column, keys in source.fields.items():
        if column not in known:
            raise UserError(f"{where}: fields.{column} is not a column. Expected {', '.join(known)}.")
        if not keys and column in REQUIRED[source.format]:
            raise UserError(f"{where}: fields.{column} is empty, but format {source.format!r} needs the column.")
    if made is not None and source.rows not in (None, made.rows):
        raise UserError(f"{where}: rows = {source.rows}, but generate.rows = {made.rows}. Expected the same number.")
    rows = source.rows if made is None else made.rows
    return replace(source, fields={**known, **source.fields}, rows=rows)
