"""What a build came to, over all its shards: for the terminal, for the user interface of Prefect, and as JSON."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.plan import Plan
from flows.shard_report import ShardReport, describe
from flows.slow import slow_shards, slow_text, stage_seconds, stage_text
from hmr_skel.data.load import load_shards
from hmr_skel.data.meta import statistics
from hmr_skel.errors import UserError


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
    rows: int
    kept: int
    rejected: int
    reasons: dict[str, int]
    v2v_mm: dict[str, float] | None
    limit_violations: int
    seconds: float
    stages: dict[str, float]
    """Seconds by stage, see `flows.stages`."""
    slow: list[dict[str, Any]]
    """See `flows.slow.slow_shards`."""
    reports: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def text(self) -> str:
        """What `hmr-skel dataset` prints at its end."""
        why = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
        done = f"{len(self.built)} built in {self.seconds:.0f} s"
        if self.skipped:
            done += f", {len(self.skipped)} were complete already and skipped"
        if self.failed:
            done += f", {len(self.failed)} failed"
        lines = [
            ("shards", f"{done} (of {self.shards})"),
            (
                "rows",
                f"{self.rows:,} read, {self.kept:,} kept, {self.rejected:,} rejected" + (f" ({why})" if why else ""),
            ),
            ("fit error", describe(self.v2v_mm) if self.reports else "no shard is done"),
            ("limit violations", f"{self.limit_violations:,}"),
            ("time", stage_text(self.stages)),
            *(("slow" if shard is self.slow[0] else "", slow_text(shard)) for shard in self.slow),
            ("files", f"{self.out} (README.md there says what is in them)" if self.reports else "none"),
        ]
        return "\n".join([f"dataset {self.name}", *(f"  {name:<18}{value}" for name, value in lines)])

    def table(self) -> list[dict[str, Any]]:
        """A row per shard."""
        rows = []
        for report in self.reports:
            v2v = report["v2v_mm"] or {}
            rows.append(
                {
                    "shard": report["shard"],
                    "state": "complete already" if report["skipped"] else "built",
                    "kept": report["kept"],
                    "rejected": report["rejected"],
                    "v2v mean, mm": round(v2v["mean"], 2) if v2v else None,
                    "v2v p99, mm": round(v2v["p99"], 2) if v2v else None,
                    "limit violations": report["limit_violations"],
                    "rows/s": round(report["rows_per_s"], 1),
                    "seconds": round(report["seconds"]["total"], 1),
                    "waited": round(report["seconds"]["wait"], 1),
                }
            )
        return rows + [{"shard": index, "state": f"failed: {why}"} for index, why in self.failed.items()]

    def markdown(self) -> str:
        """The summary as Markdown."""
        head, *lines = self.text().splitlines()
        rows = [f"| {line[2:20].strip()} | {line[20:]} |" for line in lines]
        failed = [f"- shard {index}: {why}" for index, why in self.failed.items()]
        return "\n".join([f"## {head}", "", "| | |", "|---|---|", *rows, "", *failed])


class ShardsFailed(UserError):
    """Some shards failed; the others are done. The text names each one and says why."""

    def __init__(self, summary: DatasetSummary, failures: Mapping[int, BaseException]) -> None:
        reasons = [f"  shard {index}: {why}" for index, why in summary.failed.items()]
        super().__init__(
            f"{len(failures)} of {len(failures) + len(summary.reports)} shards failed; the others are done. The same "
            "command tries these again:\n" + "\n".join(reasons)
        )
        self.summary = summary
        bugs = [error for error in failures.values() if not isinstance(error, UserError)]
        self.traceback = "".join(traceback.format_exception(bugs[0])) if bugs else ""
        """Of the first failure that is no `UserError`, for whoever has to mend it."""


def summarise_build(
    plan: Plan,
    reports: Sequence[ShardReport],
    failures: Mapping[int, BaseException],
    seconds: float,
    run: Mapping[str, float],
) -> DatasetSummary:
    """Add up the shards of a run, whose own seconds by stage `run` has.

    Errors are over all fitted rows of its shards, read back from the files.
    """
    reports = sorted(reports, key=lambda report: report.shard)
    reasons: dict[str, int] = {}
    for report in reports:
        for reason, count in report.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return DatasetSummary(
        name=plan.manifest.name,
        out=str(plan.out),
        shards=len(plan.shards),
        built=[report.shard for report in reports if not report.skipped],
        skipped=[report.shard for report in reports if report.skipped],
        failed={index: _reason(error) for index, error in sorted(failures.items())},
        rows=sum(report.rows for report in reports),
        kept=sum(report.kept for report in reports),
        rejected=sum(report.rejected for report in reports),
        reasons=reasons,
        v2v_mm=_v2v([report.file for report in reports if report.v2v_mm is not None]),
        limit_violations=sum(report.limit_violations for report in reports),
        seconds=seconds,
        stages=stage_seconds(reports, run),
        slow=slow_shards(reports),
        reports=[report.as_dict() for report in reports],
    )


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _v2v(files: Sequence[str]) -> dict[str, float] | None:
    if not files:
        return None
    shards = load_shards(files, columns=["v2v_mm"])
    return statistics(shards["v2v_mm"][shards.valid("v2v_mm")])
