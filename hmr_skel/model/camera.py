"""Converts the crop's weak-perspective camera to the full image's perspective one, and projects into the crop.

Frames: the camera (x right, y down, z forward, m); the full image (px); the crop, a square of the image scaled to 256
px, with coordinates in [-0.5, 0.5].

The published code converts with the image's centre but projects with the principal point, which shifts labels whose
principal point is elsewhere. This module always uses the principal point; if it is the image's centre, both agree.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CROP_SIZE = 256
PATCH_FOCAL = 5000.0  # px, on a crop of 256 px: what HSMR and HMR2 assume for an unknown camera
# A box 20 m wide. Smaller scales mean nothing, but 2 f / (b s) would pass through infinity to behind the camera.
MIN_SCALE = 0.1
MIN_DEPTH = 0.1  # m: nearer points, and points behind the camera, are projected from about this depth


@dataclass(frozen=True)
class CropGeometry:
    """The place of the crop in the full image, and the camera of the image."""

    center: Float[Tensor, "*batch 2"]  # of the box, px in the full image
    size: Float[Tensor, "*batch"]  # the box's side, px in the full image
    intrinsics: Float[Tensor, "*batch 3 3"]  # px
    affine: Float[Tensor, "*batch 2 3"]  # full image px -> crop px in [0, 256]

    @classmethod
    def from_box(
        cls, center: Float[Tensor, "*batch 2"], size: Float[Tensor, "*batch"], intrinsics: Float[Tensor, "*batch 3 3"]
    ) -> "CropGeometry":
        """The geometry of a box that is not rotated."""
        return cls(center, size, intrinsics, upright_affine(center, size))

    @classmethod
    def unknown_camera(cls, like: "CropGeometry") -> "CropGeometry":
        """The crop as a whole image with a focal length of 5000 px, as HSMR assumes."""
        batch, half = like.size.shape, CROP_SIZE / 2
        intrinsics = like.size.new_tensor([[PATCH_FOCAL, 0, half], [0, PATCH_FOCAL, half], [0, 0, 1]])
        return cls(
            like.size.new_full((*batch, 2), half),
            like.size.new_full(batch, CROP_SIZE),
            intrinsics.expand(*batch, 3, 3),
            like.size.new_tensor([[1, 0, 0], [0, 1, 0]]).expand(*batch, 2, 3),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CropGeometry":
        fields = (self.center, self.size, self.intrinsics, self.affine)
        return CropGeometry(*(field.to(device, non_blocking=non_blocking) for field in fields))


def upright_affine(center: Float[Tensor, "*batch 2"], size: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 2 3"]:
    """The map from the full image to the crop of a box that is not rotated. Its centre goes to (128, 128)."""
    scale = (CROP_SIZE / size)[..., None, None]
    linear = scale * torch.eye(2, dtype=center.dtype, device=center.device)
    return torch.cat((linear, CROP_SIZE / 2 - scale * center.unsqueeze(-1)), -1)


def camera_cue(geometry: CropGeometry) -> Float[Tensor, "*batch 3"]:
    """The box in the camera's view: its centre relative to the principal point, and its side, both over f."""
    focal = geometry.intrinsics[..., 0, 0]
    offset = geometry.center - geometry.intrinsics[..., :2, 2]
    return torch.cat((offset, geometry.size.unsqueeze(-1)), -1) / focal.unsqueeze(-1)


def crop_camera_to_transl(camera: Float[Tensor, "*batch 3"], geometry: CropGeometry) -> Float[Tensor, "*batch 3"]:
    """The body's translation in the camera's frame, m, from the crop's weak-perspective camera (s, tx, ty).

    For any focal length, the body's origin projects to (cx + b s tx / 2, cy + b s ty / 2).
    """
    focal = geometry.intrinsics[..., 0, 0]
    half_width = geometry.size * positive(camera[..., 0], MIN_SCALE) / 2  # of the crop, px per m
    offset = geometry.center - geometry.intrinsics[..., :2, 2]
    # x and y have focal lengths of their own, which differ in some calibrated cameras.
    stretch = torch.stack((torch.ones_like(focal), focal / geometry.intrinsics[..., 1, 1]), -1)
    transl_xy = (camera[..., 1:] + offset / half_width.unsqueeze(-1)) * stretch
    return torch.cat((transl_xy, (focal / half_width).unsqueeze(-1)), -1)


def project(
    points: Float[Tensor, "*batch K 3"], intrinsics: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch K 2"]:
    """Project points in the camera's frame (m) into the full image (px)."""
    depth = positive(points[..., 2:], MIN_DEPTH)
    rays = torch.cat((points[..., :2] / depth, torch.ones_like(depth)), -1)
    return rays @ intrinsics[..., :2, :].mT


def image_to_crop(points: Float[Tensor, "*batch K 2"], geometry: CropGeometry) -> Float[Tensor, "*batch K 2"]:
    """Map points in the full image (px) to crop coordinates in [-0.5, 0.5]."""
    linear, offset = geometry.affine[..., :2], geometry.affine[..., 2]
    return (points @ linear.mT + offset.unsqueeze(-2)) / CROP_SIZE - 0.5


def positive(x: Float[Tensor, "*any"], floor: float) -> Float[Tensor, "*any"]:
    """x above `floor`; below, a positive value that falls towards 0 with a slope that is never 0.

    Value and slope are continuous, so gradient descent can return from below.
    """
    below = floor / (2 - x.clamp_max(floor) / floor)
    return torch.where(x > floor, x, below)
