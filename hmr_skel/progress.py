"""How far long work is: a bar on a terminal; without one, such as in a log file, a line every ten seconds."""

import io
import sys
import time
from typing import Any

from tqdm import tqdm

SECONDS_PER_LINE = 10.0


class _ProgressLines(tqdm):
    """Prints a line where a bar would be drawn anew, but no sooner than ten seconds after the last one."""

    def __init__(self, **options: Any) -> None:
        self._said = time.monotonic()
        super().__init__(**options, file=io.StringIO())  # for what clears a bar

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called whenever the numbers are newer, and with an empty `msg` at the end."""
        now = time.monotonic()
        if msg is None and now - self._said >= SECONDS_PER_LINE:
            self._said = now
            print(self, file=sys.stderr, flush=True)


def progress_bar(quiet: bool, unit: str, total: int | None = None, what: str | None = None, **options: Any) -> tqdm:
    """A tqdm that disappears at its end, or the lines in its place; nothing for `quiet`.

    Args:
        quiet: show nothing.
        unit: what is counted, one of it.
        total: how many there are.
        what: the name of the work.
        options: keywords of tqdm.
    """
    options |= {"total": total, "unit": unit, "desc": what, "leave": False}
    if quiet or sys.stderr.isatty():
        return tqdm(**options, disable=quiet)
    name = "" if what is None else "{desc}: "
    of_all, left = ("", "") if total is None else (" of {total_fmt}", ", {remaining} left")
    return _ProgressLines(**options, bar_format=f"{name}{{n_fmt}}{of_all} {{unit}}s, {{rate_fmt}}{left}")
