"""A manifest says what a dataset is made of: sources, body models, recipe, rows per shard. Read and validated here.

Each field of the classes says which values it takes. Every error names the file and the key and says what was expected.
Relative paths are relative to the working directory, as on a command line; in paths `${NAME}` and `${NAME:-default}`
are replaced by environment variables. HMR_SKEL_DATA always has a value: `hmr_skel.places.data_folder`.
`manifests/NAME.toml` that is not there is the one of that name that comes with the package.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from hmr_skel.errors import UserError
from hmr_skel.places import DATA_VARIABLE, data_folder, manifest_file, packaged

CAMERAHMR = "camerahmr"
HSMR = "hsmr"

_BOX = {"center": ("center",), "scale": ("scale",), "cam_int": ("cam_int",)}
FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # CameraHMR's label files: SMPL, to be fitted.
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
    # HSMR's records as arrays, and SKEL-CF's `*-release-skel.npz`: SKEL, passed through.
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
"""Our column -> the keys it may have in a label file of the format, the first present one wins."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    CAMERAHMR: ("imgname", "center", "scale", "cam_int", "smpl_pose", "smpl_betas", "smpl_transl"),
    HSMR: ("imgname", "center", "scale", "skel_q", "skel_betas"),
}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
MAX_SHARDS = 100_000
MAX_NUM_BETAS = 400  # SMPL's own releases have at most 300

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _Rule(NamedTuple):
    """What a key may hold, in words and as a test, and what is made of it (and of the key's place, for errors)."""

    expected: str
    fits: Callable[[Any], bool]
    make: Callable[[Any, str], Any] = lambda value, at: value


def _text(pattern: str = r"(?s).*\S.*", expected: str = "a text that is not empty") -> _Rule:
    return _Rule(expected, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def _choice(*options: str) -> _Rule:
    return _Rule("one of " + ", ".join(f'"{option}"' for option in options), options.__contains__)


def _integer(low: int, high: int) -> _Rule:
    return _Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _list(expected: str, fits: Callable[[Any], bool], make: Callable[[Any, str], Any]) -> _Rule:
    """A list of items that fit, as a tuple of what is made of each item and its place."""
    return _Rule(
        expected,
        lambda value: isinstance(value, list) and all(map(fits, value)),
        lambda value, at: tuple(make(item, f"{at}[{i}]") for i, item in enumerate(value)),
    )


def _table(kind: type) -> _Rule:
    return _Rule("a table", lambda value: isinstance(value, dict), lambda value, at: _parse(kind, value, at))


def _make_path(value: str, at: str) -> Path:
    if "://" in value:  # not repeated: it may hold a password
        raise UserError(
            f"{at} is a URI. What a manifest names is read on this machine: copy it to a folder here (aws s3 cp), and "
            "give its path. Only a dataset itself may be in a store (--out)."
        )

    def replaced(match: re.Match) -> str:
        found = os.environ.get(match[1]) or match[2]  # as in a shell, `:-` also stands for a variable set to nothing
        if found is None and match[1] == DATA_VARIABLE:
            return str(data_folder())
        if found is None:
            raise UserError(
                f"{at} is {value!r}, but the environment variable {match[1]} is not set. "
                f"Set it (export {match[1]}=/some/folder) or write the path into the manifest."
            )
        return found

    return Path(_VARIABLE.sub(replaced, value)).expanduser()


def _is_replacement(rule: Any) -> bool:
    try:  # compiles both, so that a bad rule shows here and not at row two million
        re.sub(rule[0], rule[1], "")
        return isinstance(rule, list | tuple) and len(rule) == 2
    except (re.error, LookupError, TypeError):
        return False


def _is_keys(value: Any) -> bool:
    return isinstance(value, str | list) and all(isinstance(item, str) and item for item in value)


_NAME = _text(NAME.pattern, "a name of letters, digits, - and _, such as coco")
_PATH = _text()._replace(make=_make_path)
_TEXTS = _list("a list of texts", lambda item: isinstance(item, str), lambda item, at: item)
_IMAGE_PATH = _list("pairs [regular expression, replacement]", _is_replacement, lambda pair, at: tuple(pair))
_FIELDS = _Rule(
    "a table of texts or lists of texts",
    lambda value: isinstance(value, dict) and all(map(_is_keys, value.values())),
    lambda value, at: {name: (keys,) if isinstance(keys, str) else tuple(keys) for name, keys in value.items()},
)


@dataclass(frozen=True, kw_only=True)
class BodyModels:
    """Where the model files are."""

    kind: Annotated[str, _choice("open", "files")]
    """`open`: the openly licensed body, exported to `path` on first use. `files`: the user's own, already there."""
    path: Annotated[Path, _PATH]


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How to make a source's label file when it is not there."""

    kind: Annotated[str, _choice("open")]
    """`open`: the synthetic default set."""
    rows: Annotated[int, _integer(1, 10**9)]
    seed: Annotated[int, _integer(0, 2**63 - 1)] = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """One label file and how to read it."""

    name: Annotated[str, _NAME]
    """Appears in every row and in `row_id`."""
    format: Annotated[str, _choice(CAMERAHMR, HSMR)]
    """`camerahmr` (SMPL, to be fitted) or `hsmr` (SKEL, passed through)."""
    file: Annotated[Path, _PATH]
    description: Annotated[str, _text()] = ""
    image_root: Annotated[Path | None, _PATH] = None
    """The folder of the images; see `hmr_skel.data.images`."""
    image_path: Annotated[tuple[tuple[str, str], ...], _IMAGE_PATH] = ()
    """Pairs (regular expression, replacement), applied to imgname in order: the path below `image_root`."""
    smpl_gender: Annotated[str | None, _choice("neutral", "male", "female")] = None
    """Of all rows. Not given: the file's own per-row gender where it has one, else neutral."""
    skel_gender: Annotated[str, _choice("male", "female")] = "male"
    """Of rows that hold SKEL already. HSMR and SKEL-CF know no other than male."""
    frame: Annotated[str, _choice("camera")] = "camera"
    """Of poses and translations: x right, y down, z forward. No other is supported."""
    scale_unit: Annotated[str, _choice("200px", "px")] = "200px"
    """`200px`: scale * 200 is the box in pixels. `px`: scale is the box in pixels already."""
    num_betas: Annotated[int, _integer(10, MAX_NUM_BETAS)] = 10
    """The most betas that a row of the file may have. Only the first ten are used."""
    allow_pickle: Annotated[bool, _Rule("true or false", lambda value: type(value) is bool)] = False
    """Read arrays of Python objects (names), by an allow-list of plain types. Needed for some releases only."""
    rows: Annotated[int | None, _integer(1, 10**10)] = None
    """Expected number of rows."""
    sha256: Annotated[str | None, _text("[0-9a-f]{64}", "64 digits 0-9a-f")] = None
    """Expected hash of the file."""
    exclude: Annotated[tuple[str, ...], _TEXTS] = ()
    """File names without folder and extension: images known to be corrupt. Their rows are rejected."""
    fields: Annotated[Mapping[str, tuple[str, ...]], _FIELDS] = field(default_factory=dict)
    """Our column -> keys in the file, for every column of the format; empty means that it is not read."""
    generate: Annotated[Generate | None, _table(Generate)] = None


def _make_source(item: Any, at: str) -> Source:
    return _parse(Source, item, f"{at} ({item.get('name')})")


_SOURCES = _list("tables [[sources]]", lambda item: isinstance(item, dict), _make_source)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset is made of. Same manifest, same shards, on any machine."""

    name: Annotated[str, _NAME]
    skel_gender: Annotated[str, _choice("male", "female", "best")]
    """`male`, `female`, or `best`: row by row the one that fits better."""
    rows_per_shard: Annotated[int, _integer(1, 1_000_000)]
    """A shard is read, fitted and written in one piece: a million rows take 2 GB of memory."""
    sources: Annotated[tuple[Source, ...], _SOURCES]
    body_models: Annotated[BodyModels, _table(BodyModels)]
    description: Annotated[str, _text()] = ""
    held_out_shards: Annotated[int, _integer(0, MAX_SHARDS)] = 0
    """The last so many shards are for evaluation, not for training."""
    recipe: Annotated[str, _text()] = "default"
    """Name of the fit recipe; in a file also `published`, see `parse_manifest`."""
    file: str = ""
    """Name of the manifest's own file, without its folder: it tells two manifests of one name apart."""

    @property
    def sha256(self) -> str:
        """Hash of everything here that determines the rows of the shards.

        Left out are places, since moving data must not fit it again (the fingerprint has files and models by their
        content), descriptions, and expected rows and hashes. A new field of `Source`, or another spelling in `FIELDS`,
        changes it, and then every shard is fitted again.
        """
        content = asdict(self)
        del content["description"], content["body_models"], content["file"]
        for source in content["sources"]:
            for key in ("description", "file", "image_root", "image_path", "rows", "sha256", "generate"):
                del source[key]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def source(self, name: str) -> Source:
        """The source of that name."""
        return next(source for source in self.sources if source.name == name)


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest file. Raises `UserError` for anything wrong with it."""
    path = manifest_file(path)
    try:
        return parse_manifest(tomllib.loads(path.read_bytes().decode()), str(path))
    except FileNotFoundError:
        raise UserError(f"no manifest {path}. Expected a .toml file; these are always there: {packaged()}.") from None
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path} is not valid TOML: {error}.") from error


def parse_manifest(content: Mapping[str, Any], where: str) -> Manifest:
    """A manifest from parsed TOML (or a dict like it). `where` names it in errors, which are `UserError`s.

    The recipe `published` means labels as SKEL-CF has published them: `published_shape`, which copies the betas, and
    the meshes of the male SMPL, whatever a source says of its gender.
    """
    manifest: Manifest = _parse(Manifest, content, where)
    if manifest.recipe == "published":
        if manifest.skel_gender != "male":
            raise UserError(
                f"{where}: skel_gender is {manifest.skel_gender!r}. Expected 'male' with recipe 'published'."
            )
        male = tuple(replace(s, smpl_gender="male") if s.format == CAMERAHMR else s for s in manifest.sources)
        manifest = replace(manifest, recipe="published_shape", sources=male)
    sources = tuple(_checked(source, manifest, f"{where}: source {source.name!r}") for source in manifest.sources)
    names = [source.name for source in sources]
    if not 0 < len(names) == len(set(names)):
        raise UserError(f"{where} names sources {names}. Expected one or more [[sources]], each with its own name.")
    return replace(manifest, sources=sources, file=Path(where).name)


def _parse(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """An object of a dataclass whose fields have rules. Raises `UserError` for an unknown, missing or wrong key."""
    hints = get_type_hints(kind, include_extras=True)
    required = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    rules: dict[str, _Rule] = {
        key: hint.__metadata__[0] for key, hint in hints.items() if hasattr(hint, "__metadata__")
    }
    at = f"{where}{'.' if ': ' in where else ': '}"
    for key in values.keys() - rules.keys():
        raise UserError(f"{at}{key}: unknown key. Known keys here: {', '.join(sorted(rules))}.")
    found = {}
    for key, rule in rules.items():
        if key in values:
            if not rule.fits(values[key]):
                raise UserError(f"{at}{key} is {values[key]!r}. Expected {rule.expected}.")
            found[key] = rule.make(values[key], f"{at}{key}")
        elif key in required:
            raise UserError(f"{at}{key} is missing. Expected {rule.expected}.")
    return kind(**found)


def _checked(source: Source, manifest: Manifest, where: str) -> Source:
    """The source with keys for all columns. Raises `UserError` where its fields contradict one another."""
    if source.format == HSMR and manifest.skel_gender not in ("best", source.skel_gender):
        raise UserError(
            f"{where} holds SKEL rows of gender {source.skel_gender!r}, which pass through as they are, but the "
            f"manifest's skel_gender is {manifest.skel_gender!r}: one dataset has one gender. Leave the source out, or "
            "change skel_gender."
        )
    known, made = FIELDS[source.format], source.generate
    for column, keys in source.fields.items():
        if column not in known:
            raise UserError(f"{where}: fields.{column} is no column. Expected {', '.join(known)}.")
        if not keys and column in REQUIRED[source.format]:
            raise UserError(f"{where}: fields.{column} is empty, but format {source.format!r} needs the column.")
    if made is not None and source.rows not in (None, made.rows):
        raise UserError(f"{where}: rows = {source.rows}, but generate.rows = {made.rows}. Expected the same number.")
    rows = source.rows if made is None else made.rows
    return replace(source, fields={**known, **source.fields}, rows=rows)
