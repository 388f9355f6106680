"""Checks a dataset on disk by its files alone, against what its meta files say.

`flows/verify.py` compares it with the manifest too, fits a sample of rows again, and repairs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hmr_skel.data.atomic import is_temporary
from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA
from hmr_skel.data.shards import Piece, Shard, find_files, shard_state
from hmr_skel.data.storage import Place, open_parquet
from hmr_skel.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset."""

    text: str
    """A sentence that names the file."""
    shard: int | None = None
    """The shard that has to be built again to mend it."""
    stray: Place | None = None
    """The file that does not belong there: taking it away mends it."""
    is_missing: bool = False
    """Whether the shard has no file at all: it was never built."""


@dataclass(frozen=True)
class FilesReport:
    """What the files of a dataset say."""

    count: int
    """Shards that the dataset is to have."""
    problems: list[Problem]
    sound: dict[int, dict[str, Any]]
    """Meta files of the shards that nothing is wrong with, by number; `pieces` as `Piece`s."""


def verify_files(out: Place, *, count: int | None = None, partial: bool = False) -> FilesReport:
    """Look at every file of a dataset.

    Each shard must be complete (`shard_state`) with the checksums that were written, with the columns of the schema,
    finite SKEL values, and exactly the rows that it was to read, kept or rejected once. No row may be in two shards, no
    file may be there that belongs to none (temporary ones aside, which builds remove), and no shard may be missing.

    Args:
        out: the dataset's folder.
        count: how many shards it is to have; what most of its files' names say, if not given.
        partial: shards that are not there at all are no problem.

    Raises `UserError` where there is no dataset.
    """
    there, others = find_files(out)
    if count is None:
        if not there:
            raise UserError(f"no dataset in {out}. Expected {out / 'meta' / 'shard-00000-of-00012.json'} or the like.")
        count = Counter(number for _, number in there).most_common(1)[0][0]
    text = "no file of a dataset has such a name."
    problems = [Problem(f"{path}: {text}", stray=path) for path in others if not is_temporary(path)]
    problems += [
        Problem(f"{path}: of no shard of this dataset, which has {count}, 0 to {count - 1}.", stray=path)
        for (index, of), paths in there.items()
        if of != count or index >= count
        for path in paths
    ]
    sound: dict[int, dict[str, Any]] = {}
    for index in range(count):
        try:
            if not partial or (index, count) in there:
                sound[index] = _verified_meta(out, Shard(index, count, (), False))
        except UserError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise  # of the disk or the store: no damage, and nothing is to be built again
            missing = (index, count) not in there
            problems.append(Problem(str(error), index, is_missing=missing))
    problems += _in_two_shards(out, sound)
    return FilesReport(count, problems, sound)


def _verified_meta(out: Place, shard: Shard) -> dict[str, Any]:
    """A shard's meta file, with `pieces` as `Piece`s. Raises `UserError` for the first thing that is wrong with it."""
    state = shard_state(out, shard, read=True)
    if state.meta is None or state.kind != "complete":
        raise UserError(f"{state.why}. Build the shard again.")
    meta = state.meta
    pieces = [Piece(piece["source"], piece["start"], piece["stop"]) for piece in meta["pieces"]]
    names = sorted({piece.source for piece in pieces})
    found = [_verified_rows(out, is_data, meta, shard, names) for is_data in (True, False)]
    sources, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    once = 0
    for piece in pieces:
        own = rows[(sources == names.index(piece.source)) & (rows >= piece.start) & (rows < piece.stop)]
        once += len(np.unique(own))
    expected = sum(max(piece.stop - piece.start, 0) for piece in pieces)
    if once != expected or len(rows) != expected:
        lost, extra = expected - once, len(rows) - once
        what = f"of {expected} rows to read, {lost} are neither kept nor rejected; {extra} too many."
        raise _wrong(shard.meta_file(out), what)
    return meta | {"pieces": pieces}


def _verified_rows(
    out: Place, is_data: bool, meta: Mapping[str, Any], shard: Shard, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Of the data or rejects file's rows the sources, by their places among `names` (-1: any other), and the numbers.

    Reads group by group. Raises `UserError` for the first thing that is wrong with the file.
    """
    path = shard.data_file(out) if is_data else shard.rejects_file(out)
    columns = [*(("skel_q", "skel_betas") if is_data else ()), "source", "source_row"]
    count = meta["kept" if is_data else "rejected"]
    with open_parquet(path) as file:
        if not file.schema_arrow.equals(SCHEMA if is_data else REJECTS_SCHEMA):
            raise _wrong(path, "other columns than this version writes.")
        if file.metadata.num_rows != count:
            raise _wrong(path, f"it has {file.metadata.num_rows:,} rows, but its meta file says {count:,}.")
        made_from = (file.schema_arrow.metadata or {}).get(b"hmr_skel.fingerprint", b"")
        if is_data and made_from != meta["fingerprint"].encode():
            raise _wrong(path, "it has another fingerprint than its meta file.")
        sources, rows, bad = [np.array([], np.int32)], [np.array([], np.int64)], Counter()
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns)
            places = pc.index_in(table["source"], pa.array(names, pa.string()))  # ty: ignore[missing-attribute]
            sources.append(pc.fill_null(places, -1).to_numpy())
            rows.append(table["source_row"].to_numpy())
            for name in columns[:-2]:
                column = table[name].combine_chunks()
                bad[name] += column.null_count + np.count_nonzero(~np.isfinite(column.flatten()))
    for name, number in bad.items():
        if number:
            raise _wrong(path, f"{name} has {number:,} values that are not finite.")
    return np.concatenate(sources), np.concatenate(rows)


def _wrong(path: Place, what: str) -> UserError:
    return UserError(f"{path}: {what} Build the shard again.")


def _in_two_shards(out: Place, metas: Mapping[int, Mapping[str, Any]]) -> list[Problem]:
    problems = []
    pieces = [(piece, index) for index in metas for piece in metas[index]["pieces"]]
    spans = sorted((piece.source, piece.start, piece.stop, index) for piece, index in pieces)
    for (source, _, stop, first), (other, start, _, second) in pairwise(spans):
        if source == other and start < stop:
            text = f"{out}: rows of {source!r} are in shard {first} and in shard {second} too. Build both again."
            problems += [Problem(text, first), Problem(text, second)]
    return problems
