"""What a conversion came to: one line for a person, one JSON object for a program."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.data.meta import LIMIT_TOLERANCE_DEG, statistics


@dataclass(frozen=True)
class Report:
    """Counts are of rows: frames, or people."""

    shard: int
    shards: int
    """0 of 1: a conversion is one piece of work. Here for those who read `fit --json` too."""
    rows: int
    kept: int
    rejected: int
    clips: int
    moving: int
    """Of the clips, those that are one person in time."""
    rows_per_s: float
    v2v_mm: dict[str, float] | None
    """mean, median, p95, p99, max; None where nothing was fitted."""
    limit_violations: int
    """Rows with a dof outside its range."""
    file: str
    """What was asked for with -o."""
    files: list[str]
    seconds: float
    """All of it: reading, fitting, writing."""
    fit_s: float
    """Of these, in fits and what follows them (smoothing), with the loading of the body models."""
    skel_gender: dict[str, int]
    """Rows by body."""
    notes: list[str]
    """What was left out or assumed."""

    @classmethod
    def of(
        cls, clips: Sequence[SmplClip], done: Sequence[SkelClip], files: Sequence[Path], out: Path, seconds: float,
        fit_s: float,
    ) -> "Report":  # fmt: skip
        """From what was read and what came of it."""
        rows, kept = sum(map(len, clips)), sum(map(len, done))
        violations = np.concatenate([clip.max_limit_violation_deg for clip in done])
        genders = np.concatenate([clip.gender for clip in done])
        return cls(
            shard=0,
            shards=1,
            rows=rows,
            kept=kept,
            rejected=rows - kept,
            clips=len(clips),
            moving=sum(clip.moving for clip in clips),
            rows_per_s=rows / seconds,
            v2v_mm=statistics(np.concatenate([clip.v2v_mm for clip in done])),
            limit_violations=int((violations > LIMIT_TOLERANCE_DEG).sum()),
            file=str(out),
            files=[str(path) for path in files],
            seconds=seconds,
            fit_s=fit_s,
            skel_gender={gender: int((genders == gender).sum()) for gender in sorted(set(genders))},
            notes=_notes(clips, done),
        )

    def line(self) -> str:
        """One line."""
        what = "frame" if self.clips and self.moving else "row"
        left_out = f", {self.rejected:,} left out" if self.rejected else ""
        fit = "nothing fitted"
        if self.v2v_mm is not None:
            fit = "v2v mean {mean:.2f}, p99 {p99:.2f}, max {max:.2f} mm".format(**self.v2v_mm)
        gender = " and ".join(self.skel_gender) or "no"
        files = f" ({len(self.files):,} files)" if len(self.files) > 1 else ""
        return (
            f"{self.rows:,} {what}{'s' * (self.rows != 1)} of {self.clips:,} clip{'s' * (self.clips != 1)}{left_out}: "
            f"{gender} SKEL, {fit}, "
            f"{self.limit_violations:,} outside limits, {self.seconds:.1f} s -> {self.file}{files}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def _notes(clips: Sequence[SmplClip], done: Sequence[SkelClip]) -> list[str]:
    notes = list(dict.fromkeys(note for clip in clips for note in clip.notes))
    for clip in done:
        if clip.rejected:
            (number, reason), more = clip.rejected[0], len(clip.rejected) - 1
            others = f", and {more:,} more" if more else ""
            notes.append(f"{clip.smpl.source}: row {number} of {clip.name} is left out: {reason}{others}")
    return notes
