"""The columns of a dataset, with units and meaning in the field metadata; tables of them; a shard's three files.

Arrays are fixed-size lists of float32, flattened row-major; the metadata key `shape` says how to fold them back. Null
is "not annotated", never zero. The meta file is written last: `shards.shard_state` looks for it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.meta import meta_text
from hmr_skel.data.shards import Shard
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


def _column(name: str, kind: pa.DataType, meaning: str, unit: str = "", nullable: bool = True) -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def _array(name: str, shape: tuple[int, ...], unit: str, meaning: str, nullable: bool = True) -> pa.Field:
    column = _column(name, pa.list_(pa.float32(), int(np.prod(shape))), meaning, unit, nullable)
    return column.with_metadata({**column.metadata, "shape": " ".join(map(str, shape))})


SCHEMA = pa.schema(
    [
        _column("row_id", pa.string(), "stable key: source and row in its file", nullable=False),
        _column("source", pa.string(), "name of the source in the manifest", nullable=False),
        _column("source_row", pa.int64(), "row in the source's label file, from 0", nullable=False),
        _column(
            "imgname", pa.string(), "image as the label file names it; the manifest says which file", nullable=False
        ),
        _array("center", (2,), "px", "centre of the square box in the original image: x, y", nullable=False),
        _array("scale", (2,), "200 px", "width and height of the box; its side is 200 * max(scale)", nullable=False),
        _array("cam_int", (3, 3), "px", "camera intrinsics"),
        _array(
            "keypoints_2d",
            (44, 3),
            "px, px, 1",
            "x, y in the original image and confidence; 25 OpenPose-like, then 19 extra keypoints. Where the "
            "confidence is 0 or not a number the keypoint is not annotated and its x, y mean nothing: mask them",
        ),
        _array(
            "keypoints_3d",
            (44, 4),
            "m, m, m, 1",
            "x, y, z in the camera frame and confidence; see keypoints_2d and keypoints_3d_source",
        ),
        _column("keypoints_3d_source", pa.string(), "label: as annotated; smpl_mesh: of the annotated SMPL mesh"),
        _array("smpl_pose", (72,), "rad", "axis-angle of 24 joints, global_orient first, camera frame; as annotated"),
        _array("smpl_betas", (10,), "1", "SMPL shape; as annotated"),
        _array("smpl_transl", (3,), "m", "SMPL translation, camera frame; as annotated (cam_ext added where present)"),
        _column("smpl_gender", pa.string(), "SMPL model of the annotation: neutral, male or female"),
        _array("skel_q", (46,), "rad", "SKEL degrees of freedom; 0-2 are pelvis tilt, list and rotation"),
        _array("skel_betas", (10,), "1", "SKEL shape, in the shape space of skel_gender"),
        _array("skel_transl", (3,), "m", "SKEL translation, camera frame"),
        _column("skel_gender", pa.string(), "SKEL model: male or female"),
        _column("v2v_mm", pa.float32(), "mean distance of SKEL skin vertices from the annotated SMPL mesh", "mm"),
        _column("v2v_max_mm", pa.float32(), "largest such distance", "mm"),
        _column("joint_mm", pa.float32(), "mean distance of SKEL joints from those that the SMPL mesh has", "mm"),
        _column("max_limit_violation_deg", pa.float32(), "how far the worst dof is outside its range", "deg"),
        _column(
            "push",
            pa.float32(),
            "how steeply the mean squared distance would fall by the dof that its limit holds back most; 0: none",
            "mm^2/rad",
        ),
        _column("push_dof", pa.string(), "that dof; null where no limit holds one back"),
        _column(
            "beyond_deg",
            pa.float32(),
            "by how much the worst bone is turned beyond what ordinary motion needs; 0: none is",
            "deg",
        ),
        _column("iterations", pa.int32(), "solver iterations of the start that won"),
        _column("starts", pa.int32(), "starting points tried"),
        _column(
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
        _column("imgname", pa.string(), "image as the label file names it", nullable=False),
        _column("reason", pa.string(), "one word, the same for all rows of a kind", nullable=False),
        _column("detail", pa.string(), "what was found and expected", nullable=False),
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
    elif missing := [name for name in FIT_COLUMNS if name not in fit]:
        raise ValueError(f"the fit lacks columns {missing}")
    else:
        columns.update({name: np.asarray(fit[name]) for name in FIT_COLUMNS})
    _add_keypoints_3d(columns, len(rows), None if fit is None else fit.get("keypoints_3d"))
    arrays = [_to_arrow(column, columns[column.name], len(rows)) for column in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def rejects_table(rejects: list[Reject]) -> pa.Table:
    """Rejects as a table of `REJECTS_SCHEMA`."""
    return pa.Table.from_pylist(
        [{name: getattr(reject, name) for name in REJECTS_SCHEMA.names} for reject in rejects], REJECTS_SCHEMA
    )


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


class Written(NamedTuple):
    """A Parquet file as it was written. Another build may have written over it since."""

    rows: int
    size: int  # bytes
    sha256: str


def write_shard(
    out: Place, shard: Shard, table: pa.Table, *, fingerprint: str, manifest_name: str, fit_version: int
) -> Written:
    """Write the kept rows. The old meta file, if any, goes first: from here on the shard is unfinished."""
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


def write_rejects(out: Place, shard: Shard, rejects: list[Reject]) -> Written:
    """Write the rejects with their reasons, also where there are none: a missing file must mean trouble."""
    rejects = sorted(rejects, key=lambda reject: (reject.source, reject.source_row))
    return _write(shard.rejects_file(out), rejects_table(rejects).cast(REJECTS_SCHEMA))


def write_meta(
    out: Place,
    shard: Shard,
    data: Written,
    rejects: Written,
    fingerprint: str,
    info: Mapping[str, Any],
    made_from: Mapping[str, Any] | None = None,
) -> Place:
    """Write the meta file, which completes the shard. To be called last.

    `data` and `rejects` are what `write_shard` and `write_rejects` returned. `made_from` is what the fingerprint is the
    hash of. `info` (counts, timings, error statistics, ...; JSON values) is kept beside what `shard_state` asks for.
    Raises `ValueError` where kept + rejected is not the number of rows of the shard.
    """
    kept, rejected = data.rows, rejects.rows
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
        "files": {
            file(Path()).as_posix(): {"bytes": written.size, "sha256": written.sha256}
            for file, written in ((shard.data_file, data), (shard.rejects_file, rejects))
        },
    }
    put_bytes(shard.meta_file(out), meta_text(meta).encode())
    return shard.meta_file(out)


def _write(path: Place, table: pa.Table) -> Written:
    buffer, words = pa.BufferOutputStream(), [name for name in _WORDS if name in table.column_names]
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd", use_dictionary=words)
    content = buffer.getvalue()
    put_bytes(path, content)
    return Written(table.num_rows, content.size, hashlib.sha256(content).hexdigest())
