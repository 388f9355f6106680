"""The pinhole camera of a picture, and its direction."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

View = Literal["front", "side", "back", "top"]

# For each view, the camera's axes (x right, y down, z forward) after the body is turned.
_TURNS = {
    "front": np.eye(3, dtype=np.float32),
    "side": np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]], np.float32),
    "back": np.diag(np.array([-1, 1, -1], np.float32)),
    "top": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32),
}
_MARGIN = 0.06  # free border, as a share of the picture
_FRAMING_FOCAL = 3.0  # focal length / picture's larger side: a long lens, so that proportions are undistorted


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. Pixel (0, 0) is the centre of the picture's first pixel."""

    cam_int: Float[np.ndarray, "3 3"]  # intrinsics, px
    width: int
    height: int

    def window(self, left: int, top: int, width: int, height: int) -> "Camera":
        """The same camera, cropped to these pixels."""
        cam_int = np.array(self.cam_int, np.float64)
        cam_int[:2, 2] -= left, top
        return replace(self, cam_int=cam_int, width=width, height=height)

    def finer(self, factor: int) -> "Camera":
        """The same camera with each pixel split into factor x factor."""
        cam_int = np.array(self.cam_int, np.float64)
        cam_int[:2] *= factor
        cam_int[:2, 2] += (factor - 1) / 2
        return Camera(cam_int, self.width * factor, self.height * factor)

    def project(self, points_cam: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
        """The pixels of points, which must be in front of the camera."""
        homogeneous = points_cam.astype(np.float64) @ np.asarray(self.cam_int, np.float64).T
        return homogeneous[:, :2] / homogeneous[:, 2:]


@dataclass(frozen=True)
class Framing:
    """The camera, and the motion of a body in front of it, with which the body fills the picture from one side."""

    rotation: Float[np.ndarray, "3 3"]
    centre: Float[np.ndarray, "3"]  # m, of the vertices
    distance: float  # m, from the camera to the centre
    camera: Camera

    def place(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        """Vertices in the frame of `camera`, m."""
        return (vertices - self.centre) @ self.rotation.T + np.array([0, 0, self.distance], np.float32)


def frame(vertices: Float[np.ndarray, "V 3"], view: View = "front", width: int = 512, height: int = 512) -> Framing:
    """A camera that sees all of some vertices.

    Args:
        vertices: m, any frame with y down and, for `front`, z away from the viewer (a camera's).
        view: `front` as the vertices are; `side` from the left of that picture, `back` from behind, `top` from above.
        width, height: of the picture, px.
    """
    rotation = _TURNS[view]
    centre = (vertices.min(0) + vertices.max(0)).astype(np.float32) / 2
    turned = (vertices - centre) @ rotation.T
    focal = _FRAMING_FOCAL * max(width, height)
    half = np.array([width, height], np.float32) / 2 * (1 - 2 * _MARGIN)
    # |x| focal / (z + distance) <= half for every vertex
    distance = float((np.abs(turned[:, :2]) * (focal / half) - turned[:, 2:]).max())
    cam_int = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Framing(rotation, centre, distance, Camera(cam_int, width, height))
