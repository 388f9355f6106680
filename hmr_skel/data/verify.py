"""Checks a dataset on disk by its files alone, against what its meta files say.

`flows/verify.py` compares it with the manifest too, fits a sample of rows again, and repairs.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hmr_skel.data.atomic import is_abandoned, is_temporary
from hmr_skel.data.fingerprint import fingerprint_of, version_text
from hmr_skel.data.meta import load_meta
from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA
from hmr_skel.data.shards import Piece, Shard
from hmr_skel.data.storage import Place, open_parquet, sha256_of
from hmr_skel.errors import UserError

_FILES = {
    "data": re.compile(r"train-([0-9]{5,6})-of-([0-9]{5,6})\.parquet"),
    "rejects": re.compile(r"rejects-([0-9]{5,6})-of-([0-9]{5,6})\.parquet"),
    "meta": re.compile(r"shard-([0-9]{5,6})-of-([0-9]{5,6})\.json"),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset."""

    text: str
    """A sentence that names the file; for an outdated shard only the reason, which many may share."""
    shard: int | None = None
    """The shard that has to be built again to mend it."""
    stray: Place | None = None
    """The file that does not belong there: taking it away mends it."""
    outdated: bool = False
    """The shard is sound, but was made from other things than the manifest names now."""


@dataclass(frozen=True)
class FilesReport:
    """What the files of a dataset say."""

    count: int
    """Shards that the dataset is to have."""
    problems: list[Problem]
    sound: dict[int, dict[str, Any]]
    """Meta files of the shards that nothing is wrong with, by number."""


def verify_files(out: Place, *, count: int | None = None, partial: bool = False) -> FilesReport:
    """Look at every file of a dataset.

    Each shard must have its three files with the bytes that were written (the meta file checks itself), under its own
    names, with the columns of the schema, finite SKEL values, and exactly the rows that it was to read, kept or
    rejected once; no row may be in two shards, no file may be there that belongs to none, and no shard may be missing.

    Args:
        out: the dataset's folder.
        count: how many shards it is to have; what most of its files' names say, if not given.
        partial: shards that are not there at all are no problem.

    Raises `UserError` where there is no dataset.
    """
    there, strays = _find(out)
    if count is None:
        if not there:
            raise UserError(f"no dataset in {out}. Expected {out / 'meta' / 'shard-00000-of-00012.json'} or the like.")
        # Of two that are equally frequent the larger one: shards may be missing.
        count = max(Counter(number for _, number in there).items(), key=lambda item: (item[1], item[0]))[0]
    problems = list(strays)
    problems += [
        Problem(f"{path}: of no shard of this dataset, which has {count}, 0 to {count - 1}.", stray=path)
        for (index, of), paths in there.items()
        if of != count or index >= count
        for path in paths
    ]
    sound: dict[int, dict[str, Any]] = {}
    for index in range(count):
        try:
            if (index, count) in there:
                sound[index] = _verified_meta(out, Shard(index, count, (), False))
            elif not partial:
                raise UserError(f"{out}: shard {index} of {count} is missing. Build it.")
        except UserError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise  # of the disk or the store: no damage, and nothing is to be built again
            problems.append(Problem(str(error), index))
    problems += _in_two_shards(out, sound)
    return FilesReport(count, problems, sound)


def _find(out: Place) -> tuple[dict[tuple[int, int], list[Place]], list[Problem]]:
    """The files by the (number, count) in their names, and a problem for each file that does not belong there."""
    there: dict[tuple[int, int], list[Place]] = {}
    strays = []
    for folder, pattern in _FILES.items():
        for path in sorted((out / folder).iterdir()) if (out / folder).is_dir() else ():
            match = pattern.fullmatch(path.name)
            # 000007-of-00012 is the same number, and a file that the loader would read beside 00007-of-00012.
            if match and path.stem.endswith(f"-{Shard(int(match[1]), int(match[2]), (), False).number}"):
                there.setdefault((int(match[1]), int(match[2])), []).append(path)
            elif not is_temporary(path):
                strays.append(Problem(f"{path}: no file of a dataset has such a name.", stray=path))
            else:
                with contextlib.suppress(FileNotFoundError):  # a build that is at work has just renamed it
                    if is_abandoned(path):
                        strays.append(Problem(f"{path}: left by a build that was killed.", stray=path))
    return there, strays


def _verified_meta(out: Place, shard: Shard) -> dict[str, Any]:
    """A shard's meta file, with `pieces` as `Piece`s. Raises `UserError` for the first thing that is wrong with it."""
    path = shard.meta_file(out)
    if not path.is_file():
        raise _wrong(path, "missing; the shard is unfinished.")
    try:
        meta = load_meta(path)
    except (OSError, ValueError) as error:
        raise _wrong(path, f"not a meta file of a shard ({error}).") from error
    pieces = [Piece(piece["source"], piece["start"], piece["stop"]) for piece in meta["pieces"]]
    if (meta["shard"], meta["shards"]) != (shard.index, shard.count):
        raise _wrong(path, f"it is the meta file of shard {meta['shard']} of {meta['shards']}.")
    if meta["made_from"] and fingerprint_of(meta["made_from"]) != meta["fingerprint"]:
        raise _wrong(path, "its fingerprint is not that of what it says that it was made from.")
    files = {"data": shard.data_file, "rejects": shard.rejects_file}
    if sorted(meta["files"]) != sorted(file(Path()).as_posix() for file in files.values()):
        raise _wrong(path, f"it speaks of other files ({', '.join(map(repr, meta['files']))}).")
    names = sorted({piece.source for piece in pieces})
    found = []
    for kind, name in files.items():
        file, recorded = name(out), meta["files"][name(Path()).as_posix()]
        if not file.is_file():
            raise _wrong(file, "missing.")
        if file.stat().st_size != recorded["bytes"] or sha256_of(file) != recorded["sha256"]:
            raise _wrong(file, "not the bytes that were written.")
        found.append(_verified_rows(file, kind, meta, shard, names))
    sources, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    once = 0
    for piece in pieces:
        own = rows[(sources == names.index(piece.source)) & (rows >= piece.start) & (rows < piece.stop)]
        once += len(np.unique(own))
    expected = sum(map(len, pieces))
    if once != expected or len(rows) != expected:
        lost, extra = expected - once, len(rows) - once
        raise _wrong(path, f"of {expected} rows to read, {lost} are neither kept nor rejected; {extra} too many.")
    return meta | {"pieces": pieces}


def _verified_rows(
    path: Place, kind: str, meta: Mapping[str, Any], shard: Shard, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Of a Parquet file's rows the sources, by their places among `names` (-1 for any other), and the numbers.

    Reads group by group. Raises `UserError` for the first thing that is wrong with the file.
    """
    is_data = kind == "data"
    columns = [*(("skel_q", "skel_betas") if is_data else ()), "source", "source_row"]
    count = meta["kept" if is_data else "rejected"]
    with open_parquet(path) as file:
        if not file.schema_arrow.equals(SCHEMA if is_data else REJECTS_SCHEMA):
            raise _wrong(path, "other columns than this version writes.")
        if file.metadata.num_rows != count:
            raise _wrong(path, f"it has {file.metadata.num_rows:,} rows, but its meta file says {count:,}.")
        about = file.schema_arrow.metadata or {}
        told = [about.get(key, b"").decode("ascii", "replace") for key in (b"hmr_skel.fingerprint", b"hmr_skel.shard")]
        if is_data and told != [meta["fingerprint"], shard.number]:
            raise _wrong(path, f"it says that it is shard {told[1]}, with another fingerprint.")
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


def foreign_shards(out: Place, metas: Mapping[int, Mapping[str, Any]]) -> list[Problem]:
    """Shards that were made from other things than most others: another manifest, recipe, version, body or label file.

    Where less than two thirds agree, all are named: only the manifest could tell which of them are foreign.
    """
    kinds = {index: _common_ingredients(meta["made_from"]) for index, meta in metas.items() if meta.get("made_from")}
    problems: dict[int, Problem] = {}
    for name in sorted({name for kind in kinds.values() for name in kind}):
        values = {index: json.dumps(kind[name], sort_keys=True) for index, kind in kinds.items() if name in kind}
        common, number = Counter(values.values()).most_common(1)[0]
        clear = 3 * number > 2 * len(values)
        for index, value in values.items():
            if index not in problems and len(set(values.values())) > 1 and (value != common or not clear):
                problems[index] = Problem(
                    f"{out}: shard {index} was made from another {name} than "
                    f"{'most others' if clear else 'some others'}. Build it again.",
                    index,
                )
    return list(problems.values())


def _common_ingredients(made_from: Mapping[str, Any]) -> dict[str, Any]:
    contents = {f"label file of source {piece[0]!r}": piece[3] for piece in made_from["pieces"]}
    names = {"manifest": "manifest", "body_models": "body model", "recipe": "recipe"}
    version = {"version of the fit": version_text(made_from)}
    return {text: made_from[key] for key, text in names.items()} | version | contents
