"""Show progress, tables, and results as text and as JSON."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def show(args: argparse.Namespace, text: str, report: Mapping[str, Any]) -> None:
    """Print the result as text, unless --quiet; with --json also as one JSON object on the last line."""
    if not args.quiet:
        print(text)
    if args.json:
        print(json.dumps(report))


def progress(quiet: bool, unit: str, total: int | None = None, what: str | None = None) -> "tqdm":
    """As `progress_bar`; tqdm is imported on first use."""
    from hmr_skel.progress import progress_bar

    return progress_bar(quiet, unit, total, what)


def table(rows: Sequence[Mapping[str, Any] | str]) -> str:
    """An aligned table of rows by column, missing values as a dash. A row that is a string is kept as it is."""
    columns = list(dict.fromkeys(column for row in rows if not isinstance(row, str) for column in row))
    cells = [row if isinstance(row, str) else [_cell(row.get(column)) for column in columns] for row in rows]
    lines = [columns, *(row for row in cells if not isinstance(row, str))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  " + "  ".join((cells[0].ljust(widths[0]), *numbers)).rstrip()

    return "\n".join([line(columns), *(row if isinstance(row, str) else line(row) for row in cells)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
