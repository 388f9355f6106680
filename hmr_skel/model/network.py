"""SKEL-CF: from an image crop to pose, shape and camera of SKEL, first coarse, then refined layer by layer.

Switches of `NetworkConfig` select the variants in the paper's Tables 4 and 5; with `camera`, `coarse` and `refine` off,
the architecture is HSMR's. The network contains no body model: `hmr_skel.model.keypoints` poses its predictions.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hmr_skel.model.camera import CropGeometry, camera_cue
from hmr_skel.model.config import IMAGE_WIDTH, NetworkConfig
from hmr_skel.model.correction import Correction
from hmr_skel.model.decoder import HSMR_MEAN_BETAS, HSMR_MEAN_CAMERA, HSMR_MEAN_Q, Decoder, Estimate, Heads
from hmr_skel.model.vit import Vit
from hmr_skel.rows import SkelParams

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, RGB in [0, 1]
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Prediction:
    """The network's estimates for a batch of crops.

    The decoder starts from `stages[0]` (the coarse estimate, or without it the mean body); `stages[1:]` come from its
    layers and then a correction if the network has one (`hmr_skel.model.correction`), with its `sketch` of the estimate
    before it; `stages[-1]` is the final estimate. `geometry` is what the network assumes: that of the crop, or with
    `camera` off that of the unknown camera, in whose frame the translation then is. `keypoint_maps` come from an
    encoder that finds keypoints (`hmr_skel.model.stem`).
    """

    stages: tuple[Estimate, ...]
    geometry: CropGeometry
    has_coarse: bool
    keypoint_maps: Float[Tensor, "B 44 h w"] | None = None
    sketch: Float[Tensor, "B 44 2"] | None = None

    @property
    def coarse(self) -> Estimate | None:
        """The coarse estimate; None if the network makes none."""
        return self.stages[0] if self.has_coarse else None

    @property
    def layers(self) -> tuple[Estimate, ...]:
        """The estimates after each layer of the decoder (without refinement only the last)."""
        return self.stages[1:] if self.sketch is None else self.stages[1:-1]

    @property
    def final(self) -> Estimate:
        return self.stages[-1]

    def skel_params(self, stage: int = -1) -> SkelParams:
        """The body in the camera's frame (x right, y down, z forward, metres)."""
        return self.stages[stage].skel_params(self.geometry)


class Network(nn.Module):
    """Predict SKEL from crops. Parameters are float32; with `bf16` the encoder alone runs in bfloat16."""

    def __init__(
        self,
        config: NetworkConfig,
        *,
        mean_q: Sequence[float] = HSMR_MEAN_Q,
        mean_betas: Sequence[float] = HSMR_MEAN_BETAS,
        mean_camera: Sequence[float] = HSMR_MEAN_CAMERA,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = Vit(config.vit, activation_checkpointing)
        width = config.vit.width
        self.heads = Heads(width, config.head_hidden, mean_q, mean_betas, mean_camera)
        self.decoder = Decoder(width, config.decoder, camera=config.camera, refine=config.refine, looped=config.looped)
        # Last, so that the rest starts from the same random numbers without it.
        self.correction = Correction(config.correction, camera=config.camera) if config.correction else None

    def forward(
        self,
        images: Float[Tensor, "B 3 256 W"] | UInt8[Tensor, "B 3 256 W"],
        geometry: CropGeometry,
        bf16: bool = False,
    ) -> Prediction:
        """Predict from crops of 256 x 256 px, or from their middle 192 columns; the network uses only these.

        Args:
            images: RGB as bytes, or floats from `normalize`.
            geometry: the place of the crops in their images.
            bf16: run the encoder in bfloat16.
        """
        device = images.device.type
        images = middle_columns(images)
        if images.dtype == torch.uint8:
            images = normalize(images)
        with autocast(device, bf16):
            image, maps = self.backbone(images)
        with autocast(device, bf16=False):
            image = image.to(self.heads.mean_rep.dtype)
            if not self.config.camera:
                geometry = CropGeometry.unknown_camera(geometry)
            estimate = self.heads.mean(len(image))
            if self.config.coarse:
                pooled = image.mean(1)
                estimate = estimate.corrected(self.heads(pooled, pooled, pooled))
            cue = camera_cue(geometry) if self.config.camera else None
            stages, sketch = [estimate, *self.decoder(image, estimate, cue, self.heads)], None
            if self.correction is not None:
                assert maps is not None, "recipes check that a correction has a stem"
                corrected, sketch = self.correction(stages[-1], self.heads.mean(len(image)), cue, maps)
                stages.append(corrected)
        return Prediction(tuple(stages), geometry, self.config.coarse, maps, sketch)


def normalize(images: UInt8[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch 3 H W"]:
    """RGB bytes to floats of about zero mean and unit variance."""
    mean, std = _mean_and_std(images.device)
    return (images / 255 - mean) / std


# Cached: a new tensor in each call would be a copy to the device that the host waits for.
@lru_cache(maxsize=16)
def _mean_and_std(device: torch.device) -> Float[Tensor, "2 3 1 1"]:
    return torch.tensor((IMAGE_MEAN, IMAGE_STD), device=device)[:, :, None, None]


def middle_columns(images: Tensor) -> Tensor:
    """The middle 192 columns of crops."""
    margin = (images.shape[-1] - IMAGE_WIDTH) // 2
    return images[..., margin : margin + IMAGE_WIDTH]


def autocast(device_type: str, bf16: bool) -> AbstractContextManager:
    """Compute matrix products in bfloat16, or without `bf16` in the precision of their inputs, in any context."""
    if not torch.amp.is_autocast_available(device_type):  # the meta device has no arithmetic
        return nullcontext()
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=bf16)
