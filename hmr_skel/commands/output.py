"""What commands show: progress, tables, the result as text and as JSON."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def show(args: argparse.Namespace, text: str, report: Mapping[str, Any]) -> None:
    """Print the result: as text unless --quiet, and with --json as one JSON object, the last line."""
    if not args.quiet:
        print(text)
    if args.json:
        print(json.dumps(report))


def progress(quiet: bool, unit: str, total: int | None = None, what: str | None = None) -> "tqdm":
    """A progress bar, which is there on a terminal only, and disappears at its end."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, desc=what, leave=False, disable=True if quiet else None)


class Bars:
    """A progress bar for each thing that is measured; where there is no terminal, a line when it starts."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.what = quiet, ""
        self.bar: tqdm | None = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of `what` are done."""
        if self.bar is None or what != self.what or total != self.bar.total:
            self.__exit__()
            if what != self.what and not self.quiet and not sys.stderr.isatty():
                print(f"measuring: {what}", file=sys.stderr, flush=True)
            self.bar, self.what = progress(self.quiet, "it", total, what), what
        self.bar.update(done - self.bar.n)


def table(rows: Sequence[Mapping[str, Any] | str]) -> str:
    """Aligned columns: the first to the left, the others to the right, missing values as a dash.

    Args:
        rows: of values by column, at least one. A text is a line between.
    """
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
