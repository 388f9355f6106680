"""Is a dataset on disk what it says it is? Needs neither manifest nor labels: meta files say what there must be."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.npz import file_sha256
from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA
from hmr_skel.errors import UserError


def verify_dataset(out: Path) -> list[str]:
    """What is wrong with the dataset in a folder, one sentence each; nothing if it is sound.

    Checks, for every shard with a meta file, that its files have the bytes that were written, the columns of the
    schema, finite SKEL values, and that kept and rejected rows are exactly the rows that the shard was to read; and
    that no data file is without a meta file. Raises `UserError` where there is no dataset.
    """
    metas = sorted((out / "meta").glob("shard-*.json"))
    if not metas:
        raise UserError(f"no dataset in {out}. Expected {out / 'meta' / 'shard-00000-of-00012.json'} or the like.")
    problems = [problem for path in metas for problem in _verify_shard(out, path)]
    finished = {path.stem.removeprefix("shard-") for path in metas}
    for kind in ("data/train", "rejects/rejects"):
        for path in sorted(out.glob(f"{kind}-*.parquet")):
            if path.stem.split("-", 1)[1] not in finished:
                problems.append(f"{path}: unfinished, it has no meta file. Build the shard again.")
    return problems


def _verify_shard(out: Path, meta_path: Path) -> Iterator[str]:
    try:
        meta = json.loads(meta_path.read_text())
        files, pieces = dict(meta["files"]), list(meta["pieces"])
        recorded = {name: (file["bytes"], file["sha256"]) for name, file in files.items()}
        expected = {(piece["source"], row) for piece in pieces for row in range(piece["start"], piece["stop"])}
    except (ValueError, KeyError, TypeError) as error:
        yield f"{meta_path}: not a meta file of a shard ({error!r}). Build the shard again."
        return
    found: list[tuple[str, int]] = []
    for name, (size, sha256) in recorded.items():
        path = out / name
        if not path.is_file():
            yield f"{path}: missing. Build the shard again."
            return
        if path.stat().st_size != size or file_sha256(path) != sha256:
            yield f"{path}: not the bytes that were written. Build the shard again."
            return
        table = pq.read_table(path)
        schema = SCHEMA if name.startswith("data/") else REJECTS_SCHEMA
        if not table.schema.equals(schema):
            yield f"{path}: other columns than this version writes. Build the shard again."
            return
        found += zip(table["source"].to_pylist(), table["source_row"].to_pylist(), strict=True)
        if name.startswith("data/"):
            yield from _verify_values(path, table)
    if len(found) != len(set(found)) or set(found) != expected:
        lost, extra = len(expected - set(found)), len(found) - len(expected & set(found))
        yield f"{meta_path}: of {len(expected)} rows to read, {lost} are neither kept nor rejected; {extra} too many."


def _verify_values(path: Path, table: pa.Table) -> Iterator[str]:
    for name in ("skel_q", "skel_betas"):
        nulls = table[name].null_count
        bad = sum(np.count_nonzero(~np.isfinite(chunk.flatten())) for chunk in table[name].chunks)
        if nulls or bad:
            yield f"{path}: {name} has {nulls} nulls and {bad} values that are not finite."
