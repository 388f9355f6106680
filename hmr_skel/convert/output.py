"""Where converted clips go: which files a run makes, planned before any fit and written after it, and a report."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.animation import write_animation
from hmr_skel.convert.clips import SkelClip, SmplClip, require_frame
from hmr_skel.convert.fit import Bodies
from hmr_skel.convert.meshes import write_mesh
from hmr_skel.convert.opensim import OpenSimOptions, qpos_file, write_opensim
from hmr_skel.convert.tables import write_table
from hmr_skel.data.meta import DOUBTFUL, LIMIT_TOLERANCE_DEG, WHOSE_LIMITS, error_text, statistics
from hmr_skel.errors import UserError

TABLES, MESHES = ("parquet", "npz"), ("glb", "obj")
MOTIONS = ("osim", "mot", "trc", "xml")
SUFFIXES = (*TABLES, *MOTIONS, *MESHES)
_MANY_FILES = 2000


@dataclass(frozen=True)
class Destination:
    """A file, or a folder of files named after the inputs, in one format."""

    path: Path
    format: str
    is_file: bool
    joints: bool = False
    opensim: OpenSimOptions = field(default_factory=OpenSimOptions)

    @classmethod
    def of(cls, path: str, format: str | None, joints: bool, opensim: OpenSimOptions | None = None) -> "Destination":
        """From the command line: a path that ends in a known format is a file, any other a folder.

        Raises:
            UserError: path and format contradict each other, or the format has no use for joints or an option.
        """
        suffix = Path(path).suffix.lower().removeprefix(".")
        is_file = suffix in SUFFIXES
        if is_file and format not in (None, suffix):
            raise UserError(
                f"-o {path} is a .{suffix}, but --format is {format}. Leave --format out, or name a folder."
            )
        if not is_file and "." in Path(path).name and not Path(path).is_dir():
            raise UserError(f"-o {path}: unknown format {suffix!r}. Expected .{', .'.join(SUFFIXES)}, or a folder.")
        chosen = suffix if is_file else format or "parquet"
        if joints and chosen not in TABLES:
            raise UserError(f"--joints writes {' or '.join(TABLES)}, not {chosen}.")
        opensim = opensim or OpenSimOptions()
        opensim.check(chosen)
        return cls(Path(path), chosen, is_file, joints, opensim)

    def check(self, clips: Sequence[SmplClip], inputs: Sequence[Path] = ()) -> None:
        """Raise `UserError`, before anything is fitted, where these clips cannot be written so.

        No input may be overwritten: `inputs` are the files that the clips were read from.
        """
        self._check_place()
        tables = list(self._tables([clip.file for clip in clips])) if self.format in TABLES else []
        tables += [qpos_file(self._file(clip.name)) for clip in clips if self.format == "xml"]
        for path in tables:
            if path.exists() and any(path.samefile(file) for file in inputs):
                raise UserError(f"{path} is an input, and would be overwritten. Name another file or folder with -o.")
        if self.format in TABLES:
            return
        program = "MuJoCo" if self.format == "xml" else "OpenSim"
        for clip in clips:
            require_frame(clip, program if self.format in MOTIONS else "a mesh file")
        files = sum(1 if self._is_motion(clip) else len(clip) for clip in clips)
        if self.is_file and files > 1:
            what = "one frame" if self.format == "obj" else "one person's motion"
            raise UserError(
                f"-o {self.path}: a .{self.format} holds {what}, and the input has {files:,}. Name a folder, or choose "
                "with --frames."
            )
        if files > _MANY_FILES:
            raise UserError(
                f"that would be {files:,} .{self.format} files; at most {_MANY_FILES:,} are written in one go. Choose "
                "with --frames."
            )
        timeless = [clip for clip in clips if self._is_motion(clip) and clip.frame_rate is None]
        if timeless:
            raise UserError(
                f"{timeless[0].source} does not say how many frames a second it has, and a .{self.format} has times. "
                "Say --frame-rate."
            )

    def write(self, clips: Sequence[SkelClip], bodies: Bodies) -> Iterator[Path]:
        """Write the files, and name each once it is there. A clip without a fitted row gives no .mot and no mesh."""
        if self.format in TABLES:
            tables = self._tables([clip.smpl.file for clip in clips])
            for path, members in tables.items():
                write_table([clips[i] for i in members], path, bodies, self.joints)
                yield path
            return
        for clip in clips:
            if self._is_motion(clip.smpl):
                if len(clip):
                    yield from self._write_one(clip, bodies, self._file(clip.name))
                continue
            alone = len(clip) == 1 and clip.smpl.number[0] == 0
            for row, number in enumerate(clip.smpl.number):
                name = clip.name if alone else f"{clip.name}_{number:06d}"
                again = (clip.smpl.number[:row] == number).sum()  # several people of one image
                path = self._file(f"{name}_{again + 1}" if again else name)
                yield from self._write_one(clip.take(np.array([row])), bodies, path)

    def _is_motion(self, clip: SmplClip) -> bool:
        """Whether the clip goes into one file as a motion; else each of its rows gets a file."""
        return clip.moving and len(clip) > 0 and (self.format in MOTIONS or (self.format == "glb" and len(clip) > 1))

    def _write_one(self, clip: SkelClip, bodies: Bodies, path: Path) -> list[Path]:
        """Write a moving clip, or one row."""
        skel = bodies.skel(clip.gender[0])
        if self.format in MOTIONS:
            return write_opensim(clip, skel, path, self.opensim)
        if self._is_motion(clip.smpl):
            write_animation(clip, skel, path)
        else:
            write_mesh(clip, 0, skel, path)
        return [path]

    def _check_place(self) -> None:
        """Raise `UserError` where nothing can be written, as far as this can be found out without writing."""
        folder = self.path.parent if self.is_file else self.path
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UserError(f"-o {self.path}: {folder} is no folder that can be written to. Name another with -o.")
        if self.is_file and self.path.is_dir():
            raise UserError(f"-o {self.path} is a folder. Expected a file, or a folder without a format's ending.")

    def _file(self, name: str) -> Path:
        """The file of a clip or frame. Raises `UserError` where the name would lead out of the folder."""
        if self.is_file:
            return self.path
        if Path(f"{name}.x").name != f"{name}.x":
            raise UserError(f"{name!r} is no name for a file in {self.path}. Expected no folders in a clip's name.")
        return self.path / f"{name}.{self.format}"

    def _tables(self, names: Sequence[str]) -> dict[Path, list[int]]:
        """A table for each input file, or one for all -> the numbers of its clips, whose input files have `names`."""
        tables: dict[Path, list[int]] = {}
        for i, name in enumerate(names):
            tables.setdefault(self.path if self.is_file else self._file(name), []).append(i)
        return tables


def conversion_report(
    clips: Sequence[SmplClip], done: Sequence[SkelClip], files: Sequence[Path], out: Path, seconds: float, fit_s: float
) -> dict[str, Any]:
    """The numbers of a conversion, for `--json`. Counts are of rows: frames, or people.

    Args:
        clips: what was read.
        done: what was fitted of it.
        files: what was written.
        out: what `-o` said.
        seconds: the time of all.
        fit_s: the part of it that the fits and the smoothing took, with loading the body models.
    """
    rows = sum(len(clip) + len(clip.left_out) for clip in clips)
    kept = sum(map(len, done))
    fitted = [clip for clip in done if clip.smpl.skel_q is None]
    violations = np.concatenate([clip.max_limit_violation_deg for clip in done])
    genders = np.concatenate([clip.gender for clip in done])
    return {
        "shard": 0,
        "shards": 1,  # a conversion is one piece of work; for those who read `fit --json` too
        "rows": rows,
        "kept": kept,
        "rejected": rows - kept,
        "clips": len(clips),
        "moving": sum(clip.moving for clip in clips),  # clips of one person in time
        "rows_per_s": rows / seconds,
        **{  # of rows; None where nothing was fitted
            name: statistics(np.concatenate([getattr(clip, name) for clip in fitted] or [np.empty(0, np.float32)]))
            for name in ("v2v_mm", "v2v_max_mm")
        },
        "limit_violations": int((violations > LIMIT_TOLERANCE_DEG).sum()),  # rows with a dof outside its range
        "doubtful": int(np.isin(np.concatenate([clip.status for clip in done]).astype(str), DOUBTFUL).sum()),
        "file": str(out),
        "files": [str(path) for path in files],
        "seconds": seconds,
        "fit_s": fit_s,
        "skel_gender": {gender: int((genders == gender).sum()) for gender in sorted(set(genders))},
        "notes": _notes(clips, done),  # what was left out or assumed
    }


def report_line(report: dict[str, Any]) -> str:
    """The report in one line, for a person."""
    rows, clips, files = report["rows"], report["clips"], len(report["files"])
    left_out = f", {report['rejected']:,} left out" if report["rejected"] else ""
    return (
        f"{rows:,} {'frame' if report['moving'] else 'row'}{'s' * (rows != 1)} of {clips:,} clip{'s' * (clips != 1)}"
        f"{left_out}: {' and '.join(report['skel_gender']) or 'no'} SKEL, {error_text(report)}, "
        f"{report['limit_violations']:,} {WHOSE_LIMITS}, {report['seconds']:.1f} s -> {report['file']}"
        + (f" ({files:,} files)" if files > 1 else "")
    )


def _notes(clips: Sequence[SmplClip], done: Sequence[SkelClip]) -> list[str]:
    notes = list(dict.fromkeys(note for clip in (*clips, *(each.smpl for each in done)) for note in clip.notes))
    for clip in done:
        if clip.rejected:
            (number, reason), more = clip.rejected[0], len(clip.rejected) - 1
            last = clip.rejected[-1][0]
            others = f", and {more:,} more up to row {last}" if more else ""
            if rate := clip.smpl.frame_rate:
                others += f" ({number / rate:.2f} s" + (f" to {last / rate:.2f} s)" if more else ")")
            notes.append(f"{clip.smpl.source}: row {number} of {clip.name} is left out: {reason}{others}")
        if clip.gaps:
            notes.append(f"{clip.smpl.source}: {clip.name} has {clip.gaps}. Its times jump there; nothing is filled in")
    return notes
