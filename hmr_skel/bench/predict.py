"""How long one image takes from file to body: decoding, field of view, crop, network, SKEL."""

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hmr_skel.body.skel import Skel
from hmr_skel.data.images import box_affine, crop_image, decode
from hmr_skel.errors import UserError
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.fov import HumanFov
from hmr_skel.model.network import Network


def bench_predict(
    network: Network, skel: Skel, device: torch.device, *, image: Path | None, bf16: bool, repeats: int
) -> dict[str, Any]:
    """Medians of milliseconds: `image_ms` as a whole and `parts_ms`, of so many repeats after one other.

    Args:
        network, skel: moved to the device.
        image: noise of 1280 x 960 px where there is none.
        bf16: what the network computes in, on a GPU.
    """
    if image is not None and not image.is_file():
        raise UserError(f"no image {image}.")
    network, skel, fov = network.to(device).eval(), skel.to(device), HumanFov().to(device)
    noise = np.random.default_rng(0).integers(0, 256, (960, 1280, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes() if image is None else image.read_bytes()

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32))[None].to(device)

    @torch.no_grad()
    def once() -> dict[str, float]:
        clock = _Clock(device)
        pixels = decode(data, shrink=1.0)[0][..., ::-1]
        clock.lap("decode")
        intrinsics = fov.intrinsics(np.ascontiguousarray(pixels))
        clock.lap("field_of_view")
        center, side = np.array(pixels.shape[1::-1]) / 2, 0.8 * max(pixels.shape[:2])
        affine = box_affine(center, side)
        crop = torch.from_numpy(np.ascontiguousarray(crop_image(pixels, affine).transpose(2, 0, 1)))[None].to(device)
        geometry = CropGeometry(tensor(center), tensor(np.array(side)), tensor(intrinsics), tensor(affine))
        clock.lap("crop")
        params = network(crop, geometry, bf16=bf16 and device.type == "cuda").skel_params()
        clock.lap("network")
        skel(params.q, params.betas, params.transl, skeleton=True)
        clock.lap("body")
        return clock.laps

    found = [once() for _ in range(repeats + 1)][1:]
    parts = {name: 1000 * float(np.median([laps[name] for laps in found])) for name in found[0]}
    total = 1000 * float(np.median([sum(laps.values()) for laps in found]))
    return {"image_ms": total, "parts_ms": parts, "repeats": repeats}


class _Clock:
    """Seconds between laps, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
