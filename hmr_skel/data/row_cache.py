"""A dataset's rows for random access: Parquet shards, decoded once into memory-mapped Arrow files beside them.

Parquet has to be decoded a row group at a time, two thousand rows to get one. The cache holds what samples need, one
packed record of 1.5 kB per row, so that a row costs one read and no more memory than its own pages. Its files appear by
rename and are named by a fingerprint of their shard; they may be deleted whenever nobody reads them.
"""

import contextlib
import errno
import hashlib
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.atomic import replacing
from hmr_skel.data.storage import Place, each, local_folder, open_parquet
from hmr_skel.errors import UserError

FORMAT = "1"
"""Changes whenever the cache files' layout or meaning does."""
_BATCH_ROWS = 2048
RELEASE_AFTER_ROWS = 8
"""After so many reads the mapped pages are handed back to the system, which keeps them cached as long as it has room:
else all that was ever read would count as the process's memory. One read may map a megabyte, what is around it too."""

NUMBERS: dict[str, tuple[int, ...]] = {
    "center": (2,),  # px
    "side": (1,),  # of the box, px
    "cam_int": (3, 3),  # px
    "keypoints_2d": (44, 3),
    "keypoints_3d": (44, 4),
    "skel_q": (46,),
    "skel_betas": (10,),
    "skel_transl": (3,),
}
"""The packed record of a row, float32; what is null in the shard is NaN here."""
_WIDTH = sum(int(np.prod(shape)) for shape in NUMBERS.values())
_TEXTS = ("source", "imgname", "status", "skel_gender")
_CACHE_SCHEMA = pa.schema(
    [
        pa.field("numbers", pa.list_(pa.float32(), _WIDTH), nullable=False),
        *(pa.field(name, pa.string()) for name in _TEXTS),
        pa.field("v2v_mm", pa.float32(), nullable=False),  # NaN where the row was not fitted
        pa.field("max_abs_beta", pa.float32(), nullable=False),  # NaN where there is no SKEL
        pa.field("num_keypoints_2d", pa.uint8(), nullable=False),  # of any confidence
        pa.field("has_camera", pa.bool_(), nullable=False),
    ]
)
_SHARD_COLUMNS = [
    *("center", "scale", "cam_int", "keypoints_2d", "keypoints_3d", "skel_q", "skel_betas", "skel_transl"),
    *(*_TEXTS, "v2v_mm"),
]


@dataclass(frozen=True)
class Row:
    """One row, copied out of the file. NaN is "not annotated"."""

    source: str
    imgname: str
    center: np.ndarray  # [2] px
    side: float  # of the square box, px
    cam_int: np.ndarray  # [3 3] px
    keypoints_2d: np.ndarray  # [44 3]
    keypoints_3d: np.ndarray  # [44 4]
    skel_q: np.ndarray  # [46]
    skel_betas: np.ndarray  # [10]
    skel_transl: np.ndarray  # [3]


class RowCache:
    """Rows of several cache files, end to end. Cheap to pickle: a process opens the files that it reads."""

    def __init__(self, files: Sequence[Path], counts: Sequence[int]) -> None:
        self.files, self.counts = tuple(files), tuple(counts)
        self._starts = np.concatenate(([0], np.cumsum(self.counts, dtype=np.int64))).tolist()
        self._open: dict[int, _MappedFile] = {}
        self._reads = 0

    def __reduce__(self):
        return RowCache, (self.files, self.counts)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> Row:
        """Row number `row` of all files together."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        i = bisect_right(self._starts, row) - 1
        if i not in self._open:
            self._open[i] = _MappedFile(self.files[i])
        self._reads += 1
        if self._reads % RELEASE_AFTER_ROWS == 0:
            for file in self._open.values():
                file.release()
        return self._open[i].row(row - self._starts[i])

    def numbers(self, column: str) -> np.ndarray:
        """[N] one of the columns of numbers beside the packed ones, over all rows."""
        return np.concatenate(self._column(column))

    def texts(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A column of few distinct texts over all rows: an index [N] into the sorted texts; -1 where null."""
        encoded = [chunk.dictionary_encode() for chunk in self._column(column)]
        names = sorted({name for chunk in encoded for name in chunk.dictionary.to_pylist()})
        codes = []
        for chunk in encoded:
            renumbered = np.array([names.index(name) for name in chunk.dictionary.to_pylist()] + [-1], np.int16)
            codes.append(renumbered[chunk.indices.fill_null(len(renumbered) - 1).to_numpy()])
        return np.concatenate(codes), names

    def _column(self, column: str) -> list:
        return [chunk for file in self.files for chunk in _MappedFile(file).column(column)]


class _MappedFile:
    """One cache file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._map)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]  # views of the map
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()
        self._records = [batch["numbers"].flatten().to_numpy().reshape(-1, _WIDTH) for batch in self._batches]

    def row(self, row: int) -> Row:
        i = bisect_right(self._starts, row) - 1
        row -= self._starts[i]
        batch = self._batches[i]
        return Row(
            source=batch["source"][row].as_py(),
            imgname=batch["imgname"][row].as_py(),
            **_unpack(self._records[i][row].copy()),
        )

    def column(self, name: str) -> list:
        """The column's pieces: of texts as Arrow arrays (views of the map), of numbers as NumPy arrays."""
        pieces = [batch[name] for batch in self._batches]
        return pieces if name in _TEXTS else [piece.to_numpy(zero_copy_only=False) for piece in pieces]

    def release(self) -> None:
        with contextlib.suppress(AttributeError):  # Linux: elsewhere the system does it when it is short of memory
            self._map.madvise(mmap.MADV_DONTNEED)


def open_rows(shards: Sequence[Place], cache: Path | None = None, quiet: bool = False) -> RowCache:
    """The rows of some shards, in their order, through cache files that are written where they are missing or stale.

    Args:
        shards: Parquet files of one dataset.
        cache: the folder of the cache files; by default `.cache/samples` in the dataset's folder, or `local_folder`.
        quiet: no progress bar.

    Raises `UserError` for a broken shard, or where the cache cannot be written.
    """
    folder = _default_folder(shards[0]) if cache is None else cache
    names, counts = zip(*each(shards[0], _name_and_rows, shards), strict=True)
    files = [folder / name for name in names]
    missing = [i for i, file in enumerate(files) if not file.exists()]
    if missing:
        _check_writable(folder)
        bar = tqdm(
            total=sum(counts[i] for i in missing),
            desc="unpacking rows",
            unit="row",
            unit_scale=True,
            leave=False,
            disable=True if quiet else None,
        )
        with bar:
            for i in missing:
                _convert(shards[i], files[i], bar)
                if cache is None:  # elsewhere, files of that name may be another dataset's
                    _remove_stale(shards[i], files[i])
    return RowCache(files, counts)


def _name_and_rows(shard: Place) -> tuple[str, int]:
    """The name of a shard's cache file, which is another for other content, and the shard's number of rows.

    The name is told by the Parquet file's own summary: schema, sizes, offsets and statistics of every column.
    """
    with open_parquet(shard) as parquet, shard.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        size = file.tell() + 4
        file.seek(-8 - length, 2)
        key = hashlib.sha256(f"{FORMAT} {size} ".encode() + file.read(length)).hexdigest()[:16]
        return f"{shard.stem}-{key}.arrow", parquet.metadata.num_rows


def _default_folder(shard: Place) -> Path:
    return local_folder(shard.parent.parent if shard.parent.name == "data" else shard.parent) / ".cache" / "samples"


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(
            f"rows have to be unpacked once into {folder}, which cannot be written: {error.strerror}. Make it "
            "writable, or a link to a folder that is and has room (1.6 kB a row)."
        ) from error


def _convert(shard: Place, target: Path, bar: tqdm) -> None:
    with (
        replacing(target) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, _CACHE_SCHEMA) as writer,
    ):
        for part in _read(shard):
            writer.write_batch(_pack(part))
            bar.update(part.num_rows)


def _remove_stale(shard: Place, current: Path) -> None:
    for old in current.parent.glob(f"{shard.stem}-*.arrow"):
        if old != current:
            old.unlink(missing_ok=True)


def _read(shard: Place) -> Iterator[pa.RecordBatch]:
    with open_parquet(shard) as parquet:
        missing = [name for name in _SHARD_COLUMNS if name not in parquet.schema_arrow.names]
        if missing:
            raise UserError(
                f"{shard} has no column {', '.join(missing)}: it is no shard of this version. Build it again."
            )
        yield from parquet.iter_batches(_BATCH_ROWS, columns=_SHARD_COLUMNS)


def _pack(part: pa.RecordBatch) -> pa.RecordBatch:
    count = part.num_rows
    columns = {name: _floats(part[name]) for name in _SHARD_COLUMNS if name not in _TEXTS}
    columns["side"] = columns.pop("scale").max(axis=1, keepdims=True) * np.float32(PX_PER_SCALE)
    packed = np.concatenate([columns[name] for name in NUMBERS], axis=1)
    betas, points = columns["skel_betas"], columns["keypoints_2d"].reshape(count, 44, 3)
    return pa.RecordBatch.from_arrays(
        [
            pa.FixedSizeListArray.from_arrays(pa.array(packed.reshape(-1)), _WIDTH),
            *(part[name] for name in _TEXTS),
            pa.array(columns["v2v_mm"][:, 0]),
            pa.array(np.abs(betas).max(axis=1)),
            pa.array((points[..., 2] > 0).sum(axis=1).astype(np.uint8)),
            pa.array(np.isfinite(columns["cam_int"]).all(axis=1)),
        ],
        schema=_CACHE_SCHEMA,
    )


def _floats(column: pa.Array) -> np.ndarray:
    """[N width] a copy, NaN where null."""
    is_list = pa.types.is_fixed_size_list(column.type)
    values = column.drop_null()
    dense = np.full((len(column), column.type.list_size if is_list else 1), np.nan, np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    dense[there] = (values.flatten() if is_list else values).to_numpy().reshape(-1, dense.shape[1])
    return dense


def _unpack(numbers: np.ndarray) -> dict:
    parts, start = {}, 0
    for name, shape in NUMBERS.items():
        stop = start + int(np.prod(shape))
        parts[name] = numbers[start:stop].reshape(shape)
        start = stop
    return parts | {"side": float(parts["side"][0])}
