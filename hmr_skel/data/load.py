"""Read shards lazily as arrays with named columns, and single rows quickly.

    shards = load_shards("data/open")
    shards["v2v_mm"].mean()                # one column of all rows
    shards[17]["skel_q"]                   # one row
    for shard in shards.files(): ...       # shard by shard
    load_shards("s3://bucket/open")        # see hmr_skel.data.storage

Null becomes NaN in float arrays, None in strings and -1 in integers; `valid(column)` tells which values are null.

Parquet is decoded by row groups of two thousand rows. So `open_rows` unpacks each shard once, beside the dataset, into
a structured array, from which one row is one read of 1.7 kB.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.atomic import replacing
from hmr_skel.data.schema import column_shape
from hmr_skel.data.shards import Shard, elsewhere, find_states
from hmr_skel.data.storage import Place, each, local_folder, locate, open_parquet
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder
from hmr_skel.progress import progress_bar

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset


class Shards:
    """Rows of one or more Parquet shards. Only requested columns are read, when they are requested."""

    def __init__(
        self, paths: Sequence[Place], columns: Sequence[str], footers: Sequence[pq.FileMetaData] | None = None
    ):
        """`footers` are the footers of the files, if they have been read."""
        self.paths = tuple(paths)
        self.columns = tuple(columns)
        self._footers = each(_read_footer, self.paths) if footers is None else footers
        self._schema = self._footers[0].schema.to_arrow_schema()
        files = zip(self.paths, self._footers, strict=True)
        groups = [(path, footer, i) for path, footer in files for i in range(footer.num_row_groups)]
        self._groups = [(path, i) for path, _, i in groups]
        counts = [footer.row_group(i).num_rows for _, footer, i in groups]
        self._starts = np.cumsum([0, *counts])  # of each row group, and the total
        self._row_group = lru_cache(maxsize=2)(partial(_read, columns=list(self.columns)))

    def __reduce__(self):
        return Shards, (self.paths, self.columns)  # worker processes do not get the cache

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Shards({len(self):,} rows in {len(self.paths)} files; {', '.join(self.columns)})"

    def __getitem__(self, key: str | int | np.integer | slice | Sequence[int] | np.ndarray) -> Any:
        """For a column name, its array over all rows, [N], [N 46], [N 44 3]...; for a row number, a dict of values
        (null is None); for a slice or an array of row numbers, a dict of arrays."""
        if isinstance(key, str):
            return to_numpy(self._read(key), self._schema.field(key))
        if isinstance(key, int | np.integer):
            key = int(key)
            row = self._rows(np.array([range(len(self))[key]]))
            there = {name: row[name][0].is_valid for name in self.columns}
            return {name: values[0] if there[name] else None for name, values in self._arrays(row).items()}
        return self._arrays(self._rows(np.arange(len(self))[key if isinstance(key, slice) or len(key) else slice(0)]))

    def valid(self, column: str) -> np.ndarray:
        """Whether each row [N] has a value in the column (is annotated, was fitted)."""
        return self._read(column).is_valid().to_numpy()

    def codes(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A column of few different strings, as an index [N] into the sorted strings (-1: null), and the strings."""
        encoded = self._read(column).combine_chunks().dictionary_encode()
        found = encoded.dictionary.to_pylist()
        names = sorted(found)
        places = np.array([*(names.index(name) for name in found), -1], np.int16)  # the last: null
        return places[encoded.indices.fill_null(len(found)).to_numpy()], names

    def select(self, columns: Sequence[str]) -> "Shards":
        """The same rows with only these columns. Raises `UserError` for an unknown name."""
        _check_columns(columns, self.columns, self.paths[0])
        return Shards(self.paths, columns, self._footers)

    def files(self) -> Iterator["Shards"]:
        """Yield each file as `Shards`."""
        return (Shards([path], self.columns, [footer]) for path, footer in zip(self.paths, self._footers, strict=True))

    @property
    def arrow(self) -> "Dataset":
        """The same files as a pyarrow dataset: filters, projections, `.to_table().to_pandas()`."""
        from pyarrow.dataset import dataset  # imports pandas if that is installed

        names = [str(path) if isinstance(path, Path) else path.key for path in self.paths]
        store = None if isinstance(self.paths[0], Path) else self.paths[0].store
        return dataset(names, format="parquet", filesystem=store)

    def _read(self, column: str) -> pa.ChunkedArray:
        """A column of all files. Raises `UserError` for an unknown name."""
        _check_columns([column], self.columns, self.paths[0])
        return pa.concat_tables(each(partial(_read, group=None, columns=[column]), self.paths))[column]

    def _rows(self, rows: np.ndarray) -> pa.Table:
        """The given rows in their order; each row group is decoded once."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(groups, kind="stable")
        pieces = [
            self._row_group(*self._groups[group]).take(rows[groups == group] - self._starts[group])
            for group in np.unique(groups).tolist()
        ]
        return pa.concat_tables([self._schema.empty_table().select(self.columns), *pieces]).take(np.argsort(order))

    def _arrays(self, table: pa.Table) -> dict[str, np.ndarray]:
        return {name: to_numpy(table[name], self._schema.field(name)) for name in self.columns}


def load_shards(
    path: str | Place | Sequence[str | Place] | None = None,
    columns: Sequence[str] | None = None,
    *,
    shards: Sequence[int] | None = None,
    split: str | None = None,
) -> Shards:
    """Open a dataset, lazily.

    Args:
        path: the folder of a dataset (with `data/`), one Parquet file, or several; also URIs. By default the default
            dataset, where `hmr-skel fit` puts it.
        columns: names of columns; by default all.
        shards: numbers of shards in a folder, from 0; by default all complete shards.
        split: `train`, or `test` for the held-out shards; by default both.

    Raises `UserError` if there is no shard, one is unfinished, a file is broken, or a column is unknown.
    """
    path = data_folder() / "open" if path is None else path
    if split not in (None, "train", "test"):
        raise UserError(f"unknown split {split!r}. Expected train or test.")
    paths = _find(path, shards)
    files = [
        (file, footer)
        for file, footer in zip(paths, each(_read_footer, paths), strict=True)
        if split in (None, (footer.metadata or {}).get(b"hmr_skel.split", b"train").decode(errors="replace"))
    ]
    if not files:
        raise UserError(f"{path} has no shard of split {split!r} (of {len(paths)} shards). Build it first.")
    schemas = {file: footer.schema.to_arrow_schema() for file, footer in files}
    first, schema = next(iter(schemas.items()))
    for file, other in schemas.items():
        if not other.equals(schema):
            raise UserError(f"{file} has other columns than {first}: they were made by different versions. Rebuild.")
    found = Shards(list(schemas), schema.names, [footer for _, footer in files])
    return found if columns is None else found.select(columns)


def _find(path: str | Place | Sequence[str | Place], shards: Sequence[int] | None) -> list[Place]:
    if isinstance(path, Sequence) and not isinstance(path, str):
        if not path:
            raise UserError("no Parquet files given. Expected a dataset's folder or its files.")
        return [locate(item) for item in path]
    path = locate(path)
    if path.is_file():
        return [path]
    by_index, states = {}, find_states(path)
    # A folder with only data files is a copy of these, without meta files; elsewhere each file needs its meta file.
    is_built_here = any((path / name).is_dir() for name in ("meta", "rejects", ".leases"))
    for index, state in states.items():
        if is_built_here and state.kind == "unfinished":
            raise UserError(f"{state.why}. Build the shard again, or wait until the running build has finished it.")
        if state.kind != "missing":
            by_index[index] = Shard(index, len(states), (), False).data_file(path)
    if not by_index:
        raise UserError(
            f"no shards in {path}. Expected {path / 'data' / 'train-00000-of-00012.parquet'} or the like, which "
            f"`hmr-skel fit` and `make dataset` make, or the name of a .parquet file that is there.{elsewhere(path)}"
        )
    for index in shards or ():
        if index not in by_index:
            have = ", ".join(map(str, by_index))
            raise UserError(f"no shard {index} in {path}: it has {have} of {len(states)}. `hmr-skel fit` makes one.")
    return [by_index[index] for index in (by_index if shards is None else shards)]


def _read_footer(path: Place) -> pq.FileMetaData:
    with open_parquet(path) as file:
        return file.metadata


def _read(path: Place, group: int | None, columns: Sequence[str]) -> pa.Table:
    """Read columns of a file's row group, or of all rows for None."""
    with open_parquet(path) as file:
        table = file.read(columns) if group is None else file.read_row_group(group, columns=columns)
        table.validate(full=True)  # finds invalid strings, which pyarrow would find only later
        return table.select(columns)


def _check_columns(names: Sequence[str], known: Sequence[str], path: Place) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"no column {name!r} in {path}. It has: {', '.join(known)}.")


def to_numpy(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    """A column as an array [N ...] of the shape that the field names; nulls as the module says."""
    shape = column_shape(field)
    if not shape:
        return column.fill_null(-1).to_numpy() if pa.types.is_integer(field.type) else column.to_numpy()
    values = np.full((len(column), *shape), np.nan, np.float32)
    there = pc.list_flatten(column)  # ty: ignore[missing-attribute] (pyarrow makes it when it is imported)
    values[column.is_valid().to_numpy()] = there.to_numpy().reshape(-1, *shape)
    return values


UNPACKED_FORMAT = "3"
"""It changes with the layout or the meaning of unpacked files."""

_NUMBERS = ("center", "cam_int", "keypoints_2d", "keypoints_3d", "skel_q", "skel_betas", "skel_transl")
"""The float32 columns of unpacked rows, with names and units of the shard; null is NaN."""


@dataclass(frozen=True)
class RowCache:
    """Unpacked rows of several files. It keeps none in memory, so it is cheap to send to a process."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """The number of each file's first row, and the number of all rows."""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, row: int) -> np.record:
        """One row, a copy: source and imgname (texts), side of the square box (px), and what `_NUMBERS` lists."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        i = bisect_right(self.starts, row) - 1
        dtype, offset = _layout(self.files[i])
        return np.fromfile(self.files[i], dtype, 1, offset=offset + (row - self.starts[i]) * dtype.itemsize)[0]


def open_rows(shards: Shards, quiet: bool = False) -> RowCache:
    """The rows of some shards of a dataset, in their order.

    Shards that are new or have changed are unpacked into `.cache/samples` in the dataset's folder, or for a store in
    its `local_folder`. Progress is shown unless `quiet`.

    Raises `UserError` for a broken shard, or if the folder cannot be written.
    """
    dataset = shards.paths[0].parent
    folder = local_folder(dataset.parent if dataset.name == "data" else dataset) / ".cache" / "samples"
    names = [path.name.removesuffix(".parquet") for path in shards.paths]
    files = [  # the name changes with the shard
        folder / f"{name}-{UNPACKED_FORMAT}-{state.st_size}-{int(1e6 * state.st_mtime)}.npy"
        for name, state in zip(names, each(lambda path: path.stat(), shards.paths), strict=True)
    ]
    parts = list(shards.files())
    missing = [one for one in zip(names, parts, files, strict=True) if not _is_there(one[2], len(one[1]))]
    bar = progress_bar(quiet or not missing, "shard", len(missing), "unpacking rows", iterable=missing)
    for name, part, file in bar:
        if not _is_there(file, len(part)):  # another process may have unpacked it
            _unpack(part, file)
        for old in folder.glob(f"{name}-*.npy"):
            if old != file:  # unpacked from an older version of the shard
                old.unlink(missing_ok=True)
    return RowCache(tuple(files), tuple(np.cumsum([0, *map(len, parts)]).tolist()))


@lru_cache(maxsize=4096)
def _layout(file: Path) -> tuple[np.dtype, int]:
    """The type of a file's rows, and the offset of the first row, bytes."""
    rows = np.load(file, mmap_mode="r")
    return np.dtype((np.record, rows.dtype)), rows.offset


def _is_there(file: Path, count: int) -> bool:
    """Whether a file with this number of rows is whole, since a full disk or a crash may cut it."""
    try:
        return len(np.load(file, mmap_mode="r")) == count
    except (OSError, ValueError, EOFError):
        return False


def _unpack(shard: Shards, file: Path) -> None:
    columns = {name: np.array(shard[name].tolist(), str) for name in ("source", "imgname")}
    columns |= {"side": shard["scale"].max(1) * np.float32(PX_PER_SCALE)}
    columns |= {name: shard[name] for name in _NUMBERS}
    rows = np.empty(len(shard), [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, rows)
    except (OSError, UserError) as error:
        raise UserError(
            f"rows must be unpacked into {file.parent}, which cannot be written: {error} Make it writable, or "
            "make it a link to a writable folder with room (1.7 kB per row)."
        ) from error
