"""Writes a shard's three files, each by rename: data, rejects, and last the meta file that makes the shard complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.atomic import replacing
from hmr_skel.data.meta import meta_text
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA, SCHEMA_VERSION, rejects_table
from hmr_skel.data.shards import Shard
from hmr_skel.rows import Reject

ROW_GROUP_ROWS = 2048
"""4 MB of all columns: the least that a reader decodes for one row, and enough for columns to compress."""
_WORDS = ["source", "keypoints_3d_source", "smpl_gender", "skel_gender", "status", "reason"]  # few distinct values


def write_shard(
    out: Path, shard: Shard, table: pa.Table, *, fingerprint: str, manifest_name: str, fit_version: int
) -> Path:
    """Write the kept rows. The old meta file, if any, goes first: from here on the shard is unfinished."""
    if not table.schema.equals(SCHEMA):
        raise ValueError("the table is not of SCHEMA")
    if shard.meta_file(out).exists():
        shard.meta_file(out).unlink()
    provenance = {
        "hmr_skel.schema_version": str(SCHEMA_VERSION),
        "hmr_skel.manifest": manifest_name,
        "hmr_skel.fingerprint": fingerprint,
        "hmr_skel.fit_version": str(fit_version),
        "hmr_skel.shard": shard.number,
        "hmr_skel.split": "test" if shard.held_out else "train",
    }
    return _write(shard.data_file(out), table.replace_schema_metadata(provenance))


def write_rejects(out: Path, shard: Shard, rejects: list[Reject]) -> Path:
    """Write the rows left out, with their reasons. Always, be there none: a missing file must mean trouble."""
    rejects = sorted(rejects, key=lambda reject: (reject.source, reject.source_row))
    return _write(shard.rejects_file(out), rejects_table(rejects).cast(REJECTS_SCHEMA))


def write_meta(
    out: Path, shard: Shard, fingerprint: str, info: Mapping[str, Any], made_from: Mapping[str, Any] | None = None
) -> Path:
    """Write the meta file, which completes the shard. To be called last.

    `made_from` is what the fingerprint is the hash of. `info` (counts, timings, error statistics, ...; JSON values) is
    kept beside what `is_complete` asks for. Raises `ValueError` where kept + rejected is not the number of rows of the
    shard.
    """
    files, counts = {}, []
    for path in (shard.data_file(out), shard.rejects_file(out)):
        counts.append(pq.read_metadata(path).num_rows)
        files[path.relative_to(out).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    kept, rejected = counts
    if kept + rejected != shard.num_rows:
        raise ValueError(f"shard {shard.number}: kept {kept} + rejected {rejected} is not read {shard.num_rows}")
    meta = {
        **info,
        "shard": shard.index,
        "shards": shard.count,
        "split": "test" if shard.held_out else "train",
        "rows": shard.num_rows,
        "kept": kept,
        "rejected": rejected,
        "pieces": [{"source": piece.source, "start": piece.start, "stop": piece.stop} for piece in shard.pieces],
        "made_from": dict(made_from or {}),
        "fingerprint": fingerprint,
        "files": files,
    }
    path = shard.meta_file(out)
    with replacing(path) as temporary:
        temporary.write_text(meta_text(meta))
    return path


def _write(path: Path, table: pa.Table) -> Path:
    with replacing(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            use_dictionary=[name for name in _WORDS if name in table.column_names],
        )
    return path
