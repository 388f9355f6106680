"""The camera that took a picture: told with the box, told for all, or estimated by HumanFoV."""

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


@runtime_checkable
class Cameras(Protocol):
    """CameraMatrix (px) of a picture."""

    def of(self, frame: Frame) -> CameraMatrix: ...


@dataclass(frozen=True)
class FocalLength:
    """One focal length for all pictures."""

    focal: float  # px

    def of(self, frame: Frame) -> CameraMatrix:
        return from_focal(self.focal, frame)


@dataclass(frozen=True)
class VerticalFov:
    """One vertical field of view for all pictures."""

    degrees: float

    def of(self, frame: Frame) -> CameraMatrix:
        height, width = frame.rgb.shape[:2]
        return intrinsics_from_vfov(radians(self.degrees), width=width, height=height)


@dataclass
class EstimatedFov:
    """HumanFoV's estimate of every photograph. All frames of a video are one camera's: that of its first frame."""

    model: HumanFov
    _video: tuple[Path, CameraMatrix] | None = field(default=None, init=False)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "EstimatedFov":
        """Raises `UserError` where the file is not HumanFoV's."""
        return cls(HumanFov.load(path, device))

    def of(self, frame: Frame) -> CameraMatrix:
        if frame.number is not None and self._video is not None and self._video[0] == frame.file:
            return self._video[1]
        found = self.model.intrinsics(frame.rgb)
        if frame.number is not None:
            self._video = (frame.file, found)
        return found


def from_focal(focal: float, frame: Frame) -> CameraMatrix:
    """The principal point in the image's middle, square pixels."""
    height, width = frame.rgb.shape[:2]
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)


def camera_of(frame: Frame, box: PersonBox) -> CameraMatrix | None:
    """What is known with the box; None where that is nothing."""
    if box.cam_int is not None:
        return box.cam_int
    return None if box.focal is None else from_focal(box.focal, frame)
