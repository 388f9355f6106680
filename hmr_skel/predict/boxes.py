"""Square boxes of people in the full image: from a file, or the whole image. (A detector's: `detector.py`.)"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from hmr_skel.errors import UserError
from hmr_skel.predict.frames import Frame, is_video


@dataclass(frozen=True)
class PersonBox:
    """A person's square, as the network's crops are cut."""

    center: Float[np.ndarray, "2"]  # px
    side: float  # px
    score: float | None = None  # the detector's
    cam_int: Float[np.ndarray, "3 3"] | None = None  # intrinsics of the image, px, where known with the box
    focal: float | None = None  # px, likewise, the principal point being the image's middle


@runtime_checkable
class Boxes(Protocol):
    """Finds the people of a picture."""

    def of(self, frame: Frame) -> Sequence[PersonBox]: ...


def square(corners: Float[np.ndarray, "4"], margin: float, score: float | None = None) -> PersonBox:
    """The square around a tight box x1, y1, x2, y2 (px): `margin` times its longer side, about its centre."""
    low, high = np.asarray(corners[:2], float), np.asarray(corners[2:], float)
    return PersonBox((low + high) / 2, margin * float((high - low).max()), score)


@dataclass(frozen=True)
class WholeImage:
    """One person who fills the picture."""

    def of(self, frame: Frame) -> Sequence[PersonBox]:
        height, width = frame.rgb.shape[:2]
        return [square(np.array([-0.5, -0.5, width - 0.5, height - 0.5]), 1.0)]


Key = tuple[str, int | None]
"""An image's name as a file of boxes has it, and the number of a video's frame."""


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes by image. A name stands for every file whose path ends in it: `b/c.jpg` for `a/b/c.jpg`."""

    source: Path
    by_image: Mapping[Key, Sequence[PersonBox]]
    as_stored: bool = False  # whether they belong to images without regard to their orientation tags

    @cached_property
    def _names(self) -> dict[str, set[bool]]:
        """Names of images, and whether their boxes have a frame's number: {True}, {False}, or both."""
        names: dict[str, set[bool]] = {}
        for name, number in self.by_image:
            names.setdefault(name, set()).add(number is not None)
        return names

    def count(self, files: Sequence[Path]) -> tuple[int, int]:
        """How many boxes these files have, and how many of them come without the camera of their image."""
        names = {self.name_of(file) for file in files}
        boxes = [box for (name, _), boxes in self.by_image.items() if name in names for box in boxes]
        return len(boxes), sum(box.cam_int is None and box.focal is None for box in boxes)

    def of(self, frame: Frame) -> Sequence[PersonBox]:
        name = self.name_of(frame.file)
        return [] if name is None else self.by_image.get((name, frame.number), [])

    def name_of(self, file: Path) -> str | None:
        """The name in the file of boxes that stands for this file: the longest that its path ends in."""
        parts = PurePath(file).parts
        candidates = ("/".join(parts[i:]) for i in range(len(parts)))
        return next((name for name in (str(file), *candidates) if name in self._names), None)

    def check(self, files: Sequence[Path]) -> None:
        """Raise `UserError` where the boxes are of none of these files, a name stands for several of them, or all
        boxes of a video are without the number of a frame, or all of a photograph with one."""
        found: dict[str, Path] = {}
        for file in files:
            name = self.name_of(file)
            if name is None:
                continue
            if name in found:
                raise UserError(
                    f"{self.source}: boxes of {name!r} could be of {found[name]} or of {file}. Name images with their "
                    "folders there, or give fewer images."
                )
            found[name] = file
            self._check_frames(name, file)
        if not found:
            raise UserError(
                f"{self.source}: none of its images is among those given; it names {next(iter(self._names))!r} and the "
                f"like, the first one given is {files[0]}. Expected names that these paths end in."
            )

    def _check_frames(self, name: str, file: Path) -> None:
        if is_video(file) and True not in self._names[name]:
            raise UserError(
                f"{self.source}: boxes of {name!r} have no frame, and {file} is a video. Expected with each the "
                "number of its frame, from 0."
            )
        if not is_video(file) and False not in self._names[name]:
            raise UserError(
                f"{self.source}: boxes of {name!r} are of frames of a video, and {file} is none. Expected boxes "
                "without a frame."
            )
