"""Show the progress of long work: a bar in a terminal, elsewhere a line every ten seconds."""

import io
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SECONDS_PER_LINE = 10.0


class _ProgressLines(tqdm):
    """Prints a line instead of a bar, at most one in ten seconds."""

    def __init__(self, **options: Any) -> None:
        self._said = time.monotonic()
        super().__init__(**options, file=io.StringIO())  # takes the characters that clear a bar

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """tqdm calls this when the numbers change, and with an empty `msg` at the end."""
        now = time.monotonic()
        if msg is None and now - self._said >= SECONDS_PER_LINE:
            self._said = now
            print(self, file=sys.stderr, flush=True)


@contextmanager
def telling(quiet: bool, what: str) -> Generator[Callable[[str | None], None]]:
    """Say every ten seconds what goes on in work that cannot be counted, and for how long.

    Yields what is to be called with the name of each stage as it begins; with None, as one begins that has a bar.
    """
    stage, since, ended = None, time.monotonic(), threading.Event()

    def begin(name: str | None) -> None:
        nonlocal stage, since
        if name != stage:
            stage, since = name, time.monotonic()

    def tell() -> None:
        while not ended.wait(SECONDS_PER_LINE):
            if stage is not None:
                tqdm.write(f"{what}: {stage}, {time.monotonic() - since:.0f} s", file=sys.stderr)

    if not quiet:
        threading.Thread(target=tell, daemon=True).start()
    try:
        yield begin
    finally:
        ended.set()


def progress_bar(quiet: bool, unit: str, total: int | None = None, what: str | None = None, **options: Any) -> tqdm:
    """A tqdm that disappears at its end; without a terminal, one that prints lines; with `quiet`, nothing.

    Args:
        quiet: show nothing.
        unit: the singular name of the things counted.
        total: their number.
        what: the name of the work.
        options: keywords of tqdm.
    """
    options |= {"total": total, "unit": unit, "desc": what, "leave": False}
    if quiet or sys.stderr.isatty():
        return tqdm(**options, disable=quiet)
    name = "" if what is None else "{desc}: "
    of_all, left = ("", "") if total is None else (" of {total_fmt}", ", {remaining} left")
    return _ProgressLines(**options, bar_format=f"{name}{{n_fmt}}{of_all} {{unit}}s, {{rate_fmt}}{left}")


@contextmanager
def measuring(quiet: bool) -> Generator[Callable[[str, int, int], None]]:
    """Show how far a benchmark is: a bar, or without a terminal a line for each thing that is measured.

    Yields what is to be called with the thing, how much of it is done, and how much there is.
    """
    with progress_bar(quiet, "it") as bar:
        begun = ""

        def report(what: str, done: int, total: int) -> None:
            nonlocal begun
            if what != begun:
                begun = what
                if not quiet and not sys.stderr.isatty():
                    print(f"measuring: {what}", file=sys.stderr, flush=True)
                bar.reset(total)
                bar.set_description(what)
            bar.update(done - bar.n)

        yield report
