"""Read photographs and frames of videos one by one. A file that cannot be read is named and skipped."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from hmr_skel.data.images import UnreadableImage, decode
from hmr_skel.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")

Skipped = Callable[[str, str], None]
"""Called with a skipped file or person, and the reason."""


@dataclass(frozen=True)
class Frame:
    """A picture in memory."""

    file: Path  # the photograph, or the video
    number: int | None  # of the frame in its video, from 0; None for photographs
    rate: float | None  # frames per second of the video
    rgb: UInt8[np.ndarray, "H W 3"]

    @property
    def time_s(self) -> float | None:
        """The time in the video, s; None for photographs."""
        return None if self.number is None or self.rate is None else self.number / self.rate

    @property
    def name(self) -> str:
        """The picture's name for messages."""
        return str(self.file) if self.number is None else f"{self.file}, frame {self.number}"


def is_video(file: Path) -> bool:
    """Whether the file's ending is that of a video."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def find_files(paths: Sequence[Path], but: Path | None = None) -> list[Path]:
    """The given files, and all files below given folders that are not hidden, in the order of numbers (2 before 10).

    The folder `but`, where results go, is left out. Raises `UserError` if a path is missing, or there is no file.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        raise UserError(
            f"{', '.join(missing)}: no such file or folder. Expected images, folders of images, or a "
            "video. `hmr-skel images` (make images) makes those of the default dataset."
        )
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.is_file() and not _lies_in(file, but))
            shown = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
            files += sorted(shown, key=_natural)
        else:
            files.append(path)
    if not files:
        raise UserError(f"no file in {', '.join(map(str, paths))}. Expected images or a video.")
    once: dict[str, Path] = {}
    for file in files:
        once.setdefault(os.path.abspath(file), file)
    return list(once.values())


def read_frames(files: Sequence[Path], skipped: Skipped, *, every: int = 1, as_stored: bool = False) -> Iterator[Frame]:
    """Photographs and frames, one in memory at a time.

    Args:
        files: files with the ending of a video; all others are read as photographs.
        skipped: called for every file that cannot be read, or that ends too early.
        every: read every n-th frame of a video.
        as_stored: ignore the orientation tag of photographs. Otherwise they are turned as it says, as viewers do.
    """
    for file in files:
        if is_video(file):
            yield from _video(file, skipped, every)
            continue
        try:
            yield Frame(file, None, None, _photograph(file, as_stored))
        except UnreadableImage as error:
            skipped(str(file), str(error))


def _photograph(file: Path, as_stored: bool) -> UInt8[np.ndarray, "H W 3"]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    return np.ascontiguousarray(decode(data, shrink=1.0, as_stored=as_stored)[0][..., ::-1])


def _video(file: Path, skipped: Skipped, every: int) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(file))
    try:
        if not capture.isOpened():
            empty = file.stat().st_size == 0
            skipped(str(file), "the file is empty" if empty else "is not a video that can be read, or is damaged")
            return
        rate = _frame_rate(capture)
        number = 0
        while capture.grab():
            if number % every == 0:
                there, image = capture.retrieve()
                if not there:
                    break
                yield Frame(file, number, rate, np.ascontiguousarray(image[..., ::-1]))
            number += 1
        expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if number == 0:
            skipped(str(file), "has no frame that can be read")
        elif number < 0.9 * expected:  # the count in a container is approximate
            skipped(str(file), f"ends after {number} of {expected} frames; these are used")
    finally:
        capture.release()


def _frame_rate(capture) -> float:
    """Frames per second of an opened video; 30 if the file does not say."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return float(rate) if 0 < rate < 1000 else 30.0


def _lies_in(file: Path, folder: Path | None) -> bool:
    return folder is not None and file.parent.resolve().is_relative_to(folder.resolve())


def _natural(file: Path) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", str(file))
    return [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces]
