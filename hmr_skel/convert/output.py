"""Where converted clips go: which files a run makes, planned before any fit and written after it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.convert.fit import Bodies
from hmr_skel.convert.meshes import write_mesh
from hmr_skel.convert.opensim import write_mot
from hmr_skel.convert.tables import write_npz, write_parquet
from hmr_skel.convert.world import require_frame
from hmr_skel.errors import UserError

TABLES, MESHES = ("parquet", "npz"), ("glb", "obj")
FORMATS = (*TABLES, "mot", *MESHES)
_MANY_FILES = 2000


@dataclass(frozen=True)
class Output:
    """A file, or a folder of files named after the inputs, in one format."""

    path: Path
    format: str
    is_file: bool
    joints: bool = False

    @classmethod
    def of(cls, path: str, format: str | None, joints: bool) -> "Output":
        """From the command line: a path that ends in a known format is a file, any other a folder.

        Raises:
            UserError: path and format contradict each other, or joints are asked of a format that has none.
        """
        suffix = Path(path).suffix.lower().removeprefix(".")
        is_file = suffix in FORMATS
        if is_file and format not in (None, suffix):
            raise UserError(
                f"-o {path} is a .{suffix}, but --format is {format}. Leave --format out, or name a folder."
            )
        if not is_file and "." in Path(path).name and not Path(path).is_dir():
            raise UserError(f"-o {path}: unknown format {suffix!r}. Expected .{', .'.join(FORMATS)}, or a folder.")
        chosen = suffix if is_file else format or "parquet"
        if joints and chosen not in TABLES:
            raise UserError(f"--joints writes {' or '.join(TABLES)}, not {chosen}.")
        return cls(Path(path), chosen, is_file, joints)

    def check(self, clips: Sequence[SmplClip], inputs: Sequence[Path] = ()) -> None:
        """Raise `UserError` where these clips cannot become this output, or it would replace one of the files that they
        were read from, before anything is fitted."""
        self._check_place()
        for path in self._tables(clips):
            if path.exists() and any(path.samefile(file) for file in inputs):
                raise UserError(f"{path} is an input, and would be overwritten. Name another file or folder with -o.")
        if self.format in TABLES:
            return
        for clip in clips:
            require_frame(clip, "a .mot" if self.format == "mot" else "a mesh file")
        files = _count_files(clips, self.format)
        if self.is_file and files > 1:
            what = "one frame" if self.format in MESHES else "one person's motion"
            raise UserError(
                f"-o {self.path}: a .{self.format} holds {what}, and the input has {files:,}. Name a folder, or choose "
                "with --frames."
            )
        if files > _MANY_FILES:
            raise UserError(
                f"that would be {files:,} .{self.format} files; at most {_MANY_FILES:,} are written in one go. Choose "
                "with --frames."
            )
        if self.format == "mot" and any(clip.moving and clip.frame_rate is None for clip in clips):
            clip = next(clip for clip in clips if clip.moving and clip.frame_rate is None)
            raise UserError(
                f"{clip.source} does not say how many frames a second it has, and a .mot has times. Say --frame-rate."
            )

    def write(self, clips: Sequence[SkelClip], bodies: Bodies) -> list[Path]:
        """Write the files; returns them. Clips without a row write nothing, unless all are."""
        write_table = write_parquet if self.format == "parquet" else write_npz
        if self.format in TABLES:
            groups = {self.path: list(clips)} if self.is_file else self._by_source(clips)
            for path, members in groups.items():
                write_table(members, path, bodies, self.joints)
            return list(groups)
        written = []
        for clip, row, name in _single_files(clips, self.format):
            if not self.is_file and Path(f"{name}.x").name != f"{name}.x":
                raise UserError(f"{name!r} is no name for a file in {self.path}. Expected no folders in a clip's name.")
            path = self.path if self.is_file else self.path / f"{name}.{self.format}"
            skel = bodies.skel(clip.gender[0 if row is None else row])
            if self.format == "mot":
                write_mot(clip if row is None else clip.take(np.array([row])), skel, path)
            else:
                assert row is not None  # meshes are of single rows
                write_mesh(clip, row, skel, path)
            written.append(path)
        return written

    def _check_place(self) -> None:
        """Raise `UserError` where nothing can be written, as far as can be told without writing."""
        folder = self.path.parent if self.is_file else self.path
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UserError(f"-o {self.path}: {folder} is no folder that can be written to. Name another with -o.")
        if self.is_file and self.path.is_dir():
            raise UserError(f"-o {self.path} is a folder. Expected a file, or a folder without a format's ending.")

    def _tables(self, clips: Sequence[SmplClip]) -> set[Path]:
        """The files that a table format makes of these clips."""
        if self.format not in TABLES:
            return set()
        return {self.path if self.is_file else self.path / f"{clip.file}.{self.format}" for clip in clips}

    def _by_source(self, clips: Sequence[SkelClip]) -> dict[Path, list[SkelClip]]:
        groups: dict[Path, list[SkelClip]] = {}
        for clip in clips:
            groups.setdefault(self.path / f"{clip.smpl.file}.{self.format}", []).append(clip)
        return groups


def _count_files(clips: Sequence[SmplClip], format: str) -> int:
    return sum(1 if clip.moving and format == "mot" else len(clip) for clip in clips)


def _single_files(clips: Sequence[SkelClip], format: str) -> Iterator[tuple[SkelClip, int | None, str]]:
    """(clip, row or None for all, name) of each file."""
    for clip in clips:
        if clip.smpl.moving and format == "mot":
            if len(clip):
                yield clip, None, clip.name
        else:
            alone = len(clip) == 1 and clip.smpl.number[0] == 0
            for row in range(len(clip)):
                yield clip, row, clip.name if alone else f"{clip.name}_{clip.smpl.number[row]:06d}"
