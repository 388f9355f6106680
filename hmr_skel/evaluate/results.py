"""Per-row results to Parquet: which rows a mean hides is a question that only the rows answer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.atomic import replacing
from hmr_skel.evaluate.limit_rates import excess_deg
from hmr_skel.evaluate.score import Columns
from hmr_skel.evaluate.summary import METRIC_NAMES, row_columns

_MEANING = {
    "benchmark": "the benchmark",
    "method": "whose prediction: the network's file, or the predictions' and what was done to them",
    "stage": "mean_pose, coarse or final of a network; smpl (as predicted) or skel (converted) of predictions",
    "row": "row in the label file, from 0",
    "imgname": "image as the label file names it",
    "sequence": "the recording that the image is from; null: the row stands for itself",
    "mpjpe_mm": "mean distance per joint, roots in one place",
    "pa_mpjpe_mm": "the same after the best similarity",
    "pve_mm": "mean distance per vertex, roots in one place",
    "pa_pve_mm": "the same after the best similarity",
    "pck_05": "share of this row's labelled keypoints nearer than 0.05 crop sides",
    "pck_10": "share of this row's labelled keypoints nearer than 0.1 crop sides",
    "max_limit_violation_deg": "how far the worst dof is outside its range (table anatomical)",
}


def rows_table(
    benchmark: str, method: str, stage: str, row: np.ndarray, imgname: Sequence[str], sequences: Sequence[str | None],
    columns: Columns,
) -> pa.Table:  # fmt: skip
    """One row per row of one stage; metrics that the benchmark has not are null."""
    count = len(row)
    metrics = row_columns(columns)
    if "q" in columns:
        metrics["max_limit_violation_deg"] = excess_deg(columns["q"].double().numpy()).max(1).astype(np.float32)
    arrays: dict[str, pa.Array] = {
        "benchmark": pa.array([benchmark] * count, pa.string()),
        "method": pa.array([method] * count, pa.string()),
        "stage": pa.array([stage] * count, pa.string()),
        "row": pa.array(row, pa.int64()),
        "imgname": pa.array(list(imgname), pa.string()),
        "sequence": pa.array(list(sequences), pa.string()),
    }
    for name in (*METRIC_NAMES, "max_limit_violation_deg"):
        values = metrics.get(name)
        arrays[name] = pa.nulls(count, pa.float32()) if values is None else pa.array(values, mask=np.isnan(values))
    schema = pa.schema(
        [pa.field(name, array.type, metadata={"meaning": _MEANING[name]}) for name, array in arrays.items()]
    )
    return pa.Table.from_arrays(list(arrays.values()), schema=schema)


def write_rows(path: Path, tables: Sequence[pa.Table]) -> None:
    """One file of all of them, by rename. Raises `UserError` where it cannot be written."""
    with replacing(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")
