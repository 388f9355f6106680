"""Find the image of a row, decode it, and crop it by one affine map.

Pixel (0, 0) is the centre of the first pixel, in images and in crops, as in OpenCV, so the same map applies to
keypoints and pixels. The box's centre becomes crop pixel (128, 128), as in all code that descends from HMR's.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmr_skel.data.manifest import Manifest
from hmr_skel.errors import UserError

CROP_SIZE = 256
_BLUR_FROM = 1.15  # image px per crop px: below this, aliasing is not visible


class UnreadableImage(Exception):
    """An image is missing, corrupt, or does not show the box. The text says what is wrong."""


class OutsideImage(UnreadableImage):
    """The image can be read, but the box is outside."""


class OutsideFolder(UserError, UnreadableImage):
    """A name leads out of its folder. Code that continues with other images treats it as an unreadable image."""


def below(folder: Path, name: str) -> Path:
    """The file of that name below a folder, which may contain links. Raises `OutsideFolder`."""
    path = folder / name
    if "\0" in name or not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise OutsideFolder(
            f"image {name!r} is not below {folder}. Expected a path inside that folder: change image_root or "
            "image_path in the manifest, or do not use this label file."
        )
    return path


@dataclass(frozen=True)
class ImageRule:
    """The rule that maps a row's `imgname` to a file."""

    root: Path
    replacements: tuple[tuple[str, str], ...] = ()
    """Pairs (regular expression, replacement), applied to imgname in order: the path below `root`."""

    def file(self, imgname: str) -> Path:
        """The file of a row. Raises `OutsideFolder` if it is not below `root`, since label files are not trusted."""
        for pattern, replacement in self.replacements:
            imgname = re.sub(pattern, replacement, imgname)
        return below(self.root, imgname)


def image_rules(manifest: Manifest) -> dict[str, ImageRule]:
    """The rules of all sources of a manifest that name an image root."""
    return {s.name: ImageRule(s.image_root, s.image_path) for s in manifest.sources if s.image_root is not None}


def box_affine(center: Float[np.ndarray, "2"], side: float) -> Float[np.ndarray, "2 3"]:
    """The map from image px to crop px for a box that is not rotated."""
    scale = CROP_SIZE / side
    return np.array([[scale, 0, CROP_SIZE / 2 - scale * center[0]], [0, scale, CROP_SIZE / 2 - scale * center[1]]])


def transform(affine: Float[np.ndarray, "2 3"], points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Apply an affine map to points."""
    return points @ affine[:, :2].T + affine[:, 2]


def after(second: Float[np.ndarray, "2 3"], first: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    """The map that applies `first`, then `second`."""
    linear = second[:, :2] @ first
    linear[:, 2] += second[:, 2]
    return linear


def decode(data: bytes, shrink: float, as_stored: bool = True) -> tuple[UInt8[np.ndarray, "H W 3"], int]:
    """An image as BGR, reduced by 1, 2, 4 or 8, at most by `shrink` (image px per crop px), and that factor.

    Only JPEGs are reduced, since their decoder averages and others would skip pixels. `as_stored` ignores orientation
    tags, since labels refer to the stored pixels. Raises `UnreadableImage`.
    """
    reduction = next((r for r in (8, 4, 2) if r <= shrink), 1) if data[:2] == b"\xff\xd8" else 1
    modes = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    mode = modes.get(reduction, cv2.IMREAD_COLOR) | (cv2.IMREAD_IGNORE_ORIENTATION if as_stored else 0)
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error as error:
        many = "CV_IO_MAX_IMAGE_PIXELS" in str(error)
        text = "it has more pixels than OPENCV_IO_MAX_IMAGE_PIXELS allows" if many else error.err or error
        raise UnreadableImage(f"cannot be decoded: {text}") from error
    if image is None:
        raise UnreadableImage("is not an image, or is damaged")
    return image, reduction


def crop_image(
    image: UInt8[np.ndarray, "H W 3"], affine: Float[np.ndarray, "2 3"], reduction: int = 1, smooth: bool = True
) -> UInt8[np.ndarray, "256 256 3"]:
    """The crop, black where the image ends.

    Args:
        image: of any channel order, reduced by `reduction` (pixel j is the mean of pixels j r to j r + r - 1).
        affine: full-size image px -> crop px, nearly a similarity.
        smooth: without it, the image is only interpolated, as in the published code, which aliases when it shrinks.

    The image shrinks by means over whole pixels as far as possible, then by a blur and interpolation. Raises
    `UnreadableImage` if the box is outside the image.
    """
    affine = after(affine, _enlarge(reduction))
    left, top, right, bottom = _needed(affine, *image.shape[1::-1])
    if not smooth:
        return cv2.warpAffine(image, affine, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR)
    image = image[top:bottom, left:right]
    affine = after(affine, np.array([[1.0, 0.0, left], [0.0, 1.0, top]]))
    steps = int(_shrink(affine))
    if steps > 1 and min(image.shape[:2]) >= steps:
        height, width = (side // steps for side in image.shape[:2])
        image = cv2.resize(image[: height * steps, : width * steps], (width, height), interpolation=cv2.INTER_AREA)
        affine = after(affine, _enlarge(steps))
    if (shrink := _shrink(affine)) > _BLUR_FROM:
        sigma = 0.5 * np.sqrt(shrink**2 - 1)  # together with the interpolation: a triangle two crop px wide
        size = 3 if sigma < 0.6 else 5
        image = cv2.GaussianBlur(image, (size, size), sigma)
    return cv2.warpAffine(image, affine, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR)


def _enlarge(times: int) -> Float[np.ndarray, "2 3"]:
    """The map from px of a reduced image to px of the image."""
    return np.array([[times, 0, (times - 1) / 2], [0, times, (times - 1) / 2]])


def _shrink(affine: Float[np.ndarray, "2 3"]) -> float:
    """Image px per crop px."""
    return float(1 / np.sqrt(abs(np.linalg.det(affine[:, :2]))))


def _needed(affine: Float[np.ndarray, "2 3"], width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the image that the crop needs, with some pixels around it: left, top, right, bottom."""
    corners = np.array([[x, y] for x in (0, CROP_SIZE) for y in (0, CROP_SIZE)], float)
    found = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    low, high = found.min(0), found.max(0)
    if (low >= (width, height)).any() or (high <= 0).any():
        raise OutsideImage("the box is outside")
    around = 3 * max(1.0, _shrink(affine))
    left, top = np.maximum(low - around, 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(high + around), (width, height)).astype(int).tolist()
    return left, top, right, bottom
