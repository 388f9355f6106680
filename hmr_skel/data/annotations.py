"""Label files -> `AnnotationRows`, and which of these can be used. From here on all arrays have our names and units.

The keys of each format are in `manifest.FIELDS`. Builds read through `SourceReader`. The benchmarks' label files, which
have other columns, share its parts: `find_keys`, `check_column`, `make_rows`; the converter shares `to_texts` and
`to_genders`. Floats are passed on bit for bit where the file holds float32; float64 and integers are rounded once.

A bad row is left out by `check_rows` with a reason, and harms no other. The limits only tell annotations from
accidents, so they are wide. A row that is possible but fits badly is kept: the fit's status and errors tell.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmr_skel.data.manifest import HSMR, REQUIRED, Source
from hmr_skel.data.npz import LabelFile, file_sha256
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows, Reject

NUM_BETAS = 10
NUM_KEYPOINTS = 44
PX_PER_SCALE = 200.0
"""A box of `scale` 1 is 200 px wide, in all files that descend from HMR's."""

GENDER_OF = {name[:length]: name for name in ("neutral", "male", "female") for length in (1, None)}
"""Spelling -> gender: n, neutral, m, male, f, female."""

_SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "imgname": ((),),
    "center": ((2,),),
    "scale": ((), (1,), (2,)),
    "cam_int": ((3, 3),),
    "cam_ext": ((4, 4),),
    "keypoints_2d": ((NUM_KEYPOINTS, 3),),
    "keypoints_3d": ((NUM_KEYPOINTS, 3), (NUM_KEYPOINTS, 4)),
    "smpl_pose": ((72,), (24, 3)),
    "smpl_betas": ((NUM_BETAS,),),
    "smpl_transl": ((3,),),
    "smpl_gender": ((),),
    "skel_q": ((46,),),
    "skel_betas": ((NUM_BETAS,),),
    "skel_transl": ((3,),),
    "annotated": ((), (1,)),
}
"""The shapes that a column may have in a file, after the leading N."""
HAS_SMPL = ("has_smpl", "has_body_pose", "has_betas", "has_smpl_params")
ANNOTATED = (*HAS_SMPL, "orig_has_poses", "orig_has_betas")
"""Keys of label files that say of every row whether it is annotated. Each that is there is read; 0: it is not."""
_READ_OF = {"keypoints_2d": NUM_KEYPOINTS, "smpl_betas": NUM_BETAS, "skel_betas": NUM_BETAS}
"""How many of a row's are read, where a file may have more."""
_TEXTS = ("imgname", "smpl_gender")


@dataclass(frozen=True)
class SourceReader:
    """The rows of one label file. Reading touches only the rows asked for."""

    source: Source
    num_rows: int
    content_id: str
    """sha256 hex of what the file holds in the keys that are read (not of where or how it is stored)."""
    _file: LabelFile
    _keys: Mapping[str, str]  # column -> key in the file
    _cache_dir: Path
    _arrays: dict[str, np.ndarray]  # by column, as in the file; empty until `open`

    def open(self) -> "SourceReader":
        """Check the file's bytes, unpack its arrays into the cache and map them, once.

        Raises `UserError` where the file is damaged, or another one than the manifest says.
        """
        source = self.source
        if self._arrays:
            return self
        found = None if source.sha256 is None else file_sha256(source.file, self._cache_dir / "sha256")
        if found != source.sha256:
            raise UserError(
                f"{source.file} has sha256 {found}, but the manifest expects {source.sha256}. It is another release or "
                "was damaged: fetch it again, or change `sha256` in the manifest."
            )
        self._arrays.update({column: self._file.array(key) for column, key in self._keys.items()})
        return self

    def read(self, start: int, stop: int) -> AnnotationRows:
        """Rows start (included) to stop (excluded), unchecked."""
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"rows {start} to {stop} of {self.num_rows}")
        source, columns = self.source, {name: array[start:stop] for name, array in self.open()._arrays.items()}
        if source.format == HSMR:
            columns["skel_gender"] = np.full(stop - start, source.skel_gender, object)
        elif "smpl_gender" not in columns:
            columns["smpl_gender"] = np.full(stop - start, source.smpl_gender or "neutral", object)
        return make_rows(columns, source.name, start, PX_PER_SCALE if source.scale_unit == "px" else 1.0)


def plan_source(source: Source, cache_dir: Path) -> SourceReader:
    """Read the headers of a source's label file, and check that every key is there with a width that can be read.

    Its bytes are checked, and unpacked into `cache_dir`, by `SourceReader.open`, or when rows are first read.

    Raises `UserError` for a missing or broken file or key.
    """
    file = LabelFile(source.file, cache_dir, source.allow_pickle)
    # The manifest has the last word on gender.
    fields = {c: keys for c, keys in source.fields.items() if c != "smpl_gender" or source.smpl_gender is None}
    hint = 'If it is there under another name, say so in the manifest: [sources.fields] {column} = "that name".'
    keys = find_keys(file, fields, REQUIRED[source.format], hint) | {flag: flag for flag in ANNOTATED if flag in file}
    for name, key in keys.items():
        column = "annotated" if name in ANNOTATED else name
        check_column(column, file.shape(key), file.dtype(key), f"{file.path}: {key!r} ({column})", source.num_betas)
    counts = {key: file.shape(key)[0] for key in keys.values()}  # no scalar is left here
    num_rows = counts[keys["imgname"]]
    if set(counts.values()) != {num_rows}:
        found = ", ".join(f"{key!r} {count}" for key, count in counts.items())
        raise UserError(f"{file.path}: its keys have different numbers of rows: {found}. Expected the same number.")
    if num_rows == 0:
        raise UserError(f"{file.path} holds no rows.")
    if source.rows not in (None, num_rows):
        raise UserError(
            f"{file.path} holds {num_rows:,} rows, but the manifest expects {source.rows:,} of source {source.name!r}. "
            "It is another release of the file: fetch the right one, or change `rows` in the manifest."
        )
    return SourceReader(source, num_rows, file.content_id(list(keys.values())), file, keys, cache_dir, {})


def find_keys(
    file: LabelFile, fields: Mapping[str, tuple[str, ...]], required: Collection[str], hint: str
) -> dict[str, str]:
    """Our columns -> the keys that the file has for them, of those in `fields` the first.

    Raises `UserError` where a required column is not there; it ends in `hint`, in which `{column}` is that column.
    """
    keys = {}
    for column, names in fields.items():
        present = [name for name in names if name in file]
        if present:
            keys[column] = present[0]
        elif column in required:
            raise UserError(
                f"{file.path} has no key {' or '.join(map(repr, names))} ({column}). "
                f"It has: {', '.join(sorted(file)) or 'none'}. {hint.format(column=column)}"
            )
    return keys


def check_column(column: str, shape: tuple[int, ...], dtype: np.dtype, what: str, num_betas: int = NUM_BETAS) -> None:
    """Raise `UserError` where an array of that shape [N ..] and type cannot be the column; `what` names it."""
    inner, is_betas = shape[1:], column.endswith("betas")
    if column in _READ_OF and inner and inner[0] > _READ_OF[column] and not (is_betas and inner[0] > num_betas):
        inner = (_READ_OF[column], *inner[1:])
    if not shape or inner not in _SHAPES[column]:
        expected = " or ".join(f"(N{''.join(f', {size}' for size in option)})" for option in _SHAPES[column])
        size = max(inner, default=0)
        hint = f" To use the first ten of more, say num_betas = {size} in the source." if is_betas else ""
        raise UserError(f"{what} has shape {shape}. Expected {expected}.{hint}")
    if dtype.kind not in ("USO" if column in _TEXTS else "fiub" if column == "annotated" else "fiu"):
        raise UserError(f"{what} holds {dtype}. Expected {'texts' if column in _TEXTS else 'numbers'}.")


def make_rows(columns: Mapping[str, np.ndarray], source: str, first: int = 0, per_scale: float = 1.0) -> AnnotationRows:
    """Rows of columns as files have them, checked by `check_column`; the arrays are new.

    Args:
        columns: by our names, at least imgname, center and scale; a `cam_ext` is added to `smpl_transl`; flags have
            their keys in the file (`ANNOTATED`).
        source: its name.
        first: the first row's number in the file.
        per_scale: what `scale` is divided by: 1, or 200 for a box in pixels.
    """
    columns = dict(columns)
    count = len(columns["imgname"])
    texts = {name: to_texts(columns.pop(name)) for name in (*_TEXTS, "skel_gender") if name in columns}
    if "smpl_gender" in texts:
        texts["smpl_gender"] = to_genders(texts["smpl_gender"])
    if "cam_ext" in columns:  # rounded once, after the sum
        columns["smpl_transl"] = columns["smpl_transl"] + np.asarray(columns.pop("cam_ext")[:, :3, 3], np.float64)
    flags = [columns.pop(name).reshape(count) > 0 for name in ANNOTATED if name in columns]
    floats = {name: _float32(column) for name, column in columns.items()}
    sides = floats["scale"] / np.float32(per_scale)
    sides = sides[:, None] if sides.ndim == 1 else sides
    floats["scale"] = np.ascontiguousarray(np.broadcast_to(sides, (count, 2)))
    for name in _READ_OF.keys() & floats.keys():
        floats[name] = np.ascontiguousarray(floats[name][:, : _READ_OF[name]])
    if "smpl_pose" in floats:
        floats["smpl_pose"] = floats["smpl_pose"].reshape(count, 72)
    if "keypoints_3d" in floats and floats["keypoints_3d"].shape[-1] == 3:  # confidence 0 where the point is not there
        there = np.isfinite(floats["keypoints_3d"]).all(-1, keepdims=True)
        floats["keypoints_3d"] = np.concatenate([floats["keypoints_3d"], there.astype(np.float32)], axis=-1)
    annotated = np.all(flags, axis=0) if flags else None
    numbers = np.arange(first, first + count)
    return AnnotationRows(source=source, source_row=numbers, annotated=annotated, **texts, **floats)


def to_texts(column: np.ndarray) -> np.ndarray:
    """[N] of str, as objects. What is no text stays as it is, for the row check to reject."""
    texts = np.empty(len(column), object)
    texts[:] = column.tolist()
    for i, value in enumerate(texts):
        if isinstance(value, bytes):
            with contextlib.suppress(UnicodeDecodeError):
                texts[i] = value.decode()
    return texts


def to_genders(texts: np.ndarray) -> np.ndarray:
    """[N] neutral, male or female of all their spellings; other texts stay as they are, for the row check to reject."""
    genders = np.empty(len(texts), object)
    genders[:] = [GENDER_OF.get(text.strip().lower(), text) if isinstance(text, str) else text for text in texts]
    return genders


def _float32(column: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, and the row is rejected
        return np.array(column, np.float32, order="C")


MAX_ABS_BETA = 10.0  # standard deviations; people are within 3, bad fits reach 5, and nothing of a body is left at 10
MAX_ANGLE = 4 * np.pi  # two full turns: rotations that optimisers wind up stay below, overflows and degrees do not
MAX_DISTANCE = 1000.0  # m; someone 1 km away is smaller than a pixel
MIN_BOX_SIDE = 1.0  # px
MAX_PIXEL = 1e6  # px; of box sides, box centres and focal lengths
GENDERS = {"smpl_gender": ("neutral", "male", "female"), "skel_gender": ("male", "female")}

# Columns of which every value must be finite.
_FINITE = (
    *("center", "scale", "cam_int", "smpl_pose", "smpl_betas", "smpl_transl"),
    *("skel_q", "skel_betas", "skel_transl"),
)

Complaint = tuple[str, int, str]
"""A reason, a row that it holds for, and what was found there."""


def check_rows(rows: AnnotationRows, exclude: Collection[str] = ()) -> tuple[AnnotationRows, list[Reject]]:
    """Split rows into those that can be used and those that cannot: kept + rejected == read.

    Args:
        rows: as read.
        exclude: image names, without folder and extension, whose rows are to be left out (`Source.exclude`).

    Returns:
        The kept rows in their order, and the rejects in theirs, each with the first reason that holds: `imgname`,
        `excluded`, `not annotated`, `gender`, `non_finite`, `box`, `camera`, `betas`, `pose`, `transl`.

    A keypoint that is not there (coordinates not finite, confidence 0 or NaN) is a gap in the annotation and no reason
    to reject; one that claims confidence without coordinates is.
    """
    rejects: dict[int, Reject] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too large; NaN is reported first
        for reason, i, detail in _complaints(rows, frozenset(exclude)):
            if i not in rejects:
                name = rows.imgname[i]
                imgname = name if isinstance(name, str) else repr(name)
                rejects[i] = Reject(rows.source, int(rows.source_row[i]), imgname, reason, detail)
    if not rejects:
        return rows, []
    keep = np.ones(len(rows), bool)
    keep[list(rejects)] = False
    return rows.take(keep), [rejects[i] for i in sorted(rejects)]


def _complaints(rows: AnnotationRows, exclude: frozenset[str]) -> Iterator[Complaint]:
    """Of every row all that is wrong with it, in the order in which reasons are given."""

    def there(*columns: str) -> Iterator[tuple[str, np.ndarray]]:
        return ((column, values) for column in columns if (values := getattr(rows, column)) is not None)

    for i, name in enumerate(rows.imgname):
        if not (isinstance(name, str) and name.strip()):
            yield "imgname", i, f"imgname is {name!r}; expected a text that is not empty"
        elif (stem := name.rsplit("/", 1)[-1].rsplit(".", 1)[0]) in exclude:
            yield "excluded", i, f"{stem} is on the manifest's exclude list"
    for _, annotated in there("annotated"):
        for i in _where(~annotated):
            yield "not annotated", i, "the file's has_* flags say that the row holds no annotation"
    for column, genders in there(*GENDERS):
        for i, gender in enumerate(genders):
            if gender not in GENDERS[column]:
                yield "gender", i, f"{column} is {gender!r}; expected {', '.join(GENDERS[column])}"
    for column, values in there(*_FINITE):
        flat = values.reshape(len(values), int(np.prod(values.shape[1:])))  # -1 would not do for no rows
        for i in _where(~np.isfinite(flat).all(axis=1)):
            bad = _where(~np.isfinite(flat[i]))
            found = f"{column}[{bad[0]}] is {flat[i, bad[0]]}"
            yield "non_finite", i, f"{found} ({len(bad)} of {flat.shape[1]} values are not finite)"
    for column, points in there("keypoints_2d", "keypoints_3d"):
        yield from _claimed_but_missing(column, points)
    yield from _box(rows)
    for _, cam_int in there("cam_int"):
        yield from _camera(cam_int)
    for column, betas in there("smpl_betas", "skel_betas"):
        yield from _too_large("betas", column, betas, MAX_ABS_BETA, "")
    for column, pose in there("smpl_pose"):
        angles = np.linalg.norm(pose.reshape(len(rows), 24, 3), axis=-1)
        yield from _too_large("pose", f"angle of {column}, joint", angles, MAX_ANGLE, " rad")
    for column, q in there("skel_q"):
        yield from _too_large("pose", column, q, MAX_ANGLE, " rad")
    for column, transl in there("smpl_transl", "skel_transl"):
        yield from _too_large("transl", column, transl, MAX_DISTANCE, " m")


def _claimed_but_missing(column: str, points: np.ndarray) -> Iterator[Complaint]:
    confidence = points[..., -1]
    there = np.isfinite(points[..., :-1]).all(axis=-1)
    # NaN confidence is "not there" beside missing coordinates only
    bad = np.where(there, ~np.isfinite(confidence), ~((confidence == 0) | np.isnan(confidence)))
    for i in _where(bad.any(axis=1)):
        k = int(np.argmax(bad[i]))
        found = f"{column}[{k}] is {points[i, k].tolist()}"
        yield "non_finite", i, f"{found}; without coordinates the confidence must be 0"


def _box(rows: AnnotationRows) -> Iterator[Complaint]:
    sides = rows.scale * np.float32(PX_PER_SCALE)
    small = sides.min(axis=1) < MIN_BOX_SIDE
    large = (sides.max(axis=1) > MAX_PIXEL) | (np.abs(rows.center).max(axis=1) > MAX_PIXEL)
    for i in _where(small | large):
        most = f" at {rows.center[i].tolist()}; expected {MAX_PIXEL:g} px at most"
        expected = f"; expected {MIN_BOX_SIDE:g} px or more" if small[i] else most
        yield "box", i, f"box of {sides[i, 0]:g} x {sides[i, 1]:g} px{expected}"


def _camera(cam_int: np.ndarray) -> Iterator[Complaint]:
    focal = cam_int[:, [0, 1], [0, 1]]
    bad = ((focal <= 0) | (focal > MAX_PIXEL)).any(axis=1)
    bad |= (cam_int[:, 2] != np.array([0, 0, 1], np.float32)).any(axis=1)
    for i in _where(bad):
        found = f"cam_int has focal lengths {focal[i].tolist()} px and last row {cam_int[i, 2].tolist()}"
        yield "camera", i, f"{found}; expected more than 0, at most {MAX_PIXEL:g}, and [0, 0, 1]"


def _too_large(reason: str, what: str, values: np.ndarray, limit: float, unit: str) -> Iterator[Complaint]:
    sizes = np.abs(values)
    for i in _where((sizes > limit).any(axis=1)):
        place = int(np.argmax(sizes[i]))
        yield reason, i, f"|{what}[{place}]| is {sizes[i, place]:g}{unit}; expected {limit:g}{unit} at most"


def _where(bad: np.ndarray | np.bool_) -> list[int]:
    return np.flatnonzero(bad).tolist()
