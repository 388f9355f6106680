"""What became of a shard, for people and for machines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from hmr_skel.errors import UserError


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard."""

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
    """By stage, see `flows.stages`, and `total` without the waiting."""
    iterations: float | None
    """Of the solver, mean of the fitted rows; None where none was fitted."""
    starts: float | None
    """Likewise."""
    batch: int
    skipped: bool = False
    """It was complete already: nothing was built, and the figures are those of the build."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rows were rejected."""

    @classmethod
    def of(cls, meta: Mapping[str, Any], file: str, *, skipped: bool) -> Self:
        """From the shard's meta file. Raises `UserError` where it has not all figures."""
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
        fit = describe(self.v2v_mm)
        why = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
        lines = [
            (
                "rows",
                f"{self.rows:,} read, {self.kept:,} kept, {self.rejected:,} rejected" + (f" ({why})" if why else ""),
            ),
            ("speed", f"{self.rows_per_s:.1f} rows/s"),
            ("fit error", fit),
            ("limit violations", f"{self.limit_violations:,}"),
            ("file", self.file),
        ]
        head = f"shard {self.shard} of {self.shards} (0 to {self.shards - 1})"
        if self.skipped:
            head += ": complete and up to date, not fitted again (--rebuild would)"
        return "\n".join([head, *(f"  {name:<18}{value}" for name, value in lines)])


def describe(v2v_mm: dict[str, float] | None) -> str:
    """Fit errors in words."""
    if v2v_mm is None:
        return "no row was fitted: all hold SKEL already, or were rejected"
    return "v2v mean {mean:.2f} mm, p99 {p99:.2f} mm, max {max:.2f} mm".format(**v2v_mm)
