"""The table of predictions as a Parquet file with a row per person and picture, and with the same columns as an .npz.

Rows are written in groups, so that memory does not grow with the length of a video. Columns with the name of a
dataset's column have its meaning.
"""

import zipfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.atomic import replacing
from hmr_skel.data.load import to_numpy
from hmr_skel.data.schema import SCHEMA, column_shape, declare

if TYPE_CHECKING:  # people imports torch, which the columns do not need
    from hmr_skel.predict.frames import Frame
    from hmr_skel.predict.people import Body, Person

ROWS_PER_GROUP = 512
_WEAK_PERSPECTIVE = "weak perspective in the box, whose half width is 1 / s metres"
_STAGES = "after every stage: the decoder's start, each layer, and a correction if the network has one"


def schema(stages: int) -> pa.Schema:
    """The columns for a network with this number of stages."""
    return pa.schema(
        [
            declare("imgname", pa.string(), "the image or video, as it was given"),
            declare("frame", pa.int64(), "number of the frame in the video, from 0; null for images"),
            declare("time_s", pa.float64(), "time of the frame in the video; null for images", "s"),
            declare("person", pa.int64(), "number of the person in the picture, from 0: nobody is tracked"),
            *(SCHEMA.field(name) for name in ("center", "scale")),
            declare("score", pa.float32(), "score of the detector; null for given boxes without one"),
            SCHEMA.field("cam_int"),
            *(SCHEMA.field(name) for name in ("skel_q", "skel_betas", "skel_transl", "skel_gender")),
            declare("crop_camera", (3,), f"s, tx, ty: {_WEAK_PERSPECTIVE}", "1/m, m, m"),
            declare("stage_q", (stages, 46), f"skel_q {_STAGES}", "rad"),
            declare("stage_betas", (stages, 10), f"skel_betas {_STAGES}", "1"),
            declare("stage_transl", (stages, 3), f"skel_transl {_STAGES}", "m"),
            declare("stage_crop_camera", (stages, 3), f"crop_camera {_STAGES}", "1/m, m, m"),
        ]
    )


@dataclass
class TableWriter:
    """Collects rows and writes them in groups."""

    schema: pa.Schema
    skel_gender: str
    _writer: pq.ParquetWriter
    rows: int = 0
    _waiting: list[dict[str, Any]] = field(default_factory=list)

    def add(self, frame: "Frame", person: "Person", body: "Body") -> None:
        """Add a row."""
        self.rows += 1
        self._waiting.append(
            {
                "imgname": frame.file.as_posix(),
                "frame": frame.number,
                "time_s": frame.time_s,
                "person": person.number,
                "center": person.box.center,
                "scale": np.full(2, person.box.side / PX_PER_SCALE),
                "score": person.box.score,
                "cam_int": person.cam_int,
                "skel_q": body.q[-1],
                "skel_betas": body.betas[-1],
                "skel_transl": body.transl[-1],
                "skel_gender": self.skel_gender,
                "crop_camera": body.crop_camera[-1],
                "stage_q": body.q,
                "stage_betas": body.betas,
                "stage_transl": body.transl,
                "stage_crop_camera": body.crop_camera,
            }
        )
        if len(self._waiting) >= ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the waiting rows."""
        columns = []
        for column in self.schema:
            values = [row[column.name] for row in self._waiting]
            if column_shape(column):
                flat: Any = pa.array(np.array(values, np.float32).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, type=column.type))
            else:
                columns.append(pa.array(values, column.type))
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self._waiting.clear()


@contextmanager
def writing_table(
    path: Path, stages: int, skel_gender: str, notes: Mapping[str, str] | None = None
) -> Generator[TableWriter]:
    """Write a Parquet file with `notes` in its metadata, which appears when the block ends. Raises `UserError`."""
    columns = schema(stages).with_metadata(notes)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, columns, compression="zstd") as writer:
        table = TableWriter(columns, skel_gender, writer)
        yield table
        if table._waiting or not table.rows:
            table.flush()


def npz_from_parquet(parquet: Path, path: Path) -> None:
    """Write the same columns as arrays [N ...], one row group at a time; null numbers become NaN or -1. No pickles."""
    with (
        pq.ParquetFile(parquet) as file,
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", allowZip64=True) as archive,
    ):
        for column in file.schema_arrow:
            dtype = _dtype(column, _arrays(file, column))
            shape = (file.metadata.num_rows, *column_shape(column))
            with archive.open(f"{column.name}.npy", "w", force_zip64=True) as member:
                header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(member, header)
                for array in _arrays(file, column):
                    member.write(array.astype(dtype).tobytes())
        with archive.open("dof_names.npy", "w") as member:
            np.lib.format.write_array(member, np.array(DOF_NAMES), allow_pickle=False)


def _dtype(column: pa.Field, arrays: Iterable[np.ndarray]) -> np.dtype:
    if pa.types.is_string(column.type):  # as wide as the longest string
        return max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize, default=np.dtype("U1"))
    kind = column.type.value_type if column_shape(column) else column.type
    return np.dtype(kind.to_pandas_dtype())


def _arrays(file: pq.ParquetFile, column: pa.Field) -> Iterable[np.ndarray]:
    groups = range(file.metadata.num_row_groups)
    arrays = (to_numpy(file.read_row_group(group, [column.name]).column(0), column) for group in groups)
    return (array.astype(str) for array in arrays) if pa.types.is_string(column.type) else arrays
