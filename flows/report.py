"""The figures of a build: of one shard and of a whole run, for the terminal, for Prefect's pages, and as JSON."""

import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hmr_skel.data.lease import InHand
from hmr_skel.data.load import load_shards
from hmr_skel.data.meta import statistics
from hmr_skel.data.shards import name_shards
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from flows.shard import Builder

STAGES = {
    "open": "opening",
    "load": "loading models",
    "wait": "waiting for the device",
    "read": "reading",
    "check": "checking",
    "fit": "fitting",
    "write": "writing",
}
"""Where time goes, and in words. open: label files, hashes of models, what is made on first use; it belongs to the run,
not to a shard. load: body models. wait: for the device, which another shard has."""
SLOW, SLOW_S, MOST_SLOW = 1.5, 10.0, 3
"""A shard is slow if it took so many times the median, and so many seconds more. So many are named."""


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time in which this is open to a stage's."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def work_seconds(seconds: dict[str, float]) -> float:
    """All but the waiting."""
    return sum(value for stage, value in seconds.items() if stage in STAGES and stage != "wait")


@dataclass(frozen=True)
class ShardReport:
    """The figures of one shard."""

    shard: int
    shards: int
    rows: int
    kept: int
    rejected: int
    rows_per_s: float
    v2v_mm: dict[str, float] | None
    """mean, median, p95, p99, max over the fitted rows; None where none was fitted."""
    limit_violations: int
    """Fitted rows with a dof outside its range."""
    file: str
    seconds: dict[str, float]
    """By stage, see `STAGES`, and `total` without the waiting."""
    iterations: float | None
    """Of the solver, mean of the fitted rows; None where none was fitted."""
    starts: float | None
    """Likewise."""
    batch: int
    skipped: bool = False
    """It was complete already: nothing was built, and the figures are those of the build."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rows were rejected, and how many."""

    @classmethod
    def of(cls, meta: Mapping[str, Any], file: str, *, skipped: bool) -> Self:
        """From the shard's meta file. Raises `UserError` where it lacks a figure."""
        own = {"file": file, "skipped": skipped}
        names = [column.name for column in fields(cls) if column.name not in own]
        if missing := [name for name in names if name not in meta]:
            raise UserError(
                f"the meta file of {file} says nothing of {', '.join(missing)}: another program wrote it. Build the "
                "shard again (--rebuild)."
            )
        return cls(**{name: meta[name] for name in names}, **own)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def line(self) -> str:
        """One line."""
        state = "complete already" if self.skipped else f"{self.rows_per_s:.1f} rows/s"
        fit = f", v2v mean {self.v2v_mm['mean']:.2f} mm" if self.v2v_mm is not None else ""
        return f"shard {self.shard} of {self.shards}: {self.kept:,} kept, {self.rejected:,} rejected, {state}{fit}"

    def text(self) -> str:
        """What `hmr-skel fit` prints."""
        head = f"shard {self.shard} of {self.shards} (0 to {self.shards - 1})"
        if self.skipped:
            head += ": complete and up to date, not fitted again (--rebuild would)"
        return _lines(
            head,
            rows=_rows_text(self.rows, self.kept, self.rejected, self.reasons),
            speed=f"{self.rows_per_s:.1f} rows/s",
            fit_error=_fit_text(self.v2v_mm),
            limit_violations=f"{self.limit_violations:,}",
            file=self.file,
        )

    @property
    def elapsed_s(self) -> float:
        """From its start to its end."""
        return self.seconds["total"] + self.seconds["wait"]


@dataclass(frozen=True)
class DatasetSummary:
    """Totals over the shards of one run."""

    name: str
    out: str
    shards: int
    """In the dataset."""
    built: list[int]
    skipped: list[int]
    """Complete already."""
    failed: dict[int, str]
    """Number of the shard, and why."""
    in_hand: dict[int, str]
    """Unfinished, as another build has them in hand; and which."""
    rows: int
    kept: int
    rejected: int
    reasons: dict[str, int]
    v2v_mm: dict[str, float] | None
    limit_violations: int
    seconds: float
    stages: dict[str, float]
    """Seconds by stage, see `STAGES`. Shards overlap: the sum may be more than the clock's."""
    slow: list[dict[str, Any]]
    """Shards that took far longer than the median, the slowest first: shard, seconds, times_median, reason."""
    reports: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        builder: "Builder",
        reports: Sequence[ShardReport],
        failures: Mapping[int, BaseException],
        seconds: float,
        run: Mapping[str, float],
    ) -> Self:
        """Add up the shards of a run, whose own seconds by stage `run` holds.

        The fit error is over all fitted rows, read back from the files.
        """
        reports = sorted(reports, key=lambda report: report.shard)
        built = [report for report in reports if not report.skipped]
        stages = Counter(dict.fromkeys(STAGES, 0.0))
        for part in (run, *(report.seconds for report in built)):
            stages.update({stage: part.get(stage, 0.0) for stage in STAGES})
        held = {index: error.holder for index, error in sorted(failures.items()) if isinstance(error, InHand)}
        return cls(
            name=builder.manifest.name,
            out=str(builder.out),
            shards=len(builder.shards),
            built=[report.shard for report in built],
            skipped=[report.shard for report in reports if report.skipped],
            failed={index: _reason(error) for index, error in sorted(failures.items()) if index not in held},
            in_hand=held,
            rows=sum(report.rows for report in reports),
            kept=sum(report.kept for report in reports),
            rejected=sum(report.rejected for report in reports),
            reasons=dict(sum((Counter(report.reasons) for report in reports), Counter())),
            v2v_mm=_v2v([report.file for report in reports if report.v2v_mm is not None]),
            limit_violations=sum(report.limit_violations for report in reports),
            seconds=seconds,
            stages={stage: round(value, 3) for stage, value in stages.items()},
            slow=slow_shards(built),
            reports=[report.as_dict() for report in reports],
        )

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def text(self) -> str:
        """What `hmr-skel dataset` prints at its end."""
        done = f"{len(self.built)} built in {self.seconds:.0f} s"
        done += f", {len(self.skipped)} were complete already and skipped" if self.skipped else ""
        done += f", {len(self.failed)} failed" if self.failed else ""
        done += f", {len(self.in_hand)} in the hands of another build" if self.in_hand else ""
        work = sorted(((value, STAGES[stage]) for stage, value in self.stages.items() if value >= 0.05), reverse=True)
        slow = (
            f"shard {one['shard']}, {one['times_median']:.1f} times the median, {one['reason']}" for one in self.slow
        )
        return _lines(
            f"dataset {self.name}",
            shards=f"{done} (of {self.shards})",
            rows=_rows_text(self.rows, self.kept, self.rejected, self.reasons),
            fit_error=_fit_text(self.v2v_mm) if self.reports else "no shard is done",
            limit_violations=f"{self.limit_violations:,}",
            time=", ".join(f"{name} {value:,.1f} s" for value, name in work) or "nothing to do",
            **({"slow": "; ".join(slow)} if self.slow else {}),
            files=f"{self.out} (README.md there says what is in them)" if self.reports else "none",
        )

    def table(self) -> list[dict[str, Any]]:
        """A row per shard, for Prefect's page."""
        names = ("shard", "skipped", "kept", "rejected", "limit_violations", "rows_per_s", "v2v_mm", "seconds")
        rows = [{name: report[name] for name in names} for report in self.reports]
        return rows + [{"shard": index, "failed": why} for index, why in (self.failed | self.in_hand).items()]

    def markdown(self) -> str:
        """The summary for Prefect's page."""
        return "\n".join(["```", self.text(), *self.unfinished(), "```"])

    def unfinished(self) -> list[str]:
        """A line for each reason why shards are not complete."""
        held = {index: f"in the hands of {who}; run this again when it is done" for index, who in self.in_hand.items()}
        reasons: dict[str, list[int]] = {}
        for index, why in (self.failed | held).items():
            reasons.setdefault(why, []).append(index)
        return [f"{name_shards(shards)}: {why}" for why, shards in reasons.items()]


class ShardsUnfinished(UserError):
    """Shards that were asked for are not complete; the others are. The text names each one and says why."""

    def __init__(self, summary: DatasetSummary, failures: Mapping[int, BaseException]) -> None:
        total = len(failures) + len(summary.reports)
        lines = "".join(f"\n  {line}" for line in summary.unfinished())
        super().__init__(
            f"{len(failures)} of {total} shards are not complete; the others are. The same command tries these again:"
            + lines
        )
        self.summary = summary
        bugs = [error for error in failures.values() if not isinstance(error, UserError)]
        self.traceback = "".join(traceback.format_exception(bugs[0])) if bugs else ""
        """Of the first failure that is no `UserError`, for whoever has to mend it."""


def slow_shards(built: Sequence[ShardReport]) -> list[dict[str, Any]]:
    """The built shards that took far longer than the median one, and the stage that most of the difference went to."""
    if len(built) < 3:
        return []
    usual = median(report.elapsed_s for report in built)
    slow = sorted(
        (r for r in built if r.elapsed_s > max(SLOW * usual, usual + SLOW_S)), key=lambda r: r.elapsed_s, reverse=True
    )
    found = []
    for report in slow[:MOST_SLOW]:
        medians = {stage: median(other.seconds.get(stage, 0.0) for other in built) for stage in STAGES}
        stage = max(STAGES, key=lambda stage: report.seconds.get(stage, 0.0) - medians[stage])
        reason = f"{STAGES[stage]} took {report.seconds[stage]:,.1f} s, the median {medians[stage]:,.1f} s"
        rows = median(other.rows for other in built)
        if report.rows > rows:
            reason += f"; it has {report.rows:,} rows, the median {rows:,.0f}"
        elif report.batch < max(other.batch for other in built):
            reason += f"; it was fitted in batches of {report.batch} rows for want of memory"
        times = round(report.elapsed_s / usual, 2)
        found.append(
            {"shard": report.shard, "seconds": round(report.elapsed_s, 3), "times_median": times, "reason": reason}
        )
    return found


def _lines(head: str, **values: str) -> str:
    return "\n".join([head, *(f"  {name.replace('_', ' '):<18}{value}" for name, value in values.items())])


def _rows_text(rows: int, kept: int, rejected: int, reasons: Mapping[str, int]) -> str:
    why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    return f"{rows:,} read, {kept:,} kept, {rejected:,} rejected" + (f" ({why})" if why else "")


def _fit_text(v2v_mm: dict[str, float] | None) -> str:
    if v2v_mm is None:
        return "no row was fitted: all hold SKEL already, or were rejected"
    return "v2v mean {mean:.2f} mm, p99 {p99:.2f} mm, max {max:.2f} mm".format(**v2v_mm)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _v2v(files: Sequence[str]) -> dict[str, float] | None:
    if not files:
        return None
    v2v = load_shards(files, columns=["v2v_mm"])["v2v_mm"]
    return statistics(v2v[~np.isnan(v2v)])  # rows that were not fitted have none
