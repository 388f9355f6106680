"""Write the paper's tables with our lines below (terminal, Markdown, JSON), and errors per row as Parquet."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.atomic import replacing
from hmr_skel.evaluate.benchmarks import BENCHMARKS
from hmr_skel.evaluate.paper import SWAP_S, SWAP_XY, Column, Line, PaperTable, Values, implied_cost
from hmr_skel.evaluate.score import Columns
from hmr_skel.evaluate.summary import METRIC_NAMES, excess_deg, row_columns

Measured = Mapping[str, Mapping[str, Any]]
"""The value of each metric by the benchmark of a column."""
COST = "cost_mpjpe_mm"
"""The metric of conversion: MPJPE after conversion to SKEL minus MPJPE before, mm."""
_NOTHING = "-"
_ROW_MEANINGS = {
    "benchmark": "the benchmark",
    "method": "the network's file, or the file of predictions and what was done to them",
    "stage": "mean_pose, coarse or final of a network; smpl (as predicted) or skel (converted) of predictions",
    "row": "row in the label file, from 0",
    "imgname": "image as the label file names it",
    "sequence": "the recording that the image is from; null: the row is independent",
    "mpjpe_mm": "mean distance per joint, with roots in one place",
    "pa_mpjpe_mm": "the same after the best similarity",
    "pve_mm": "mean distance per vertex, with roots in one place",
    "pa_pve_mm": "the same after the best similarity",
    "pck_05": "share of this row's labelled keypoints nearer than 0.05 crop sides",
    "pck_10": "share of this row's labelled keypoints nearer than 0.1 crop sides",
    "max_limit_violation_deg": "how far the worst dof is outside its range (table anatomical)",
}
"""The meaning of the columns of `rows.parquet`."""


@dataclass(frozen=True)
class OurLine:
    """A line of our measurements."""

    method: str
    found: Measured
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideBySide:
    """A table of the paper with our lines. Only our lines have the columns `more`."""

    table: PaperTable
    ours: Sequence[OurLine]
    more: tuple[Column, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.table.columns, *self.more)

    @property
    def caption(self) -> str:
        """The table's number and title, and the metrics of its cells if all cells have the same."""
        cells = "" if len({c.metrics for c in self.table.columns}) > 1 else f"; {_metrics(self.table.columns[0])}"
        return f"Table {self.table.number}: {self.table.title}{cells}"

    def header(self) -> list[str]:
        """The titles of all columns."""
        alike = len({column.metrics for column in self.table.columns}) == 1
        titles = [
            _name(column) if alike and column in self.table.columns else f"{_name(column)} {_metrics(column)}"
            for column in self.columns
        ]
        return ["method", *self.table.details, *titles]

    def cells(self) -> list[list[str]]:
        """The cells of all lines as text, the paper's lines first."""
        lines = [
            [line.method, *line.details, *map(_cell, self.columns, self._theirs(line))] for line in self.table.lines
        ]
        for line in self.ours:
            details = line.details or ("",) * len(self.table.details)
            values = [_values(column, line.found) for column in self.columns]
            lines.append([f"ours: {line.method}", *details, *map(_cell, self.columns, values)])
        return lines

    def _theirs(self, line: Line) -> tuple[Values | None, ...]:
        """The values of a line of the paper. Among the columns `more`, the paper gives only the cost of conversion."""
        costs = [implied_cost(line, c.benchmark) if c.metrics == (COST,) else None for c in self.more]
        return (*line.cells, *(None if cost is None else (cost,) for cost in costs))

    def text(self) -> str:
        """The table for a terminal."""
        rows = [self.header(), *self.cells()]
        left = 1 + len(self.table.details)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.caption, *(line.rstrip() for line in lines), *self.notes])

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [self.header(), *self.cells()]
        left = 1 + len(self.table.details)
        rule = ["---" if i < left else "---:" for i in range(len(rows[0]))]
        lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
        notes = [f"\n{note}" for note in self.notes]
        return "\n".join([f"**{self.caption}**", "", *lines, *notes])

    def as_dict(self) -> dict[str, Any]:
        """The table for JSON: each line with a value (or None) per column and metric."""
        lines: list[dict[str, Any]] = []
        for line in self.table.lines:
            lines.append({"method": line.method, "source": "paper"} | self._plain(line.details, self._theirs(line)))
        for line in self.ours:
            cells = [_values(column, line.found) for column in self.columns]
            lines.append({"method": line.method, "source": "ours"} | self._plain(line.details, cells))
        return {"table": self.table.number, "title": self.table.title, "lines": lines, "notes": list(self.notes)}

    def _plain(self, details: Sequence[str], cells: Sequence[Values | None]) -> dict[str, Any]:
        values: dict[str, dict[str, float | None]] = {}
        for column, cell in zip(self.columns, cells, strict=True):
            one = cell or (None,) * len(column.metrics)
            values.setdefault(column.benchmark, {}).update(zip(column.metrics, one, strict=True))
        return dict(zip(self.table.details, details, strict=False)) | {"values": values}


def cost_columns(benchmarks: Iterable[str]) -> tuple[Column, ...]:
    """Columns with the cost of conversion to SKEL on each benchmark, mm of MPJPE."""
    return tuple(Column(name, (COST,), f"cost {BENCHMARKS[name].title}") for name in benchmarks)


def swap_lines(method: str, stages: Mapping[str, Mapping[str, Any]]) -> list[OurLine]:
    """The lines of Table S2 from a network's stages on COCO."""
    count = sum(name.startswith(f"{SWAP_XY}_") for name in stages)
    return [
        OurLine(
            f"{method}, layer {layer}",
            {SWAP_XY: stages[f"{SWAP_XY}_{layer}"], SWAP_S: stages[f"{SWAP_S}_{layer}"]},
        )
        for layer in range(count)
    ]


def _name(column: Column) -> str:
    return column.title or (BENCHMARKS[column.benchmark].title if column.benchmark in BENCHMARKS else column.benchmark)


def _metrics(column: Column) -> str:
    short = {"pa_mpjpe_mm": "PA", COST: "MPJPE"}
    return "/".join(short.get(metric) or METRIC_NAMES[metric] for metric in column.metrics)


def _values(column: Column, found: Measured) -> Values | None:
    if column.benchmark not in found:
        return None
    return tuple(found[column.benchmark].get(metric) for metric in column.metrics)


def _cell(column: Column, values: Values | None) -> str:
    if values is None:
        return _NOTHING
    share = ".4f" if column.benchmark in (SWAP_XY, SWAP_S) else ".2f"
    formats = {"pck_05": share, "pck_10": share, COST: "+.1f"}
    return "/".join(
        _NOTHING if value is None else format(value, formats.get(metric, ".1f"))
        for metric, value in zip(column.metrics, values, strict=True)
    )


def rows_table(
    benchmark: str, method: str, stage: str, row: np.ndarray, imgname: Sequence[str], sequences: Sequence[str | None],
    columns: Columns,
) -> pa.Table:  # fmt: skip
    """A table of errors per row [N] of one stage, from the `columns` of `score`. Missing metrics are null.

    The other arguments become columns of the table; the first three are the same in all rows.
    """
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
    columns_of = [pa.field(n, a.type, metadata={"meaning": _ROW_MEANINGS[n]}) for n, a in arrays.items()]
    return pa.table(list(arrays.values()), schema=pa.schema(columns_of))


def write_rows(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write all tables into one file, by rename. Raises `UserError` if it cannot be written."""
    with replacing(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")
