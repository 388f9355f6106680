"""The camera that took a picture: known with the box, given for all pictures, or estimated by HumanFoV."""

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
    """One focal length (px) for all pictures: square pixels, the principal point in the image's middle."""

    focal: float

    def of(self, frame: Frame) -> CameraMatrix:
        height, width = frame.rgb.shape[:2]
        return np.array([[self.focal, 0, width / 2], [0, self.focal, height / 2], [0, 0, 1]], np.float32)


@dataclass(frozen=True)
class VerticalFov:
    """One vertical field of view for all pictures."""

    degrees: float

    def of(self, frame: Frame) -> CameraMatrix:
        height, width = frame.rgb.shape[:2]
        return intrinsics_from_vfov(radians(self.degrees), width=width, height=height)


@dataclass
class EstimatedFov:
    """HumanFoV's estimate of every photograph, and of a video's first frame: all its frames have one camera."""

    model: HumanFov
    exchanged: bool = False
    """It gets blue and red exchanged, as in the published demo."""
    _video: tuple[Path, CameraMatrix] | None = field(default=None, init=False)

    @classmethod
    def load(cls, path: Path, device: torch.device, exchanged: bool = False) -> "EstimatedFov":
        """Raises `UserError` where the file is not HumanFoV's."""
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
    """The camera that came with the box; None where there is none."""
    if box.cam_int is not None:
        return box.cam_int
    return None if box.focal is None else FocalLength(box.focal).of(frame)
