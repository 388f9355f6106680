"""A dataset's rows and images as training samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from hmr_skel.data.augment import AugmentConfig
from hmr_skel.data.image_files import ImageRule
from hmr_skel.data.quality import QualityConfig


@dataclass(frozen=True)
class Sample:
    """One person in one image, ready for the network. Arrays are the sample's own, never views of a file.

    The camera's frame is x right, y down, z forward, m. A flip or a roll is a change of the camera (mirrored at, turned
    about its optical axis), so that "the full image" is the image that this camera would have taken: `center`,
    `affine`, keypoints and q belong to it, and the intrinsics are what they were. The crop is always upright in it.
    """

    image: UInt8[np.ndarray, "3 256 256"]  # RGB, the crop
    center: Float[np.ndarray, "2"]  # of the box, px in the full image
    size: Float[np.ndarray, ""]  # the box's side, px
    intrinsics: Float[np.ndarray, "3 3"]  # px
    affine: Float[np.ndarray, "2 3"]  # full image px -> crop px in [0, 256]
    keypoints_2d: Float[np.ndarray, "44 3"]  # crop coordinates [-0.5, 0.5], confidence; 0: missing, x and y are NaN
    keypoints_3d: Float[np.ndarray, "44 4"]  # m, camera frame, confidence; 0: missing, x, y and z are NaN
    q: Float[np.ndarray, "46"]  # rad; NaN where has_skel is False
    betas: Float[np.ndarray, "10"]  # NaN where has_skel is False
    has_skel: Bool[np.ndarray, ""]
    transl: Float[np.ndarray, "3"]  # m; NaN where unknown, and after a flip or a roll (it would take a body model)
    row: Int64[np.ndarray, ""]  # in the dataset's rows, before any filter


@dataclass(frozen=True)
class Batch:
    """Samples, stacked: the same fields."""

    image: UInt8[Tensor, "B 3 256 256"]
    center: Float[Tensor, "B 2"]
    size: Float[Tensor, "B"]
    intrinsics: Float[Tensor, "B 3 3"]
    affine: Float[Tensor, "B 2 3"]
    keypoints_2d: Float[Tensor, "B 44 3"]
    keypoints_3d: Float[Tensor, "B 44 4"]
    q: Float[Tensor, "B 46"]
    betas: Float[Tensor, "B 10"]
    has_skel: Bool[Tensor, "B"]
    transl: Float[Tensor, "B 3"]
    row: Int64[Tensor, "B"]

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return Batch(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def pin_memory(self) -> "Batch":
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What samples are made of and how; part of a training recipe."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    mixture: Mapping[str, float] | None = None
    """Weight of every source in the stream of training samples, to a thousandth of their sum; a source that is not
    named or has weight 0 is left out. None: all rows alike, so that large sources dominate, as in the paper."""
    missing_intrinsics: Literal["drop", "diagonal"] = "drop"
    """Rows whose camera is unknown are left out, or get a focal length of the image's diagonal (CLIFF's guess)."""


class SampleDataset:
    """Map-style: `sample(index, epoch, seed)` is a pure function of its arguments."""

    gender: Literal["male", "female"]

    def __init__(
        self,
        path: str | Path,
        images: Mapping[str, ImageRule],
        config: SampleConfig,
        split: Literal["train", "test"] = "train",
        augment: bool = True,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def sample(self, index: int, epoch: int = 0, seed: int = 0) -> Sample | None:
        raise NotImplementedError
