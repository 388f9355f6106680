"""Shards back as arrays with named columns, lazily.

    shards = load_shards("data/open")
    shards["v2v_mm"].mean()                # one column of all rows
    shards[17]["skel_q"]                   # one row
    for shard in shards.files(): ...       # shard by shard
    load_shards("s3://bucket/open")        # see hmr_skel.data.storage

What is null in the file comes as NaN in float arrays, None in texts and -1 in whole numbers; `valid(column)` tells.

Parquet is decoded a row group at a time, two thousand rows to get one. Where single rows are wanted, each shard is
unpacked once (`open_rows`) into two arrays of structured types beside the shards: its rows as samples need them, of
which one costs one read of 1.7 kB, and a few facts of each row, which the rules of quality ask for. These files appear
by rename, and may be deleted whenever nobody reads them.
"""

import difflib
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.atomic import replacing
from hmr_skel.data.schema import column_shape
from hmr_skel.data.storage import Place, each, in_arrow, local_folder, locate, open_parquet
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

UNPACKED_FORMAT = "2"
"""Changes whenever the layout or the meaning of unpacked files does."""

_NUMBERS = ("center", "cam_int", "keypoints_2d", "keypoints_3d", "skel_q", "skel_betas", "skel_transl")
"""What an unpacked row has, under the shard's names and in its units, float32; what is null in the shard is NaN."""
_FILE_NAME = re.compile(r".+-(\d{5,})-of-(\d{5,})\.parquet")


class Shards:
    """Rows of one or more Parquet shards. Nothing is read until it is asked for, and only the columns asked for."""

    def __init__(
        self, paths: Sequence[Place], columns: Sequence[str], footers: Sequence[pq.FileMetaData] | None = None
    ):
        """`footers` are those of the files, where they have been read already."""
        self.paths = tuple(paths)
        self.columns = tuple(columns)
        self._footers = each(_read_footer, self.paths) if footers is None else footers
        self._schema = _schema(self._footers[0])
        self._groups = [(i, group) for i, footer in enumerate(self._footers) for group in range(footer.num_row_groups)]
        counts = [self._footers[i].row_group(group).num_rows for i, group in self._groups]
        self._starts = np.cumsum([0, *counts])  # of each row group, and the total
        self._row_group = lru_cache(maxsize=2)(self._read_row_group)

    def __reduce__(self):
        return Shards, (self.paths, self.columns)  # to worker processes without the cache

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Shards({len(self):,} rows in {len(self.paths)} files; {', '.join(self.columns)})"

    def __getitem__(self, key: str | int | np.integer | slice | Sequence[int] | np.ndarray) -> Any:
        """A column name: its array over all rows, [N], [N 46], [N 44 3]... A row number: that row as a dict of values
        (null is None). A slice or an array of row numbers: a dict of arrays."""
        if isinstance(key, str):
            self._check_columns([key])
            return _to_numpy(self._read(key), self._schema.field(key))
        if not isinstance(key, int | np.integer):
            chosen = key if isinstance(key, slice) or len(key) else slice(0)
            rows = self._rows(np.arange(len(self))[chosen])
            return {name: _to_numpy(column, self._schema.field(name)) for name, column in rows.items()}
        row = self._rows(np.array([range(len(self))[int(key)]]))
        return {
            name: None if not column[0].is_valid else _to_numpy(column, self._schema.field(name))[0]
            for name, column in row.items()
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Row by row, in order; for speed, take `files()` and whole columns."""
        return (self[i] for i in range(len(self)))

    def valid(self, column: str) -> np.ndarray:
        """[N] whether the row has a value there (is annotated, was fitted)."""
        self._check_columns([column])
        return self._read(column).is_valid().to_numpy()

    def files(self) -> Iterator["Shards"]:
        """One file at a time, as `Shards` of its own."""
        return (Shards([path], self.columns, [footer]) for path, footer in zip(self.paths, self._footers, strict=True))

    @property
    def arrow(self) -> "Dataset":
        """The same files as a pyarrow dataset: filters, projections, `.to_table().to_pandas()`."""
        from pyarrow.dataset import dataset  # imports pandas where that is installed

        store, _ = in_arrow(self.paths[0])
        return dataset([in_arrow(path)[1] for path in self.paths], format="parquet", filesystem=store)

    def _check_columns(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.columns:
                raise _unknown_column(name, self.columns, self.paths[0])

    def _read(self, column: str) -> pa.ChunkedArray:
        def read(path: Place) -> pa.Table:
            with open_parquet(path) as parquet:
                return _sound(parquet.read([column]))

        tables = each(read, self.paths)
        return pa.chunked_array(
            [chunk for table in tables for chunk in table.column(0).chunks], tables[0].schema[0].type
        )

    def _rows(self, rows: np.ndarray) -> dict[str, pa.ChunkedArray]:
        """Rows in the given order: each row group in question is decoded once."""
        if not len(rows):
            return {name: pa.chunked_array([], self._schema.field(name).type) for name in self.columns}
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(groups, kind="stable")
        pieces = [
            self._row_group(*self._groups[group]).take(rows[groups == group] - self._starts[group])
            for group in np.unique(groups).tolist()
        ]
        table = pa.concat_tables(pieces).take(np.argsort(order))
        return {name: table[name] for name in self.columns}

    def _read_row_group(self, file: int, group: int) -> pa.Table:
        with open_parquet(self.paths[file]) as parquet:
            return _sound(parquet.read_row_group(group, columns=list(self.columns))).select(self.columns)


def load_shards(
    path: str | Place | Sequence[str | Place],
    columns: Sequence[str] | None = None,
    *,
    shards: Sequence[int] | None = None,
    split: str | None = None,
) -> Shards:
    """Open a dataset, lazily.

    Args:
        path: a dataset's folder (the one with `data/` in it), one Parquet file, or several; URIs as well.
        columns: which; all if not given.
        shards: numbers of shards of a folder, from 0; all that are there if not given.
        split: `train`, or `test` for the held-out shards; both if not given.

    Raises `UserError` where there is no shard, a file is broken, or a column is unknown.
    """
    paths = _find(path, shards)
    footers = each(_read_footer, paths)
    if split is not None:
        if split not in ("train", "test"):
            raise UserError(f"unknown split {split!r}. Expected train or test.")
        kept = [i for i, footer in enumerate(footers) if _split(footer) == split]
        if not kept:
            raise UserError(f"{path} holds no shard of split {split!r} (of {len(paths)} shards). Build it first.")
        paths, footers = [paths[i] for i in kept], [footers[i] for i in kept]
    schema = _schema(footers[0])
    for file, footer in zip(paths, footers, strict=True):
        if not _schema(footer).equals(schema):
            raise UserError(f"{file} has other columns than {paths[0]}: they were made by different versions. Rebuild.")
    for name in columns or ():
        if name not in schema.names:
            raise _unknown_column(name, schema.names, paths[0])
    return Shards(paths, schema.names if columns is None else columns, footers)


def _find(path: str | Place | Sequence[str | Place], shards: Sequence[int] | None) -> list[Place]:
    if isinstance(path, Sequence) and not isinstance(path, str):
        if not path:
            raise UserError("no Parquet files given. Expected a dataset's folder or its files.")
        return [locate(item) for item in path]
    path = locate(path)
    if path.is_file():
        return [path]
    folder = path / "data" if (path / "data").is_dir() else path
    found = {}
    for file in sorted(folder.glob("*.parquet")):
        if match := _FILE_NAME.fullmatch(file.name):
            found[file] = (int(match[1]), int(match[2]))
    if not found:
        raise UserError(
            f"no shards in {path}. Expected {path / 'data' / 'train-00000-of-00012.parquet'} or the like; "
            "`hmr-skel fit` and `make dataset` make them."
        )
    counts = sorted({count for _, count in found.values()})
    if len(counts) > 1:
        raise UserError(
            f"{folder} mixes datasets of {' and '.join(map(str, counts))} shards. Delete the files of the old one."
        )
    if shards is None:
        return list(found)
    by_index = {index: file for file, (index, _) in found.items()}
    for index in shards:
        if index not in by_index:
            have = ", ".join(map(str, sorted(by_index)))
            raise UserError(f"no shard {index} in {path}: it has {have} of {counts[0]}. `hmr-skel fit` makes one.")
    return [by_index[index] for index in shards]


def _read_footer(path: Place) -> pq.FileMetaData:
    with open_parquet(path) as file:
        return file.metadata


def _schema(footer: pq.FileMetaData) -> pa.Schema:
    return footer.schema.to_arrow_schema()


def _sound(table: pa.Table) -> pa.Table:
    table.validate(full=True)  # texts that are none, which pyarrow would find only later
    return table


def _split(footer: pq.FileMetaData) -> str:
    return (footer.metadata or {}).get(b"hmr_skel.split", b"train").decode(errors="replace")


def _unknown_column(name: str, known: Sequence[str], path: Place) -> UserError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"It has: {', '.join(known)}."
    return UserError(f"no column {name!r} in {path}. {hint}")


def _to_numpy(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    shape = column_shape(field)
    if shape:
        parts = [_fold(chunk) for chunk in column.chunks]
        flat = np.concatenate(parts) if parts else np.empty((0, int(np.prod(shape))), np.float32)
        return flat.reshape(len(flat), *shape)
    if pa.types.is_integer(field.type):
        return column.fill_null(-1).to_numpy()
    return column.to_numpy()


def _fold(chunk: pa.FixedSizeListArray) -> np.ndarray:
    width = chunk.type.list_size
    values = chunk.values.slice(chunk.offset * width, len(chunk) * width).to_numpy(zero_copy_only=False)
    values = values.reshape(len(chunk), width)
    if chunk.null_count:
        values = np.where(chunk.is_valid().to_numpy(zero_copy_only=False)[:, None], values, np.float32(np.nan))
    return values


@dataclass(frozen=True)
class RowCache:
    """Unpacked rows of several files, end to end. It holds none of them, so that it is cheap to send to a process."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """Number of each file's first row, and the number of all rows."""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, row: int) -> np.record:
        """One row, a copy: source and imgname (texts), side of the square box (px), and what `_NUMBERS` lists."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        i = bisect_right(self.starts, row) - 1
        dtype, offset = _layout(self.files[i])
        return np.fromfile(self.files[i], dtype, 1, offset=offset + (row - self.starts[i]) * dtype.itemsize)[0]

    def facts(self, name: str) -> np.ndarray:
        """[N] of all rows: source, status and skel_gender (bytes, empty where null), v2v_mm (NaN where not fitted),
        max_abs_beta (NaN where there is no SKEL), num_keypoints_2d (of any confidence) or has_camera."""
        return np.concatenate(list(self._facts(name)))

    def codes(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A fact that is a text, of which there are few: an index [N] into the sorted texts; -1 where null."""
        texts = sorted({text for part in self._facts(name) for text in set(part.tolist())} - {b""})
        values = self.facts(name)
        codes = np.full(len(values), -1, np.int16)
        for code, text in enumerate(texts):
            codes[values == text] = code
        return codes, [text.decode() for text in texts]

    def _facts(self, name: str) -> Iterator[np.ndarray]:
        return (np.load(_facts_of(file), mmap_mode="r")[name] for file in self.files)


def open_rows(shards: Shards, quiet: bool = False) -> RowCache:
    """The rows of some shards of a dataset, in their order.

    Shards that are not unpacked yet, or have changed since, are unpacked into `.cache/samples` in the dataset's folder,
    or in `local_folder` of one in a store; with a progress bar, unless `quiet`.

    Raises `UserError` for a broken shard, or where the folder cannot be written.
    """
    from tqdm import tqdm

    dataset = shards.paths[0].parent
    folder = local_folder(dataset.parent if dataset.name == "data" else dataset) / ".cache" / "samples"
    files = [folder / name for name in each(_unpacked_name, shards.paths)]
    missing = [i for i, file in enumerate(files) if not _is_there(file)]
    parts = list(shards.files()) if missing else []
    hidden = True if quiet or not missing else None  # None: where there is no terminal
    for i in tqdm(missing, desc="unpacking rows", unit="shard", leave=False, disable=hidden):
        _unpack(parts[i], files[i])
        for old in folder.glob(f"{shards.paths[i].stem}-*"):
            if old not in (files[i], _facts_of(files[i])):  # of the shard as it was before
                old.unlink(missing_ok=True)
    counts = [len(np.load(_facts_of(file), mmap_mode="r")) for file in files]
    return RowCache(tuple(files), tuple(np.cumsum([0, *counts]).tolist()))


@lru_cache(maxsize=4096)
def _layout(file: Path) -> tuple[np.dtype, int]:
    """The type of a file's rows, and where the first of them begins, in bytes."""
    rows = np.load(file, mmap_mode="r")
    return np.dtype((np.record, rows.dtype)), rows.offset


def _facts_of(file: Path) -> Path:
    """The file beside one of rows."""
    return file.with_name(f"{file.stem}-facts.npy")


def _is_there(file: Path) -> bool:
    """Whether a file of rows and that of their facts are whole: a disk that was full or went down may cut them."""
    try:
        rows, facts = (np.load(path, mmap_mode="r") for path in (file, _facts_of(file)))
    except (OSError, ValueError, EOFError):
        return False
    return len(rows) == len(facts)


def _unpacked_name(shard: Place) -> str:
    """The name of a shard's unpacked file, which is another one when the shard has changed."""
    state = shard.stat()
    return f"{shard.stem}-{UNPACKED_FORMAT}-{state.st_size}-{int(1e6 * state.st_mtime)}.npy"


def _unpack(shard: Shards, file: Path) -> None:
    texts = {}
    for name in ("source", "imgname", "status", "skel_gender"):
        texts[name] = np.array(["" if text is None else text for text in shard[name].tolist()], str)
    rows = {name: texts[name] for name in ("source", "imgname")}
    rows |= {"side": shard["scale"].max(1) * np.float32(PX_PER_SCALE)}
    rows |= {name: shard[name] for name in _NUMBERS}
    facts = {
        **{name: np.char.encode(texts[name], "utf-8") for name in ("source", "status", "skel_gender")},
        "v2v_mm": shard["v2v_mm"],
        "max_abs_beta": np.abs(rows["skel_betas"]).max(1),
        "num_keypoints_2d": (rows["keypoints_2d"][..., 2] > 0).sum(1).astype(np.uint8),
        "has_camera": np.isfinite(rows["cam_int"]).min((1, 2)),
    }
    _write_records(rows, file)
    _write_records(facts, _facts_of(file))


def _write_records(columns: Mapping[str, np.ndarray], file: Path) -> None:
    """Columns [N ..] as an array of records [N]."""
    records = np.empty(len(columns["source"]), [(name, c.dtype, c.shape[1:]) for name, c in columns.items()])
    for name, column in columns.items():
        records[name] = column
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, records)
    except (OSError, UserError) as error:
        raise UserError(
            f"rows have to be unpacked once into {file.parent}, which cannot be written: {error} Make it writable, or "
            "a link to a folder that is and has room (1.7 kB a row)."
        ) from error
