"""What was slow in a run: seconds by stage over the shards that it built, and the shards that took longest, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from flows.shard_report import ShardReport
from flows.stages import STAGES

SLOW = 1.5
"""Times as long as the median: from here on a shard is slow."""
MOST = 3
_PER_ROW = ("read", "check", "fit", "write")
_HARDER = 1.2  # times the median's starts or iterations
_WORDS = {"open": "opening", "load": "loading models", "read": "reading", "check": "checking", "fit": "fitting",
          "write": "writing"}  # fmt: skip


def stage_seconds(reports: Sequence[ShardReport], run: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage, of built shards and of the run itself. Shards overlap: the sum may be more than the clock's."""
    seconds = Counter(dict.fromkeys(STAGES, 0.0))
    for part in (run, *(report.seconds for report in reports if not report.skipped)):
        seconds.update({stage: part.get(stage, 0.0) for stage in STAGES})
    return {stage: round(value, 3) for stage, value in seconds.items()}


def stage_text(seconds: Mapping[str, float]) -> str:
    """`fitting 1,102 s, writing 61 s, reading 2 s; waiting for the device 1,050 s`, the longest first."""
    work = sorted(((value, _WORDS[stage]) for stage, value in seconds.items() if stage in _WORDS), reverse=True)
    text = ", ".join(f"{name} {value:,.1f} s" for value, name in work if value >= 0.05)
    wait = seconds.get("wait", 0.0)
    return (text or "nothing to do") + (f"; waiting for the device {wait:,.1f} s" if wait >= 0.05 else "")


def slow_shards(reports: Sequence[ShardReport]) -> list[dict[str, Any]]:
    """The built shards that took far longer than the median one, at most three, the slowest first.

    Returns:
        Of each, as JSON values: `shard`, `seconds` from its start to its end, `times_median`, and `reason`, which is
        what most of the difference went to. None of fewer than three shards.
    """
    built = [report for report in reports if not report.skipped]
    if len(built) < 3:
        return []
    usual = median(map(_elapsed, built))
    slow = sorted((r for r in built if _elapsed(r) > SLOW * usual), key=_elapsed, reverse=True)
    return [
        {
            "shard": report.shard,
            "seconds": round(_elapsed(report), 3),
            "times_median": round(_elapsed(report) / usual, 2),
            "reason": _reason(report, built),
        }
        for report in slow[:MOST]
    ]


def slow_text(shard: Mapping[str, Any]) -> str:
    """One line."""
    return f"shard {shard['shard']}: {shard['seconds']:,.1f} s, {shard['times_median']:.1f} times the median: " + str(
        shard["reason"]
    )


def _elapsed(report: ShardReport) -> float:
    return report.seconds["total"] + report.seconds["wait"]


def _reason(report: ShardReport, built: Sequence[ShardReport]) -> str:
    """What most of the difference to the median shard went to: more rows, a stage, or waiting."""
    rows = median(other.rows for other in built)
    a_row = {stage: median(other.seconds[stage] / other.rows for other in built) for stage in _PER_ROW}
    usual = {stage: median(other.seconds[stage] for other in built) for stage in ("wait", "load")}
    more = {"rows": (report.rows - rows) * sum(a_row.values())}
    more |= {stage: report.seconds[stage] - report.rows * each for stage, each in a_row.items()}
    more |= {stage: report.seconds[stage] - each for stage, each in usual.items()}
    worst = max(more, key=more.__getitem__)
    if worst == "rows":
        return f"it has {report.rows:,} rows, the median {rows:,.0f}"
    if worst == "wait":
        return f"it waited {report.seconds['wait']:,.1f} s for the device, the median {usual['wait']:,.1f} s"
    if worst == "load":
        return f"{report.seconds['load']:,.1f} s of it went to loading models"
    times = report.seconds[worst] / (report.rows * a_row[worst])
    reason = f"{_WORDS[worst]} took {times:.1f} times as long a row"
    return f"{reason}, {_why_fit(report, built)}" if worst == "fit" else reason


def _why_fit(report: ShardReport, built: Sequence[ShardReport]) -> str:
    for name in ("starts", "iterations"):
        own, others = getattr(report, name), [getattr(r, name) for r in built if getattr(r, name) is not None]
        if own is not None and own > _HARDER * median(others):
            return f"with {own:.1f} {name} a row, the median {median(others):.1f}"
    if report.batch < max(other.batch for other in built):
        return f"in batches of {report.batch} rows for want of memory"
    return "though its rows were no harder: the machine was busy, or compiled the fit first"
