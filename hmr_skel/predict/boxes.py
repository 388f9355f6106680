"""Square boxes of people in the full image, from a file or as the whole image. (`detector.py` detects them.)"""

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
    """The square around a person, which becomes the network's crop."""

    center: Float[np.ndarray, "2"]  # px
    side: float  # px
    score: float | None = None  # of the detector
    cam_int: Float[np.ndarray, "3 3"] | None = None  # intrinsics of the image, px, if they came with the box
    focal: float | None = None  # px, likewise, with the principal point in the middle of the image


@runtime_checkable
class Boxes(Protocol):
    """Finds the people of a picture."""

    def of(self, frame: Frame) -> Sequence[PersonBox]: ...


def square(corners: Float[np.ndarray, "4"], margin: float, score: float | None = None) -> PersonBox:
    """The square around a tight box x1, y1, x2, y2 (px), with the same centre and `margin` times its longer side."""
    low, high = np.asarray(corners[:2], float), np.asarray(corners[2:], float)
    return PersonBox((low + high) / 2, margin * float((high - low).max()), score)


@dataclass(frozen=True)
class WholeImage:
    """One person who fills the picture."""

    def of(self, frame: Frame) -> Sequence[PersonBox]:
        height, width = frame.rgb.shape[:2]
        return [square(np.array([-0.5, -0.5, width - 0.5, height - 0.5]), 1.0)]


Key = tuple[str, int | None]
"""The name of an image in a file of boxes, and the number of the frame in a video."""


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes by image. A name applies to every file whose path ends in it: `b/c.jpg` to `a/b/c.jpg`."""

    source: Path
    by_image: Mapping[Key, Sequence[PersonBox]]
    as_stored: bool = False  # whether they belong to images before the orientation tag is applied

    @cached_property
    def _names(self) -> dict[str, set[bool]]:
        """For each name of an image, whether its boxes have frame numbers: {True}, {False}, or both."""
        names: dict[str, set[bool]] = {}
        for name, number in self.by_image:
            names.setdefault(name, set()).add(number is not None)
        return names

    def count(self, files: Sequence[Path]) -> tuple[int, int]:
        """The number of boxes for these files, and how many of them come without a camera."""
        names = {self.name_of(file) for file in files}
        boxes = [box for (name, _), boxes in self.by_image.items() if name in names for box in boxes]
        return len(boxes), sum(box.cam_int is None and box.focal is None for box in boxes)

    def of(self, frame: Frame) -> Sequence[PersonBox]:
        name = self.name_of(frame.file)
        return [] if name is None else self.by_image.get((name, frame.number), [])

    def name_of(self, file: Path) -> str | None:
        """The longest name in the file of boxes that this file's path ends in; None if there is none."""
        parts = PurePath(file).parts
        candidates = ("/".join(parts[i:]) for i in range(len(parts)))
        return next((name for name in (str(file), *candidates) if name in self._names), None)

    def check(self, files: Sequence[Path]) -> None:
        """Raise `UserError` if no box belongs to these files, a name applies to several of them, or the boxes of a
        video have no frame numbers, or those of a photograph have them."""
        found: dict[str, Path] = {}
        for file in files:
            name = self.name_of(file)
            if name is None:
                continue
            if name in found:
                raise UserError(
                    f"{self.source}: boxes of {name!r} may belong to {found[name]} or {file}. Name images with their "
                    "folders there, or give fewer images."
                )
            found[name] = file
            self._check_frames(name, file)
        if not found:
            raise UserError(
                f"{self.source} has no boxes for the given images. It names for example {next(iter(self._names))!r}, "
                f"and the first given image is {files[0]}. Expected names that the paths of images end in."
            )

    def _check_frames(self, name: str, file: Path) -> None:
        if is_video(file) and True not in self._names[name]:
            raise UserError(
                f"{self.source}: boxes of {name!r} have no frame, and {file} is a video. Expected a frame number, "
                "from 0, with each box."
            )
        if not is_video(file) and False not in self._names[name]:
            raise UserError(
                f"{self.source}: boxes of {name!r} have frame numbers, and {file} is not a video. Expected boxes "
                "without a frame."
            )
