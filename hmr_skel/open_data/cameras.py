"""Draw pinhole cameras around a posed body: intrinsics, directions, the place of the body in the picture, the box.

Camera frame: x right, y down, z forward, m. Pixel (0, 0) is the centre of the image's first pixel, as in OpenCV. The
principal point is the middle of the image (W/2, H/2), as in CameraHMR's labels, so `cam_int` gives the image size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

FOV_DEG = (35.0, 75.0)  # along the image's longer side
IMAGE_SIZES = ((512, 512), (512, 512), (640, 480), (480, 640))  # width, height; equally likely
MARGIN = (1.1, 1.2)  # side of the box over the larger extent of the projected body
MIN_DEPTH = 0.8  # m, of the body's nearest point: nearer bodies look distorted

_FILL = (0.58, 0.92)  # the body's extent over the image's, in the direction in which it is larger
_BORDER = 0.02  # of the image's sides, kept free around a body that is fully inside
_CUT_SHARE = 0.08  # of the rows have a body that leaves the picture
_CUT = (0.08, 0.3)  # by this share of its extent, at the left, the right or the bottom
_ELEVATION_DEG = (-12.0, 35.0)  # of the camera above the horizon; positive looks down
_ROLL_SD_DEG = 3.0
_PLACING_STEPS, _DAMPING = 6, 0.7


@dataclass(frozen=True)
class Views:
    """One camera per row, and the place of the body in the picture."""

    rotation_cam_world: Float[Tensor, "N 3 3"]  # world y up
    cam_int: Float[Tensor, "N 3 3"]  # px
    image_size: Int[Tensor, "N 2"]  # width, height, px
    fill: Float[Tensor, "N"]
    anchor: Float[Tensor, "N 2"]  # 0 the body touches the left (upper) border's margin, 1 the right (lower) one
    cut: Float[Tensor, "N 2"]  # part of the body's extent beyond the border: left negative; right, bottom positive


def draw_views(rng: np.random.Generator, num: int) -> Views:
    """Draw `num` cameras."""
    size = np.asarray(IMAGE_SIZES)[rng.integers(len(IMAGE_SIZES), size=num)]
    fov = np.radians(rng.uniform(*FOV_DEG, num))
    focal = size.max(1) / 2 / np.tan(fov / 2)
    cam_int = np.zeros((num, 3, 3))
    cam_int[:, 0, 0] = cam_int[:, 1, 1] = focal
    cam_int[:, :2, 2] = size / 2
    cam_int[:, 2, 2] = 1

    azimuth = rng.uniform(-np.pi, np.pi, num)
    elevation = np.radians(rng.uniform(*_ELEVATION_DEG, num))
    roll = np.radians(_ROLL_SD_DEG) * rng.standard_normal(num)
    upright_camera = np.diag((1.0, -1.0, -1.0))  # x right, y down, z forward, looking along the world's -z
    rotation = _about(2, roll) @ upright_camera @ _about(0, elevation) @ _about(1, azimuth)

    cut = np.zeros((num, 2))
    amount = rng.uniform(*_CUT, num)
    side = rng.integers(4, size=num)  # left, right, bottom, bottom: feet go missing most often
    cut[:, 0] = np.select([side == 0, side == 1], [-amount, amount], 0)
    cut[:, 1] = np.where(side >= 2, amount, 0)
    cut *= (rng.random(num) < _CUT_SHARE)[:, None]
    fill, anchor = rng.uniform(*_FILL, num), rng.uniform(0, 1, (num, 2))
    return Views(*(torch.from_numpy(column) for column in (rotation, cam_int, size, fill, anchor, cut)))


def place(points: Float[Tensor, "N P 3"], views: Views) -> Float[Tensor, "N 3"]:
    """The translations [N 3], m, that put bodies at the places of their views. `points` are camera-oriented."""
    size, fill = views.image_size.to(points), views.fill.to(points)
    anchor, cut, cam_int = views.anchor.to(points), views.cut.to(points), views.cam_int.to(points)
    focal = cam_int[:, 0, 0]
    low, high = points.amin(1), points.amax(1)
    transl = -(low + high) / 2
    transl[:, 2] += focal * ((high - low)[:, :2] / (fill[:, None] * size)).amax(1)
    for _ in range(_PLACING_STEPS):
        transl[:, 2] = torch.maximum(transl[:, 2], MIN_DEPTH - low[:, 2])
        pixels = project(points + transl[:, None], cam_int)
        left_top, right_bottom = pixels.amin(1), pixels.amax(1)
        extent, centre = right_bottom - left_top, (left_top + right_bottom) / 2
        free = (size * (1 - 2 * _BORDER) - extent).clamp_min(0)
        inside = size * _BORDER + extent / 2 + anchor * free
        across = size / 2 + cut.sign() * (size / 2 + (cut.abs() - 0.5) * extent)
        wanted = torch.where(cut == 0, inside, across)
        depth = transl[:, 2] + points[..., 2].mean(1)
        transl[:, :2] += _DAMPING * (wanted - centre) / focal[:, None] * depth[:, None]
        # Damped to 30 % per step, since near bodies respond more than proportionally.
        transl[:, 2] += _DAMPING * depth * ((extent / size).amax(1) / fill - 1).clamp(-0.3, 0.3)
    transl[:, 2] = torch.maximum(transl[:, 2], MIN_DEPTH - low[:, 2])
    return transl


def project(points_cam: Float[Tensor, "N P 3"], cam_int: Float[Tensor, "N 3 3"]) -> Float[Tensor, "N P 2"]:
    """Project points in front of the camera to pixels. The intrinsics have no skew."""
    focal = torch.stack((cam_int[:, 0, 0], cam_int[:, 1, 1]), -1)
    return points_cam[..., :2] / points_cam[..., 2:] * focal[:, None] + cam_int[:, None, :2, 2]


def square_box(
    pixels: Float[Tensor, "N P 2"], margin: Float[Tensor, "N"]
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N"]]:
    """Centre (px) and scale (side / 200 px) of the square around the points, `margin` times their larger extent."""
    low, high = pixels.amin(1), pixels.amax(1)
    return (low + high) / 2, (high - low).amax(1) * margin / 200


def _about(axis: int, angle: np.ndarray) -> np.ndarray:
    """Rotations [N 3 3] about a coordinate axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, axis, axis] = 1
    matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
    matrix[:, i, j], matrix[:, j, i] = -np.sin(angle), np.sin(angle)
    return matrix
