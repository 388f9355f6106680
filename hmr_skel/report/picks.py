"""Which rows the report shows: a few by name, a sample for the errors of body parts. The same every time."""

from dataclasses import dataclass

import numpy as np

from hmr_skel.report.gather import Dataset

MOST_PICKS = 8
MOST_MEASURED = 1024
_LEAST_OF_A_SOURCE = 32


@dataclass(frozen=True)
class Pick:
    """A row to be shown."""

    title: str
    row: int


def choose_picks(dataset: Dataset) -> list[Pick]:
    """The worst, the median and the best fit by v2v; with several sources, the worst of each other one as well. Of a
    dataset in which nothing was fitted, its first, middle and last row."""
    fitted = dataset.fitted()
    if not len(fitted):
        rows = dict.fromkeys((0, len(dataset) // 2, len(dataset) - 1))
        return [Pick(f"Row {row:,}", row) for row in rows]
    by_error = fitted[np.argsort(dataset.errors["v2v_mm"][fitted], kind="stable")]
    named = {"Best fit": by_error[0], "Median fit": by_error[(len(by_error) - 1) // 2], "Worst fit": by_error[-1]}
    picks = {}
    for title, row in named.items():  # of one or two rows, some are the same
        picks.setdefault(int(row), title)
    for name in dataset.sources:
        own = by_error[dataset.source[by_error] == dataset.sources.index(name)]
        if len(own) and len(picks) < MOST_PICKS:
            picks.setdefault(int(own[-1]), f"Worst of {name}")
    return [Pick(title, row) for row, title in picks.items()]


def choose_sample(dataset: Dataset) -> np.ndarray:
    """Numbers of up to `MOST_MEASURED` fitted rows, ascending: evenly spaced within each source, which get rooms of
    equal size, and no fewer than 32 rows each."""
    own = [rows for name in dataset.sources if len(rows := dataset.fitted(name))]
    room = max(MOST_MEASURED // max(len(own), 1), _LEAST_OF_A_SOURCE)
    chosen = [rows[np.linspace(0, len(rows) - 1, min(room, len(rows))).round().astype(int)] for rows in own]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
