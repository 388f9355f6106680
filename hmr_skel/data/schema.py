"""The columns of a dataset, with units and meaning in the field metadata; tables of them; a shard's three files.

Arrays are fixed-size lists of float32, flattened row-major; the metadata key `shape` says how to fold them back. Null
is "not annotated", never zero. The meta file is written last: `shards.shard_state` looks for it.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.meta import meta_text, summarise
from hmr_skel.data.shards import Shard, fingerprint_of
from hmr_skel.data.storage import Place, put_bytes
from hmr_skel.rows import AnnotationRows, Reject

SCHEMA_VERSION = 2
"""Raise it by one whenever shards come to hold other columns, other values in columns that the fit does not compute,
or other rejects; then write the golden values anew with `python -m tests.golden`. Shards of another version are built
again."""

GIVEN = "given"
"""`status` of rows that came as SKEL and were not fitted."""
FROM_LABEL, FROM_SMPL_MESH = "label", "smpl_mesh"
"""Values of `keypoints_3d_source`."""


def declare(
    name: str, kind: pa.DataType | tuple[int, ...], meaning: str, unit: str = "", nullable: bool = True
) -> pa.Field:
    """A column; `kind` is an Arrow type, or the shape of an array of float32."""
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    if isinstance(kind, tuple):
        metadata["shape"] = " ".join(map(str, kind))
        kind = pa.list_(pa.float32(), int(np.prod(kind)))
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


SCHEMA = pa.schema(
    [
        declare("row_id", pa.string(), "stable key: source and row in its file", nullable=False),
        declare("source", pa.string(), "name of the source in the manifest", nullable=False),
        declare("source_row", pa.int64(), "row in the source's label file, from 0", nullable=False),
        declare(
            "imgname", pa.string(), "image as the label file names it; the manifest says which file", nullable=False
        ),
        declare("center", (2,), "centre of the square box in the original image: x, y", "px", nullable=False),
        declare("scale", (2,), "width and height of the box; its side is 200 * max(scale)", "200 px", nullable=False),
        declare("cam_int", (3, 3), "camera intrinsics", "px"),
        declare(
            "keypoints_2d",
            (44, 3),
            "x, y in the original image and confidence; 25 OpenPose-like, then 19 extra keypoints. Where the "
            "confidence is 0 or not a number the keypoint is not annotated and its x, y mean nothing: mask them",
            "px, px, 1",
        ),
        declare(
            "keypoints_3d",
            (44, 4),
            "x, y, z in the camera frame and confidence; see keypoints_2d and keypoints_3d_source",
            "m, m, m, 1",
        ),
        declare("keypoints_3d_source", pa.string(), "label: as annotated; smpl_mesh: of the annotated SMPL mesh"),
        declare("smpl_pose", (72,), "axis-angle of 24 joints, global_orient first, camera frame; as annotated", "rad"),
        declare("smpl_betas", (10,), "SMPL shape; as annotated", "1"),
        declare("smpl_transl", (3,), "SMPL translation, camera frame; as annotated (cam_ext added where present)", "m"),
        declare("smpl_gender", pa.string(), "SMPL model of the annotation: neutral, male or female"),
        declare("skel_q", (46,), "SKEL degrees of freedom; 0-2 are pelvis tilt, list and rotation", "rad"),
        declare("skel_betas", (10,), "SKEL shape, in the shape space of skel_gender", "1"),
        declare("skel_transl", (3,), "SKEL translation, camera frame", "m"),
        declare("skel_gender", pa.string(), "SKEL model: male or female"),
        declare("v2v_mm", pa.float32(), "mean distance of SKEL skin vertices from the annotated SMPL mesh", "mm"),
        declare("v2v_max_mm", pa.float32(), "largest such distance", "mm"),
        declare("joint_mm", pa.float32(), "mean distance of SKEL joints from those that the SMPL mesh has", "mm"),
        declare("max_limit_violation_deg", pa.float32(), "how far the worst dof is outside its range", "deg"),
        declare(
            "push",
            pa.float32(),
            "how steeply the mean squared distance would fall by the dof that its limit holds back most; 0: none",
            "mm^2/rad",
        ),
        declare("push_dof", pa.string(), "that dof; null where no limit holds one back"),
        declare(
            "beyond_deg",
            pa.float32(),
            "by how much the worst bone is turned beyond what ordinary motion needs; 0: none is",
            "deg",
        ),
        declare("iterations", pa.int32(), "solver iterations of the start that won"),
        declare("starts", pa.int32(), "starting points tried"),
        declare(
            "status",
            pa.string(),
            "given: the label held SKEL, nothing was fitted. converged, at_limit, max_iterations: how the fit ended; "
            "beyond that far: v2v_mm is above the recipe's far_v2v_mm, implausible: no human pose, unusual_shape: one "
            "person in a thousand has such betas. Rows of far and implausible are no good labels",
            nullable=False,
        ),
    ]
)

REJECTS_SCHEMA = pa.schema(
    [
        *(SCHEMA.field(name) for name in ("row_id", "source", "source_row")),
        declare("imgname", pa.string(), "image as the label file names it", nullable=False),
        declare("reason", pa.string(), "one word, the same for all rows of a kind", nullable=False),
        declare("detail", pa.string(), "what was found and expected", nullable=False),
    ]
)

FIT_COLUMNS = tuple(SCHEMA.names[SCHEMA.names.index("skel_q") :])
"""What the fit of a row adds."""


def column_shape(column: pa.Field) -> tuple[int, ...]:
    """The shape of one value: (44, 3) for keypoints_2d, () for a scalar."""
    shape = (column.metadata or {}).get(b"shape", b"")
    return tuple(map(int, shape.split()))


def shard_table(rows: AnnotationRows, fit: Mapping[str, np.ndarray] | None) -> pa.Table:
    """Rows of one source, and what the fit found, as a table of `SCHEMA`.

    Args:
        rows: the kept rows.
        fit: an array per name in `FIT_COLUMNS`, as long as `rows`; None for rows that hold SKEL already, which pass
            through with `status` "given". It may also hold `keypoints_3d` [N 44 4], computed from the annotated mesh:
            used for rows whose label has none.

    Raises `ValueError` for a missing or misshapen column: that is a mistake in the calling code.
    """
    columns: dict[str, np.ndarray | None] = {name: getattr(rows, name, None) for name in SCHEMA.names}
    columns["source"] = np.full(len(rows), rows.source, object)
    columns["row_id"] = np.array(rows.row_id, object)
    if (fit is None) != (rows.skel_q is not None):
        raise ValueError(f"rows of {rows.source!r} must either hold SKEL or be fitted")
    if fit is None:
        columns["status"] = np.full(len(rows), GIVEN, object)
        for name in ("smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender"):
            columns[name] = None
    else:
        columns.update({name: np.asarray(fit[name]) for name in FIT_COLUMNS})
    _add_keypoints_3d(columns, len(rows), None if fit is None else fit.get("keypoints_3d"))
    arrays = [_to_arrow(column, columns[column.name], len(rows)) for column in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as a table of `REJECTS_SCHEMA`, by source and row."""
    rejects = sorted(rejects, key=lambda reject: (reject.source, reject.source_row))
    rows = [{name: getattr(reject, name) for name in REJECTS_SCHEMA.names} for reject in rejects]
    return pa.Table.from_pylist(rows, REJECTS_SCHEMA).cast(REJECTS_SCHEMA)  # the cast refuses nulls


def _add_keypoints_3d(columns: dict, count: int, computed: np.ndarray | None) -> None:
    label = columns["keypoints_3d"]
    annotated = np.zeros(count, bool) if label is None else _is_annotated(label)
    points = np.full((count, 44, 4), np.nan, np.float32) if label is None else label
    origin = np.full(count, None, object)
    origin[annotated] = FROM_LABEL
    if computed is not None:
        points = np.where(annotated[:, None, None], points, np.asarray(computed, np.float32))
        origin[~annotated] = FROM_SMPL_MESH
    columns["keypoints_3d"], columns["keypoints_3d_source"] = points, origin


def _is_annotated(values: np.ndarray) -> np.ndarray:
    """[N] whether any keypoint of the row has coordinates."""
    return np.asarray(np.isfinite(values[..., :-1]).any(axis=(1, 2)))


def _to_arrow(column: pa.Field, values: np.ndarray | None, count: int) -> pa.Array:
    shape = column_shape(column)
    if values is None:
        array = pa.nulls(count, column.type)
    elif values.shape != (count, *shape):
        raise ValueError(f"{column.name} has shape {values.shape}; expected {(count, *shape)}")
    elif column.type == pa.string():
        array = pa.array(values.tolist(), pa.string())
    elif shape:
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        mask = pa.array(~_is_annotated(values)) if column.name.startswith("keypoints") else None
        array = pa.FixedSizeListArray.from_arrays(flat, type=column.type, mask=mask)
    else:
        array = pa.array(values.astype(column.type.to_pandas_dtype(), copy=False), column.type)
    if array.null_count and not column.nullable:
        raise ValueError(f"{column.name} must not be null, and is in {array.null_count} of {count} rows")
    return array


ROW_GROUP_ROWS = 2048
"""4 MB of all columns: the least that a reader decodes for one row, and enough for columns to compress."""
_WORDS = ["source", "keypoints_3d_source", "smpl_gender", "skel_gender", "status", "reason"]  # few distinct values


def write_shard(
    out: Place,
    shard: Shard,
    table: pa.Table,
    rejects: Sequence[Reject],
    made_from: Mapping[str, Any],
    seconds: Mapping[str, float],
    info: Mapping[str, Any],
) -> None:
    """Write a shard's three files: the kept rows (of `SCHEMA`), the rejects, also where there are none, since a missing
    file must mean trouble, and last the meta file, which completes the shard.

    The old meta file, if any, goes first: from here on the shard is unfinished.

    Args:
        made_from: what the fingerprint is the hash of, with `fit_version` and `schema_version`.
        seconds: the times of the stages before, by name, s.
        info: the name of the manifest (`manifest_name`), and what else is kept in the meta file beside the figures of
            `summarise` (JSON values).

    Raises `ValueError` where kept + rejected is not the number of rows of the shard.
    """
    start = time.perf_counter()
    if table.num_rows + len(rejects) != shard.num_rows:
        found = f"kept {table.num_rows} + rejected {len(rejects)}"
        raise ValueError(f"shard {shard.number}: {found} is not read {shard.num_rows}")
    if shard.meta_file(out).exists():
        shard.meta_file(out).unlink()
    fingerprint, split = fingerprint_of(made_from), "test" if shard.held_out else "train"
    provenance = {
        "hmr_skel.schema_version": str(made_from["schema_version"]),
        "hmr_skel.manifest": info["manifest_name"],
        "hmr_skel.fingerprint": fingerprint,
        "hmr_skel.fit_version": str(made_from["fit_version"]),
        "hmr_skel.shard": shard.number,
        "hmr_skel.split": split,
    }
    tables = {shard.data_file: table.replace_schema_metadata(provenance), shard.rejects_file: rejects_table(rejects)}
    files = {}
    for file, rows in tables.items():
        buffer, words = pa.BufferOutputStream(), [name for name in _WORDS if name in rows.column_names]
        pq.write_table(rows, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd", use_dictionary=words)
        content = buffer.getvalue()
        put_bytes(file(out), content)
        files[str(file(Path()))] = {"bytes": content.size, "sha256": hashlib.sha256(content).hexdigest()}
    seconds = {**seconds, "write": time.perf_counter() - start}
    total = sum(seconds.values())
    meta = {
        "rows_per_s": shard.num_rows / total,
        "seconds": seconds | {"total": total},
        **summarise(table, rejects),
        **info,
        "shard": shard.index,
        "shards": shard.count,
        "split": split,
        "rows": shard.num_rows,
        "kept": table.num_rows,
        "rejected": len(rejects),
        "pieces": [asdict(piece) for piece in shard.pieces],
        "made_from": dict(made_from),
        "fingerprint": fingerprint,
        "files": files,
    }
    put_bytes(shard.meta_file(out), meta_text(meta).encode())
