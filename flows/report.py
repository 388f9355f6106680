"""The figures of a shard and of a whole run, for the terminal, for Prefect's pages, and as JSON."""

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hmr_skel.data.lease import InHand
from hmr_skel.data.load import load_shards
from hmr_skel.data.meta import WHOSE_LIMITS, error_text, statistics
from hmr_skel.data.shards import name_shards
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from flows.shard import Builder


@dataclass(frozen=True)
class ShardReport:
    """The figures of one shard."""

    shard: int
    shards: int
    rows: int
    kept: int
    rejected: int
    reasons: dict[str, int]  # number of rejected rows by reason
    rows_per_s: float
    v2v_mm: dict[str, float] | None  # mean, median, p95, p99, max over fitted rows; None if none was fitted
    v2v_max_mm: dict[str, float] | None  # the same for the worst vertex of each row
    limit_violations: int  # fitted rows with a dof outside its range
    doubtful: int  # fitted rows with status far or implausible
    file: str
    skipped: bool  # whether it was complete before; the figures are then those of the earlier build

    def line(self) -> str:
        """The report as one line."""
        state = "complete already" if self.skipped else f"{self.rows_per_s:.1f} rows/s"
        fit = f", v2v mean {self.v2v_mm['mean']:.2f} mm" if self.v2v_mm is not None else ""
        return f"shard {self.shard} of {self.shards}: {self.kept:,} kept, {self.rejected:,} rejected, {state}{fit}"

    def text(self) -> str:
        """The text that `hmr-skel fit` prints."""
        head = f"shard {self.shard} of {self.shards} (0 to {self.shards - 1})"
        if self.skipped:
            head += ": complete and up to date, not fitted again (use --rebuild to fit it again)"
        return _lines(head, asdict(self), speed=f"{self.rows_per_s:.1f} rows/s", file=self.file)


def summarise_run(
    builder: "Builder", reports: Sequence[ShardReport], failures: Mapping[int, BaseException], seconds: float
) -> dict[str, Any]:
    """The sums over the complete shards of a run, the errors of other shards by number, and seconds, as JSON values.

    Errors of fits are over all fitted rows, read from the files.
    """
    fitted = [report.file for report in reports if report.v2v_mm is not None]
    columns = ("v2v_mm", "v2v_max_mm")
    errors = load_shards(fitted, columns=columns) if fitted else dict.fromkeys(columns, np.zeros(0))
    counts = ("rows", "kept", "rejected", "limit_violations", "doubtful")
    return {
        "name": builder.manifest.name,
        "out": str(builder.out),
        "shards": len(builder.shards),
        "built": [report.shard for report in reports if not report.skipped],
        "skipped": [report.shard for report in reports if report.skipped],
        "failed": {str(index): _reason(error) for index, error in failures.items()},
        "reasons": dict(sum((Counter(report.reasons) for report in reports), Counter())),
        **{name: statistics(errors[name][~np.isnan(errors[name])]) for name in columns},
        "seconds": seconds,
        "reports": [asdict(report) for report in reports],
        **{name: sum(getattr(report, name) for report in reports) for name in counts},
    }


def summary_text(summary: Mapping[str, Any]) -> str:
    """The text that `hmr-skel dataset` prints at its end, from the result of `summarise_run`."""
    built, skipped, failed = (len(summary[name]) for name in ("built", "skipped", "failed"))
    done = f"{built} built in {summary['seconds']:.0f} s"
    done += f", {skipped} were complete already and skipped" if skipped else ""
    done += f", {failed} not complete" if failed else ""
    shards = f"{done} (of {summary['shards']})"
    return _lines(f"dataset {summary['name']}", summary, shards=shards, files=summary["out"])


def unfinished_lines(summary: Mapping[str, Any]) -> list[str]:
    """A line for each reason why shards are not complete."""
    reasons: dict[str, list[int]] = {}
    for index, why in summary["failed"].items():
        reasons.setdefault(why, []).append(int(index))
    return [f"{name_shards(shards)}: {why}" for why, shards in reasons.items()]


class ShardsUnfinished(UserError):
    """Some requested shards are not complete. The text names each and says why; a bug also has a `traceback`."""

    def __init__(self, summary: Mapping[str, Any], failures: Mapping[int, BaseException]) -> None:
        total = len(failures) + len(summary["reports"])
        lines = "".join(f"\n  {line}" for line in unfinished_lines(summary))
        super().__init__(
            f"{len(failures)} of {total} shards are not complete. Run the same command again to build them:" + lines
        )
        self.summary = summary
        bugs = [error for error in failures.values() if not isinstance(error, UserError)]
        self.traceback = "".join(traceback.format_exception(bugs[0])) if bugs else ""


def _lines(head: str, figures: Mapping[str, Any], **more: str) -> str:
    why = ", ".join(f"{count:,} {reason}" for reason, count in figures["reasons"].items())
    rows = "{rows:,} read, {kept:,} kept, {rejected:,} rejected".format(**figures)
    values = {"rows": f"{rows} ({why})" if why else rows, "fit error": error_text(figures)}
    values |= {"limit violations": f"{figures['limit_violations']:,} rows {WHOSE_LIMITS}", **more}
    return "\n".join([head, *(f"  {name:<18}{value}" for name, value in values.items())])


def _reason(error: BaseException) -> str:
    if isinstance(error, InHand):
        return f"in the hands of {error.holder}; run this again when it is done"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
