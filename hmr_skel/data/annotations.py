"""Label files -> `AnnotationRows`. All foreign field names, shapes and units end here.

Floats are passed on bit for bit where the file holds float32; float64 and integers are rounded once to float32.
"""

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hmr_skel.data.manifest import HSMR, REQUIRED, Source
from hmr_skel.data.npz import LabelFile, check_sha256
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows

NUM_BETAS = 10
NUM_KEYPOINTS = 44
PX_PER_SCALE = 200.0
"""A box of `scale` 1 is 200 px wide, in all files that descend from HMR's."""

_GENDERS = {"n": "neutral", "m": "male", "f": "female", "neutral": "neutral", "male": "male", "female": "female"}

# The shapes that a column may have in a file, after the leading N. A tuple (low, high) is a width between the two.
_ANY = 10**9
_SHAPES: Mapping[str, tuple[tuple, ...]] = {
    "imgname": ((),),
    "center": ((2,),),
    "scale": ((), (1,), (2,)),
    "cam_int": ((3, 3),),
    "cam_ext": ((4, 4),),
    "keypoints_2d": (((NUM_KEYPOINTS, _ANY), 3),),
    "keypoints_3d": ((NUM_KEYPOINTS, 3), (NUM_KEYPOINTS, 4)),
    "smpl_pose": ((72,), (24, 3)),
    "smpl_transl": ((3,),),
    "smpl_gender": ((),),
    "skel_q": ((46,),),
    "skel_transl": ((3,),),
}
_TEXTS = ("imgname", "smpl_gender")


@dataclass(frozen=True)
class _Mapped:
    """The arrays of a label file, checked and mapped."""

    arrays: Mapping[str, np.ndarray]  # by column, as in the file
    # Of the label file and what is unpacked of it: a descriptor, held open, and its state when it was opened. By
    # descriptor, because a file of the same content that is renamed to the place of a mapped one does no harm.
    watched: Mapping[Path, tuple[int, tuple[int, ...]]]


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

    def open(self) -> None:
        """Check the file's bytes and map them; compressed members are unpacked into the cache. Once.

        Raises `UserError` where the file is damaged, or another one than the manifest says.
        """
        _ = self._mapped

    @cached_property
    def _mapped(self) -> _Mapped:
        if self.source.sha256 is not None:
            check_sha256(self.source.file, self.source.sha256, self._cache_dir)
        self._file.verify(list(self._keys.values()))
        arrays = {column: self._file.array(key) for column, key in self._keys.items()}
        files = {Path(array.filename) for array in arrays.values() if isinstance(array, np.memmap) and array.filename}
        descriptors = {path: os.open(path, os.O_RDONLY) for path in sorted({self.source.file, *files})}
        mapped = _Mapped(arrays, {path: (descriptor, _state(descriptor)) for path, descriptor in descriptors.items()})
        for descriptor in descriptors.values():
            weakref.finalize(mapped, os.close, descriptor)
        return mapped

    def read(self, start: int, stop: int) -> AnnotationRows:
        """Rows start (included) to stop (excluded), unchecked.

        Raises `UserError` where a file has changed since it was opened: its rows would be others than `content_id`
        says, and where it was cut off, the operating system would end this process.
        """
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"rows {start} to {stop} of {self.num_rows}")
        self._check_unchanged()
        rows = self._read(start, stop)
        self._check_unchanged()
        return rows

    def _check_unchanged(self) -> None:
        for path, (descriptor, state) in self._mapped.watched.items():
            if _state(descriptor) != state:
                raise UserError(
                    f"{path} has changed since it was opened. Let nothing write to it during a build, and start again: "
                    "what is finished is kept where the file's content is as it was."
                )

    def _read(self, start: int, stop: int) -> AnnotationRows:
        columns = {name: array[start:stop] for name, array in self._mapped.arrays.items()}
        count = stop - start
        texts = {name: _texts(columns.pop(name)) for name in _TEXTS if name in columns}
        if "cam_ext" in columns:  # rounded once, after the sum
            translation = np.asarray(columns.pop("cam_ext")[:, :3, 3], np.float64)
            columns["smpl_transl"] = translation + columns["smpl_transl"]
        floats = {name: _float32(column) for name, column in columns.items()}
        floats["scale"] = _two_sides(floats["scale"], self.source.scale_unit)
        if "smpl_pose" in floats:
            floats["smpl_pose"] = floats["smpl_pose"].reshape(count, 72)
        for name in ("smpl_betas", "skel_betas"):
            if name in floats:
                floats[name] = np.ascontiguousarray(floats[name][:, :NUM_BETAS])
        if "keypoints_2d" in floats:
            floats["keypoints_2d"] = np.ascontiguousarray(floats["keypoints_2d"][:, :NUM_KEYPOINTS])
        if "keypoints_3d" in floats and floats["keypoints_3d"].shape[-1] == 3:
            floats["keypoints_3d"] = _with_confidence(floats["keypoints_3d"])
        genders: dict[str, np.ndarray] = {}
        if self.source.format == HSMR:
            genders["skel_gender"] = np.full(count, self.source.skel_gender, object)
        elif "smpl_gender" in texts:
            genders["smpl_gender"] = _genders(texts["smpl_gender"])
        else:
            genders["smpl_gender"] = np.full(count, self.source.smpl_gender or "neutral", object)
        return AnnotationRows(
            source=self.source.name,
            source_row=np.arange(start, stop, dtype=np.int64),
            imgname=texts["imgname"],
            **floats,
            **genders,
        )


def plan_source(source: Source, cache_dir: Path) -> SourceReader:
    """Read the headers of a source's label file, and check that every key is there with a width that can be read.

    Its bytes are checked, and compressed members unpacked into `cache_dir`, by `SourceReader.open`, or when rows are
    first read. Raises `UserError` for a missing or broken file or key.
    """
    file = LabelFile(source.file, cache_dir, source.allow_pickle)
    keys = _find_keys(source, file)
    num_rows = _num_rows(source, file, keys)
    for column, key in keys.items():
        _check_shape(source, file, column, key)
    return SourceReader(source, num_rows, file.content_id(list(keys.values())), file, keys, cache_dir)


def open_source(source: Source, cache_dir: Path) -> SourceReader:
    """`plan_source` and `SourceReader.open` in one: the file is checked whole, before any work."""
    reader = plan_source(source, cache_dir)
    reader.open()
    return reader


def _state(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _find_keys(source: Source, file: LabelFile) -> dict[str, str]:
    keys = {}
    for column, names in source.fields.items():
        if column == "smpl_gender" and source.smpl_gender is not None:
            continue  # the manifest has the last word
        present = [name for name in names if name in file]
        if present:
            keys[column] = present[0]
        elif column in REQUIRED[source.format]:
            raise UserError(
                f"{file.path} has no key {' or '.join(map(repr, names))} ({column} of format {source.format!r}). "
                f"It has: {', '.join(sorted(file)) or 'none'}. If it is there under another name, say so in the "
                f'manifest: [sources.fields] {column} = "that name".'
            )
    return keys


def _num_rows(source: Source, file: LabelFile, keys: Mapping[str, str]) -> int:
    first = keys["imgname"]
    for key in keys.values():
        if file.shape(key)[:1] != file.shape(first)[:1] or not file.shape(key):
            raise UserError(
                f"{file.path}: {first!r} has shape {file.shape(first)} but {key!r} has {file.shape(key)}. Expected the "
                "same number of rows in every key. The file is broken, or the manifest's fields name a wrong key."
            )
    num_rows = file.shape(first)[0]
    if num_rows == 0:
        raise UserError(f"{file.path} holds no rows.")
    if source.rows is not None and num_rows != source.rows:
        raise UserError(
            f"{file.path} holds {num_rows:,} rows, but the manifest expects {source.rows:,} of source {source.name!r}. "
            "It is another release of the file: fetch the right one, or change `rows` in the manifest."
        )
    return num_rows


def _check_shape(source: Source, file: LabelFile, column: str, key: str) -> None:
    shape, dtype = file.shape(key)[1:], file.dtype(key)
    betas = column.endswith("_betas")
    allowed = (((NUM_BETAS, source.num_betas),),) if betas else _SHAPES[column]
    if not any(_fits(shape, option) for option in allowed):
        hint = ""
        if betas and len(shape) == 1 and shape[0] > source.num_betas:
            hint = (
                f" To use the first {NUM_BETAS} of them, as CameraHMR does, say num_betas = {shape[0]} in the source."
            )
        raise UserError(
            f"{file.path}: {key!r} ({column}) has shape {_show(file.shape(key)[:1] + shape)}. "
            f"Expected {' or '.join(_show(('N', *option)) for option in allowed)}.{hint}"
        )
    kinds = "USO" if column in _TEXTS else "fiu"
    if dtype.kind not in kinds:
        expected = "texts" if column in _TEXTS else "numbers"
        raise UserError(f"{file.path}: {key!r} ({column}) holds {dtype}. Expected {expected}.")


def _fits(shape: tuple[int, ...], option: tuple) -> bool:
    if len(shape) != len(option):
        return False
    ranges = [width if isinstance(width, tuple) else (width, width) for width in option]
    return all(low <= size <= high for size, (low, high) in zip(shape, ranges, strict=True))


def _show(shape: tuple) -> str:
    def width(size) -> str:
        if not isinstance(size, tuple):
            return str(size)
        low, high = size
        return str(low) if low == high else f"{low} or more" if high == _ANY else f"{low} to {high}"

    return f"({', '.join(map(width, shape))}{',' if len(shape) == 1 else ''})"


def _texts(column: np.ndarray) -> np.ndarray:
    """Object array of str. What is no text stays as it is, for the row check to reject."""
    if column.dtype.kind == "U":
        return column.astype(object)
    texts = np.empty(len(column), object)
    texts[:] = [_decode(value) for value in column.tolist()]
    return texts


def _decode(value):
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _genders(texts: np.ndarray) -> np.ndarray:
    genders = np.empty(len(texts), object)
    genders[:] = [_GENDERS.get(text.strip().lower(), text) if isinstance(text, str) else text for text in texts]
    return genders


def _float32(column: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, and the row is rejected
        return np.array(column, np.float32, order="C")


def _two_sides(scale: np.ndarray, unit: str) -> np.ndarray:
    if unit == "px":
        scale = scale / np.float32(PX_PER_SCALE)
    if scale.ndim == 1:
        scale = scale[:, None]
    return np.ascontiguousarray(np.broadcast_to(scale, (len(scale), 2)))


def _with_confidence(points: np.ndarray) -> np.ndarray:
    """Append confidence: 1, or 0 where the point itself is not there."""
    confidence = np.isfinite(points).all(-1, keepdims=True).astype(np.float32)
    return np.concatenate([points, confidence], axis=-1)
