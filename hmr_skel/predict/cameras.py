"""The camera of a picture: it came with the box, was given for all pictures, or HumanFoV estimates it."""

from dataclasses import dataclass, field
from math import radians
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from hmr_skel.model.fov import HumanFov, intrinsics_from_vfov
from hmr_skel.predict.boxes import PersonBox
from hmr_skel.predict.frames import Frame

CameraMatrix = Float[np.ndarray, "3 3"]
"""Intrinsics, px."""


@runtime_checkable
class Cameras(Protocol):
    """The camera of a picture."""

    def of(self, frame: Frame) -> CameraMatrix: ...


@dataclass(frozen=True)
class FocalLength:
    """The same focal length (px) for all pictures, with square pixels and the principal point in the middle."""

    focal: float

    def of(self, frame: Frame) -> CameraMatrix:
        height, width = frame.rgb.shape[:2]
        return np.array([[self.focal, 0, width / 2], [0, self.focal, height / 2], [0, 0, 1]], np.float32)


@dataclass(frozen=True)
class VerticalFov:
    """The same vertical field of view for all pictures."""

    degrees: float

    def of(self, frame: Frame) -> CameraMatrix:
        height, width = frame.rgb.shape[:2]
        return intrinsics_from_vfov(radians(self.degrees), width=width, height=height)


@dataclass
class EstimatedFov:
    """HumanFoV's estimate for each photograph, and for the first frame of a video, whose frames share one camera."""

    model: HumanFov
    exchanged: bool = False
    """Give HumanFoV images with blue and red exchanged, as in the published demo."""
    _video: tuple[Path, CameraMatrix] | None = field(default=None, init=False)

    @classmethod
    def load(cls, path: Path, device: torch.device, exchanged: bool = False) -> "EstimatedFov":
        """Read the weights. Raises `UserError` if the file is not HumanFoV's."""
        return cls(HumanFov.load(path, device), exchanged)

    def of(self, frame: Frame) -> CameraMatrix:
        if frame.number is None:
            return self._estimate(frame)
        if self._video is None or self._video[0] != frame.file:
            self._video = (frame.file, self._estimate(frame))
        return self._video[1]

    def _estimate(self, frame: Frame) -> CameraMatrix:
        return self.model.intrinsics(np.ascontiguousarray(frame.rgb[..., ::-1]) if self.exchanged else frame.rgb)


def camera_of(frame: Frame, box: PersonBox) -> CameraMatrix | None:
    """The camera that came with the box, or None."""
    if box.cam_int is not None:
        return box.cam_int
    return None if box.focal is None else FocalLength(box.focal).of(frame)
