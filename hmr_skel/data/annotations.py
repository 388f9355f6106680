"""Read label files into `AnnotationRows` with our names and units, and check which rows can be used.

The keys of each format are in `manifest.FIELDS`. Builds use `SourceReader`. The label files of benchmarks have other
columns and share `find_keys`, `check_column` and `make_rows`; the converter shares `to_texts` and `to_genders`. float32
values stay the same bit for bit; float64 and integers are rounded once.

`check_rows` leaves out a bad row with a reason; it does not affect other rows. The limits only separate annotations
from accidents, so they are wide. A possible row that fits badly is kept: status and errors of the fit show it.
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
"""Width of a box with `scale` 1, px, in all formats that descend from HMR's."""

GENDER_OF = {name[:length]: name for name in ("neutral", "male", "female") for length in (1, None)}
"""The gender of each spelling: n, neutral, m, male, f, female."""

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
"""The allowed shapes of a column in a file, after the leading N."""
HAS_SMPL = ("has_smpl", "has_body_pose", "has_betas", "has_smpl_params")
ANNOTATED = (*HAS_SMPL, "orig_has_poses", "orig_has_betas")
"""Keys of flags that say whether a row is annotated. All that a file has are read; 0 means not annotated."""
_READ_OF = {"keypoints_2d": NUM_KEYPOINTS, "smpl_betas": NUM_BETAS, "skel_betas": NUM_BETAS}
"""The number of values per row that are read, if a file may have more."""
_TEXTS = ("imgname", "smpl_gender")


@dataclass(frozen=True)
class SourceReader:
    """Reads the rows of a label file, and only the requested ones."""

    source: Source
    num_rows: int
    content_id: str
    """The sha256 of the content of the read keys, independent of the file's place and compression."""
    _file: LabelFile
    _keys: Mapping[str, str]  # column -> key in the file
    _cache_dir: Path
    _arrays: dict[str, np.ndarray]  # by column, as in the file; empty until `open`

    def open(self) -> "SourceReader":
        """Check the file's bytes, unpack its arrays into the cache and map them, once.

        Raises `UserError` if the file is damaged, or not the one that the manifest names.
        """
        source = self.source
        if self._arrays:
            return self
        found = None if source.sha256 is None else file_sha256(source.file, self._cache_dir / "sha256")
        if found != source.sha256:
            raise UserError(
                f"{source.file} has sha256 {found}, but the manifest expects {source.sha256}. It is another release or "
                "is damaged: fetch it again, or change `sha256` in the manifest."
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
    """Read the headers of a source's label file, and check that every key is there with a readable width.

    `SourceReader.open`, or the first read, checks the bytes and unpacks them into `cache_dir`.

    Raises `UserError` for a missing or broken file or key.
    """
    file = LabelFile(source.file, cache_dir, source.allow_pickle)
    # The manifest's gender overrides the file's.
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
    """For each of our columns, the first key in `fields` that the file has.

    Raises `UserError` if a required column is missing; the message ends in `hint`, in which `{column}` is that column.
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
    """Raise `UserError` if an array of that shape [N ..] and type cannot be the column; `what` names it."""
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
    """Make rows of new arrays from the columns of a file, which `check_column` has checked.

    Args:
        columns: by our names, at least imgname, center and scale; a `cam_ext` is added to `smpl_transl`; flags have
            their keys in the file (`ANNOTATED`).
        source: its name.
        first: number of the first row in the file.
        per_scale: divisor of `scale`: 1, or 200 for a box in pixels.
    """
    columns = dict(columns)
    count = len(columns["imgname"])
    texts = {name: to_texts(columns.pop(name)) for name in (*_TEXTS, "skel_gender") if name in columns}
    if "smpl_gender" in texts:
        texts["smpl_gender"] = to_genders(texts["smpl_gender"])
    if "cam_ext" in columns:  # round once, after the sum
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
    if "keypoints_3d" in floats and floats["keypoints_3d"].shape[-1] == 3:  # confidence 0 for missing points
        there = np.isfinite(floats["keypoints_3d"]).all(-1, keepdims=True)
        floats["keypoints_3d"] = np.concatenate([floats["keypoints_3d"], there.astype(np.float32)], axis=-1)
    annotated = np.all(flags, axis=0) if flags else None
    numbers = np.arange(first, first + count)
    return AnnotationRows(source=source, source_row=numbers, annotated=annotated, **texts, **floats)


def to_texts(column: np.ndarray) -> np.ndarray:
    """Strings [N], as objects. Other values stay as they are, and the row check rejects them."""
    texts = np.empty(len(column), object)
    texts[:] = column.tolist()
    for i, value in enumerate(texts):
        if isinstance(value, bytes):
            with contextlib.suppress(UnicodeDecodeError):
                texts[i] = value.decode()
    return texts


def to_genders(texts: np.ndarray) -> np.ndarray:
    """Genders [N]: neutral, male or female from all spellings. Other strings stay, and the row check rejects them."""
    genders = np.empty(len(texts), object)
    genders[:] = [GENDER_OF.get(text.strip().lower(), text) if isinstance(text, str) else text for text in texts]
    return genders


def _float32(column: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinite, and the row is rejected
        return np.array(column, np.float32, order="C")


MAX_ABS_BETA = 10.0  # standard deviations; people are within 3, bad fits reach 5, and 10 does not look like a body
MAX_ANGLE = 4 * np.pi  # two full turns: optimisers stay below, overflows and degrees do not
MAX_DISTANCE = 1000.0  # m; a person at 1 km is smaller than a pixel
MIN_BOX_SIDE = 1.0  # px
MAX_PIXEL = 1e6  # px, for box sides, box centres and focal lengths
GENDERS = {"smpl_gender": ("neutral", "male", "female"), "skel_gender": ("male", "female")}

# Columns whose values must all be finite.
_FINITE = (
    *("center", "scale", "cam_int", "smpl_pose", "smpl_betas", "smpl_transl"),
    *("skel_q", "skel_betas", "skel_transl"),
)

Complaint = tuple[str, int, str]
"""A reason, the row that it applies to, and what was found there."""


def check_rows(rows: AnnotationRows, exclude: Collection[str] = ()) -> tuple[AnnotationRows, list[Reject]]:
    """Split rows into usable and unusable ones: kept + rejected == read.

    Args:
        rows: the rows of a file.
        exclude: image names, without folder and extension, whose rows are left out (`Source.exclude`).

    Returns:
        The kept rows, and the rejects with the first reason that applies: `imgname`, `excluded`, `not annotated`,
        `gender`, `non_finite`, `box`, `camera`, `betas`, `pose`, `transl`. Both keep their order.

    A missing keypoint (coordinates not finite, confidence 0 or NaN) is not a reason to reject a row; a keypoint with
    confidence and without coordinates is.
    """
    rejects: dict[int, Reject] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # overflows are too large; NaN is reported first
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
    """Yield everything that is wrong with rows, in the order of reasons."""

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
    # NaN confidence means missing only together with missing coordinates
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
