"""Which camera the network is told that took a benchmark's image.

The published protocol never uses the label's: HumanFoV looks at the whole image and says the field of view. Without its
weights there are other choices, which the output names.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from hmr_skel.data.samples import diagonal_intrinsics
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import Benchmark
from hmr_skel.evaluate.crops import Crop
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.model.fov import HumanFov, intrinsics_from_vfov
from hmr_skel.model.network import normalize

FOV_FROM = "cam_model_cleaned.ckpt, CameraHMR's HumanFoV weights (camerahmr.is.tue.mpg.de, after registration)"


@dataclass(frozen=True)
class Intrinsics:
    """A way to a camera for every crop."""

    text: str
    """For people."""
    fov: HumanFov | None = None
    source: str = "fov"
    """fov, label or diagonal."""
    focal: float | None = None
    """A focal length in px for all."""

    @classmethod
    def choose(cls, source: str, fov: Path | None, device: torch.device) -> "Intrinsics":
        """Of `fov` (with the file of its weights), `label`, `diagonal`, or a number. Raises `UserError`."""
        if source == "fov":
            if fov is None:
                raise UserError(
                    f"the protocol's focal lengths come from HumanFoV, whose weights are not named: --fov FILE, "
                    f"{FOV_FROM}. Without them: --intrinsics label (where the label file has cam_int), diagonal (the "
                    "image's diagonal), or a focal length in px; the output then says so."
                )
            return cls(f"HumanFoV ({fov.name})", HumanFov.load(fov, device))
        if source in ("label", "diagonal"):
            return cls(
                {"label": "the label's", "diagonal": "focal length = the image's diagonal"}[source], None, source
            )
        try:
            focal = float(source)
        except ValueError:
            focal = float("nan")
        if not 0 < focal < float("inf"):
            raise UserError(f"--intrinsics {source}: expected fov, label, diagonal, or a focal length in px.")
        return cls(f"focal length {focal:g} px", None, "focal", focal)

    def check(self, benchmark: Benchmark, rows: BenchmarkRows) -> None:
        """Raises `UserError` where the label file has none and they are to be its."""
        if self.source == "label" and rows.cam_int is None:
            raise UserError(
                f"--intrinsics label: the label file of {benchmark.title} holds no cam_int. Expected fov (with --fov "
                f"FILE, {FOV_FROM}), diagonal, or a focal length in px."
            )

    @torch.no_grad()
    def __call__(self, crops: list[Crop], rows: BenchmarkRows) -> Float[np.ndarray, "B 3 3"]:
        """Of a batch's crops."""
        if self.source == "label":
            assert rows.cam_int is not None
            return rows.cam_int
        if self.fov is not None:
            device = self.fov.fc1.weight.device
            small = torch.from_numpy(np.stack([crop.whole for crop in crops if crop.whole is not None])).permute(
                0, 3, 1, 2
            )
            vfov = self.fov(normalize(small.to(device))).tolist()
            return np.stack(
                [intrinsics_from_vfov(v, crop.width, crop.height) for v, crop in zip(vfov, crops, strict=True)]
            )
        found = []
        for crop in crops:
            intrinsics = diagonal_intrinsics(crop.width, crop.height)
            if self.focal is not None:
                intrinsics[[0, 1], [0, 1]] = self.focal
            found.append(intrinsics)
        return np.stack(found).astype(np.float32)
