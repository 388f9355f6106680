"""A manifest says what a dataset is made of: sources, body models, recipe, rows per shard. Read and validated here.

Every error names the file and the key and says what was expected. Relative paths are relative to the working directory,
as on a command line; in them `${NAME}` and `${NAME:-default}` are replaced by environment variables.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hmr_skel.errors import UserError

CAMERAHMR = "camerahmr"
HSMR = "hsmr"

FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # CameraHMR's label files: SMPL, to be fitted.
    CAMERAHMR: {
        "imgname": ("imgname",),
        "center": ("center",),
        "scale": ("scale",),
        "cam_int": ("cam_int",),
        "cam_ext": ("cam_ext",),
        "keypoints_2d": ("gtkps",),
        "keypoints_3d": ("keypoints3d",),
        "smpl_pose": ("pose_cam", "pose"),
        "smpl_betas": ("shape",),
        "smpl_transl": ("trans_cam",),
        "smpl_gender": ("gender",),
    },
    # HSMR's records as arrays, and SKEL-CF's `*-release-skel.npz`: SKEL, passed through.
    HSMR: {
        "imgname": ("imgname", "__key__"),
        "center": ("center",),
        "scale": ("scale",),
        "cam_int": ("cam_int",),
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
MAX_ROWS_PER_SHARD = 1_000_000  # 2 GB in memory; a shard is read, fitted and written in one piece
MAX_SHARDS = 100_000
MAX_NUM_BETAS = 400  # SMPL's own releases have at most 300

_REQUIRED: Any = object()
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_PATHS = ("file", "path", "image_root")


@dataclass(frozen=True, kw_only=True)
class BodyModels:
    """Where the model files are."""

    kind: str
    """`open`: the openly licensed body, exported to `path` on first use. `files`: the user's own, already there."""
    path: Path


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How to make a source's label file when it is not there."""

    kind: str
    """`open`: the synthetic default set."""
    rows: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """One label file and how to read it."""

    name: str
    """Appears in every row and in `row_id`."""
    format: str
    """`camerahmr` (SMPL, to be fitted) or `hsmr` (SKEL, passed through)."""
    file: Path
    description: str = ""
    image_root: Path | None = None
    """The folder of the images; see `hmr_skel.data.images`."""
    image_path: tuple[tuple[str, str], ...] = ()
    """Pairs (regular expression, replacement), applied to imgname in order: the path below `image_root`."""
    smpl_gender: str | None = None
    """Of all rows. Not given: the file's own per-row gender where it has one, else neutral."""
    skel_gender: str = "male"
    """Of rows that hold SKEL already. HSMR and SKEL-CF know no other than male."""
    frame: str = "camera"
    """Of poses and translations: x right, y down, z forward. No other is supported."""
    scale_unit: str = "200px"
    """`200px`: scale * 200 is the box in pixels. `px`: scale is the box in pixels already."""
    num_betas: int = 10
    """The most betas that a row of the file may have. Only the first ten are used."""
    allow_pickle: bool = False
    """Read arrays of Python objects (names), by an allow-list of plain types. Needed for some releases only."""
    rows: int | None = None
    """Expected number of rows."""
    sha256: str | None = None
    """Expected hash of the file."""
    exclude: tuple[str, ...] = ()
    """File names without folder and extension: images known to be corrupt. Their rows are rejected."""
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Our column -> keys in the file, for every column of the format; empty means that it is not read."""
    generate: Generate | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset is made of. Same manifest, same shards, on any machine."""

    name: str
    skel_gender: str
    """`male`, `female`, or `best`: row by row the one that fits better."""
    rows_per_shard: int
    sources: tuple[Source, ...]
    body_models: BodyModels
    description: str = ""
    held_out_shards: int = 0
    """The last so many shards are for evaluation, not for training."""
    recipe: str = "default"
    """Name of the fit recipe."""
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
    path = Path(path)
    try:
        return parse_manifest(tomllib.loads(path.read_bytes().decode()), str(path))
    except FileNotFoundError:
        raise UserError(f"no manifest {path}. Expected a .toml file, such as manifests/open.toml.") from None
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path} is not valid TOML: {error}.") from error


def parse_manifest(content: Mapping[str, Any], where: str) -> Manifest:
    """A manifest from parsed TOML (or a dict like it). `where` names it in errors, which are `UserError`s."""
    top = _Table(_replace_variables(content, where), where)
    models = top.table("body_models")
    manifest = Manifest(
        name=top.text("name", pattern=NAME, example="open"),
        description=top.text("description", ""),
        skel_gender=top.choice("skel_gender", ("male", "female", "best")),
        rows_per_shard=top.integer("rows_per_shard", 1, MAX_ROWS_PER_SHARD),
        held_out_shards=top.integer("held_out_shards", 0, MAX_SHARDS, default=0),
        recipe=top.text("recipe", "default"),
        body_models=BodyModels(kind=models.choice("kind", ("open", "files")), path=models.path("path")),
        sources=tuple(_parse_source(table) for table in top.tables("sources")),
        file=Path(where).name,
    )
    models.refuse_unknown()
    top.refuse_unknown()
    names = [source.name for source in manifest.sources]
    for i, source in enumerate(manifest.sources):
        if source.name in names[:i]:
            raise UserError(f"{where}: two sources are called {source.name!r}. row_id needs a name per source.")
        if source.format == HSMR and manifest.skel_gender not in ("best", source.skel_gender):
            raise UserError(
                f"{where}: source {source.name!r} holds SKEL rows of gender {source.skel_gender!r}, which pass through "
                f"as they are, but the manifest's skel_gender is {manifest.skel_gender!r}: one dataset has one gender. "
                "Leave the source out, or change skel_gender."
            )
    return manifest


class _Table:
    """A TOML table whose values are taken out one by one; each method checks the value of one key.

    All raise `UserError` that names file and key and says what was found and what was expected.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self._values = values
        self._asked: list[str] = []

    def take(self, key: str, expected: str, fits: Callable[[Any], Any], default: Any = _REQUIRED) -> Any:
        """The value, for which `fits` holds; `default` where there is none."""
        self._asked.append(key)
        if key not in self._values:
            if default is _REQUIRED:
                near = difflib.get_close_matches(key, [k for k in self._values if k not in self._asked], n=1)
                hint = f" Found {near[0]!r}: is that what was meant?" if near else ""
                raise UserError(f"{self.at(key)} is missing. Expected {expected}.{hint}")
            return default
        if not fits(self._values[key]):
            raise UserError(f"{self.at(key)} is {self._values[key]!r}. Expected {expected}.")
        return self._values[key]

    def text(self, key: str, default: Any = _REQUIRED, pattern: re.Pattern | None = None, example: str = "") -> Any:
        expected = f"a text like {pattern.pattern} (for example {example})" if pattern else "a text that is not empty"

        def fits(value: Any) -> bool:
            return isinstance(value, str) and bool(value.strip() and (not pattern or pattern.fullmatch(value)))

        return self.take(key, expected, fits, default)

    def choice(self, key: str, choices: Sequence[str], default: Any = _REQUIRED) -> Any:
        return self.take(key, "one of " + ", ".join(f'"{c}"' for c in choices), choices.__contains__, default)

    def integer(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        expected = f"a whole number from {low} to {high}"
        return self.take(key, expected, lambda value: type(value) is int and low <= value <= high, default)

    def path(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self.text(key, default)
        if value is not None and "://" in value:  # not repeated: it may hold a password
            raise UserError(
                f"{self.at(key)} is a URI. What a manifest names is read on this machine: copy it to a folder here "
                "(aws s3 cp), and give its path. Only a dataset itself may be in a store (--out)."
            )
        return None if value is None else Path(value).expanduser()

    def texts(self, key: str, default: Sequence[str]) -> tuple[str, ...]:
        def fits(value: Any) -> bool:
            return isinstance(value, str | list) and all(isinstance(item, str) and item for item in value)

        value = self.take(key, "a list of texts", fits, default)
        return (value,) if isinstance(value, str) else tuple(value)

    def table(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self.take(key, f"a table [{key}]", lambda value: isinstance(value, Mapping), default)
        return None if value is None else _Table(value, self.at(key))

    def tables(self, key: str) -> list["_Table"]:
        def fits(value: Any) -> bool:
            return isinstance(value, list) and value != [] and all(isinstance(item, Mapping) for item in value)

        value = self.take(key, f"one or more tables [[{key}]]", fits)
        return [_Table(item, f"{self.at(key)}[{i}]") for i, item in enumerate(value)]

    def refuse_unknown(self) -> None:
        """To be called last: a key that nobody asked for is a typing mistake."""
        for key in self._values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                known = ", ".join(sorted(self._asked))
                raise UserError(f"{self.at(key)}: unknown key.{hint} Known keys here: {known}.")

    def at(self, key: str) -> str:
        # "file.toml: key", "file.toml: sources[0] (coco).key"
        return f"{self.where}{'.' if ': ' in self.where else ': '}{key}"


def _parse_source(table: _Table) -> Source:
    name = table.text("name", pattern=NAME, example="coco")
    table.where += f" ({name})"
    kind = table.choice("format", (CAMERAHMR, HSMR))
    rows, generate = table.integer("rows", 1, 10**10, default=None), None
    if (inner := table.table("generate", None)) is not None:
        generate = Generate(
            kind=inner.choice("kind", ("open",)),
            rows=inner.integer("rows", 1, 10**9),
            seed=inner.integer("seed", 0, 2**63 - 1, default=0),
        )
        inner.refuse_unknown()
        if rows not in (None, generate.rows):
            raise UserError(
                f"{table.where}: rows = {rows}, but generate.rows = {generate.rows}. Expected the same number."
            )
        rows = generate.rows
    source = Source(
        name=name,
        format=kind,
        file=table.path("file"),
        description=table.text("description", ""),
        image_root=table.path("image_root", None),
        image_path=_parse_image_path(table),
        smpl_gender=table.choice("smpl_gender", ("neutral", "male", "female"), default=None),
        skel_gender=table.choice("skel_gender", ("male", "female"), default="male"),
        frame=table.choice("frame", ("camera",), default="camera"),
        scale_unit=table.choice("scale_unit", ("200px", "px"), default="200px"),
        num_betas=table.integer("num_betas", 10, MAX_NUM_BETAS, default=10),
        allow_pickle=table.take("allow_pickle", "true or false", lambda value: type(value) is bool, False),
        rows=rows,
        sha256=table.text("sha256", None, pattern=re.compile("[0-9a-f]{64}"), example="64 digits 0-9a-f"),
        exclude=table.texts("exclude", default=()),
        fields=_parse_fields(table.table("fields", None), kind),
        generate=generate,
    )
    table.refuse_unknown()
    return source


def _parse_fields(table: _Table | None, kind: str) -> dict[str, tuple[str, ...]]:
    fields = dict(FIELDS[kind])
    if table is None:
        return fields
    for column in fields:
        fields[column] = table.texts(column, default=fields[column])
        if not fields[column] and column in REQUIRED[kind]:
            raise UserError(f"{table.at(column)} is empty, but format {kind!r} needs the column.")
    table.refuse_unknown()
    return fields


def _parse_image_path(table: _Table) -> tuple[tuple[str, str], ...]:
    rules = table.take("image_path", "a list", lambda value: isinstance(value, list), [])
    for i, rule in enumerate(rules):
        key = f"{table.at('image_path')}[{i}]"
        if not (isinstance(rule, list) and len(rule) == 2 and all(isinstance(part, str) for part in rule)):
            raise UserError(f"{key} is {rule!r}. Expected a pair of texts: [regular expression, replacement].")
        try:
            re.sub(rule[0], rule[1], "")  # compiles both, so that a bad rule shows here and not at row two million
        except (re.error, IndexError) as error:
            raise UserError(f"{key} is {rule!r}, which is no regular expression and replacement: {error}.") from error
    return tuple((pattern, replacement) for pattern, replacement in rules)


def _replace_variables(value: Any, where: str, key: str = "") -> Any:
    """In paths only: what is in the environment must not get into a dataset by its description."""
    if isinstance(value, Mapping):
        return {inner: _replace_variables(value[inner], f"{where}: {inner}", inner) for inner in value}
    if isinstance(value, list):
        return [_replace_variables(inner, where) for inner in value]
    if not isinstance(value, str) or key not in _PATHS:
        return value

    def replace(match: re.Match) -> str:
        found = os.environ.get(match[1]) or match[2]  # as in a shell, `:-` also stands for a variable set to nothing
        if found is None:
            raise UserError(
                f"{where} is {value!r}, but the environment variable {match[1]} is not set. "
                f"Set it (export {match[1]}=/some/folder) or write the path into the manifest."
            )
        return found

    return _VARIABLE.sub(replace, value)
