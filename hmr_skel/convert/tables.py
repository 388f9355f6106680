"""Clips as tables: one Parquet or .npz file for any number of them, a row per frame, one name per column in both."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.body.open_body.export import body_note
from hmr_skel.convert.clips import SkelClip
from hmr_skel.data.atomic import replacing
from hmr_skel.data.schema import SCHEMA, column_shape

if TYPE_CHECKING:
    from hmr_skel.convert.fit import Bodies


def _column(name: str, kind: pa.DataType, meaning: str, unit: str = "", shape: str = "") -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {}) | ({"shape": shape} if shape else {})
    return pa.field(name, kind, metadata=metadata)


_WHERE = [
    _column("clip", pa.string(), "the person in the file: its name, and the track, folder or number"),
    _column("source", pa.string(), "the file that was converted"),
    _column("frame", pa.int64(), "number of the frame in its recording, or of the row in its file"),
    _column("time_s", pa.float64(), "frame over frame rate; null where the rate is not known", "s"),
    _column("coordinates", pa.string(), "camera (x right, y down, z forward), y-up or z-up; null: not known"),
    _column(
        "from_input",
        pa.list_(pa.float32(), 16),
        "takes points of the file's frame to that of coordinates, where "
        "smpl_* and skel_* are: z-up files are turned to y-up",
        "m",
        "4 4",
    ),
]
_AS_IN_DATASETS = (
    "smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender", "skel_q", "skel_betas", "skel_transl", "skel_gender",
    "v2v_mm", "v2v_max_mm", "max_limit_violation_deg", "status",
)  # fmt: skip
FULL = pa.schema(
    [
        *_WHERE,
        _column("frame_rate", pa.float64(), "frames a second; null where it is not known", "1/s"),
        _column("moving", pa.bool_(), "whether the clip's rows are frames of one person in time"),
        _column("imgname", pa.string(), "image, as the input names it"),
        *(SCHEMA.field(name) for name in _AS_IN_DATASETS),
    ]
)
JOINTS = pa.schema(
    [
        *_WHERE,
        _column("skel_joints", pa.list_(pa.float32(), 72), "SKEL's joints, in the frame of coordinates", "m", "24 3"),
    ]
)
"""The columns with --joints."""


def write_table(clips: Sequence[SkelClip], path: Path, bodies: "Bodies", joints: bool = False) -> None:
    """Write the clips' rows one after the other, as .parquet or .npz. `load_shards` reads the Parquet file.

    An .npz has the same columns as arrays [N ...], uncompressed and without pickles; unknown texts are empty.

    Raises:
        UserError: the file cannot be written.
    """
    schema = JOINTS if joints else FULL
    columns = _columns(clips, bodies, joints)
    if path.suffix.lower() == ".parquet":
        arrays = [_to_arrow(field, columns[field.name]) for field in schema]
        with replacing(path) as temporary:
            table = pa.Table.from_arrays(arrays, schema=schema.with_metadata(body_note(bodies.folder)))
            pq.write_table(table, temporary, compression="zstd")
        return
    found = {"joint_names": np.array(SKEL_JOINTS)} if joints else {"dof_names": np.array(DOF_NAMES)}
    for field in schema:
        values = columns[field.name]
        if values.dtype == object:
            values = np.array(["" if value is None else value for value in values], str)
        found[field.name] = values.reshape(len(values), *column_shape(field))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **found)


def _columns(clips: Sequence[SkelClip], bodies: "Bodies", joints: bool) -> dict[str, np.ndarray]:
    parts = [_joint_columns(clip, bodies) if joints else _full_columns(clip) for clip in clips]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _where(clip: SkelClip) -> dict[str, np.ndarray]:
    count, time = len(clip), clip.time
    return {
        "clip": np.full(count, clip.name, object),
        "source": np.full(count, clip.smpl.source, object),
        "frame": clip.smpl.number,
        "time_s": np.full(count, np.nan) if time is None else time,
        "coordinates": np.full(count, clip.smpl.frame, object),
        "from_input": np.broadcast_to(
            np.eye(4) if clip.smpl.from_input is None else clip.smpl.from_input, (count, 4, 4)
        ),
    }


def _joint_columns(clip: SkelClip, bodies: "Bodies") -> dict[str, np.ndarray]:
    from hmr_skel.convert.meshes import skel_joints  # imports torch, which a reader of the schemas does not need

    found = np.empty((len(clip), 24, 3), np.float32)
    for gender in set(clip.gender):
        rows = np.flatnonzero(clip.gender == gender)
        found[rows] = skel_joints(clip.take(rows), bodies.skel(gender))
    return _where(clip) | {"skel_joints": found}


def _full_columns(clip: SkelClip) -> dict[str, np.ndarray]:
    smpl, count = clip.smpl, len(clip)
    given = smpl.skel_q is not None  # as SKEL: of no SMPL
    return _where(clip) | {
        "frame_rate": np.full(count, np.nan if smpl.frame_rate is None else smpl.frame_rate),
        "moving": np.full(count, smpl.moving),
        "imgname": np.full(count, None, object) if smpl.imgname is None else smpl.imgname,
        "smpl_pose": smpl.pose.reshape(count, 72),  # NaN where given
        "smpl_betas": np.full_like(smpl.betas, np.nan) if given else smpl.betas,
        "smpl_transl": np.full_like(smpl.transl, np.nan) if given else smpl.transl,
        "smpl_gender": np.full(count, None, object) if given else smpl.gender,
        "skel_q": clip.q,
        "skel_betas": clip.betas,
        "skel_transl": clip.transl,
        "skel_gender": clip.gender,
        "v2v_mm": clip.v2v_mm,
        "v2v_max_mm": clip.v2v_max_mm,
        "max_limit_violation_deg": clip.max_limit_violation_deg,
        "status": clip.status,
    }


def _to_arrow(field: pa.Field, values: np.ndarray) -> pa.Array:
    if column_shape(field):
        values = np.ascontiguousarray(values, np.float32).reshape(len(values), -1)
        flat: Any = pa.array(values.reshape(-1))
        missing = np.isnan(values).any(1) if field.nullable else np.zeros(len(values), bool)
        mask = pa.array(missing) if missing.any() else None
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type, mask=mask)
    return pa.array(values, field.type, from_pandas=pa.types.is_floating(field.type))
