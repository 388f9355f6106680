"""What a long run comes to: a table of its samples, and whether what should be flat is flat."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from tools.drill.soak import Sample, Soak

MEMORY_MB = 10.0
"""Bound of growth per 100 shards: the paper's 3 million rows are 6,000 shards, which may cost 0.6 GB."""
FILES = 10.0
"""Bound of growth per 100 shards: a leak of one file or thread a shard is ten times as much."""
DATABASE_KB = 64.0
"""Bound of growth per shard."""
ETA_PERCENT = 20.0
"""Bound of the median error of the time left that was shown, of the time that it then took."""


@dataclass(frozen=True)
class Check:
    """One figure, and its bound."""

    name: str
    value: float | None
    """None where there were too few samples."""
    unit: str
    bound: float

    @property
    def passed(self) -> bool:
        return self.value is not None and self.value <= self.bound

    def text(self) -> str:
        """One line."""
        found = "too few samples" if self.value is None else f"{self.value:+.1f}"
        return f"{self.name:<18}{found:>16} {self.unit} (bound {self.bound:g}): {'ok' if self.passed else 'FAILED'}"


def checks(run: Soak) -> list[Check]:
    """Growth over the second half of the shards, by least squares, and the error of the time left."""
    half = [sample for sample in run.samples if 2 * sample.shards >= run.shards]

    def growth(name: str, unit: str, bound: float, per: float, value: Callable[[Sample], float]) -> Check:
        slope = _slope([sample.shards for sample in half], [value(sample) for sample in half])
        return Check(name, None if slope is None else round(per * slope, 2), unit, bound)

    flat = [
        (f"{who} {what}", unit, bound, 100.0, lambda sample, who=who, field=field: getattr(getattr(sample, who), field))
        for who in ("flow", "server")
        for what, unit, bound, field in (
            ("memory", "MB per 100 shards", MEMORY_MB, "own_mb"),
            ("files", "per 100 shards", FILES, "files"),
            ("threads", "per 100 shards", FILES, "threads"),
        )
    ]
    return [
        *(growth(*one) for one in flat),
        growth("database", "kB per shard", DATABASE_KB, 1e-3, lambda sample: sample.database_bytes),
        Check("time left", _eta_percent(run), "% off in the median", ETA_PERCENT),
    ]


def _slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Of the line nearest to the points; None of fewer than three places."""
    return float(np.polyfit(x, y, 1)[0]) if len(set(x)) >= 3 else None


def _eta_percent(run: Soak) -> float | None:
    """The median error of what was said between a tenth and nine tenths of the rows."""
    middle = [sample for sample in run.samples if 0.1 * run.rows <= sample.rows <= 0.9 * run.rows]
    told = [(sample.left_s, run.ended - sample.left_at) for sample in middle if sample.left_s is not None]
    errors = [abs(left - true) / true for left, true in told if true > 0]
    return round(100 * median(errors), 1) if errors else None


HEAD = (
    f"{'minute':>7}{'shards':>8}{'rows/s':>8}{'flow MB':>9}{'own':>7}{'server MB':>11}{'own':>7}"
    f"{'files':>12}{'threads':>12}{'database MB':>13}{'left':>8}{'true':>8}"
)


def line(sample: Sample, before: Sample | None, ended: float | None = None) -> str:
    """A sample's line of the table. `ended` is when all shards were done, where that is known already."""
    rows, seconds = (before.rows, before.seconds) if before else (0, 0.0)
    flow, server = sample.flow, sample.server
    left = "" if sample.left_s is None else f"{sample.left_s / 60:.1f}"
    true = "" if ended is None or not left else f"{max(ended - sample.left_at, 0) / 60:.1f}"
    return (
        f"{sample.seconds / 60:>7.1f}{sample.shards:>8}{(sample.rows - rows) / (sample.seconds - seconds):>8.1f}"
        f"{flow.rss_mb:>9.0f}{flow.own_mb:>7.0f}{server.rss_mb:>11.0f}{server.own_mb:>7.0f}"
        f"{f'{flow.files:.0f} + {server.files:.0f}':>12}{f'{flow.threads:.0f} + {server.threads:.0f}':>12}"
        f"{sample.database_bytes / 1e6:>13.1f}{left:>8}{true:>8}"
    )


def table(run: Soak) -> str:
    """A line per sample. Files and threads are those of the flow and of the server; left and true are minutes."""
    pairs = zip(run.samples, (None, *run.samples), strict=False)
    return "\n".join([HEAD, *(line(sample, before, run.ended) for sample, before in pairs)])
