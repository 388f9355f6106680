"""The images of a benchmark: crops and cameras for the network.

The published protocol never uses the label's camera: HumanFoV estimates the field of view from the whole image. There
are other choices if you do not have its weights; the output names them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from hmr_skel.data.images import CROP_SIZE, OutsideImage, UnreadableImage, below, box_affine, crop_image, decode
from hmr_skel.data.samples import diagonal_intrinsics
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import Benchmark
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.model.fov import HumanFov, intrinsics_from_vfov, letterbox
from hmr_skel.model.network import normalize

_AHEAD = 3  # batches to read while the network processes one


def whole_pixel_affine(center: Float[np.ndarray, "2"], side: float) -> Float[np.ndarray, "2 3"]:
    """The map of the published MOYO crop: from the box cut at whole pixels, scaled as OpenCV's `resize` does.

    Both corners are rounded towards zero, so the two axes may differ by a pixel. Pixels are squares around halves.
    """
    low, high = (np.trunc(center + sign * side / 2) for sign in (-1, 1))
    scale = CROP_SIZE / np.maximum(high - low, 1)
    return np.column_stack((np.diag(scale), (0.5 - low) * scale - 0.5))


@dataclass(frozen=True)
class Crop:
    """The crop of one person, RGB."""

    image: UInt8[np.ndarray, "3 256 256"]
    whole: UInt8[np.ndarray, "256 256 3"] | None
    """The whole image on a white square; with --legacy bgr-focal, blue and red are exchanged."""
    width: int
    """Width of the whole image, px."""
    height: int


class CropReader:
    """Reads crops from images below the folder `root`, with `whole` also whole images. Threads may share it."""

    def __init__(self, benchmark: Benchmark, root: Path, whole: bool, legacy: Sequence[str] = ()) -> None:
        self.benchmark, self.root, self.whole = benchmark, root, whole
        switches = benchmark.legacy(legacy)
        self._exchanged, self._smooth = "bgr-focal" in switches, "aliased-crop" not in switches
        self._affine = whole_pixel_affine if "moyo-crop" in switches else box_affine

    def check(self, rows: BenchmarkRows) -> None:
        """Raise `UserError` if an image is missing, since a part of a benchmark gives other figures."""
        names = dict.fromkeys(rows.imgname.tolist())
        missing = [name for name in names if not below(self.root, name).is_file()]
        if missing:
            raise UserError(
                f"{len(missing):,} of {len(names):,} images of {self.benchmark.title} are missing, first "
                f"{self.root / missing[0]}. Get them from {self.benchmark.images_from}."
            )

    def read(self, rows: BenchmarkRows, i: int) -> Crop:
        """The crop of row i. Raises `UserError` if its image cannot be read, or does not show its box."""
        file = below(self.root, rows.imgname[i])
        try:
            image, _ = decode(file.read_bytes(), shrink=1.0)
            affine = self._affine(rows.center[i].astype(float), float(rows.side[i]))
            crop = crop_image(image, affine, smooth=self._smooth)
        except OSError as error:
            raise UserError(f"{file}: {error.strerror or error}.") from error
        except OutsideImage as error:
            raise UserError(
                f"{file} (row {rows.row[i]}): {error} of the image's {image.shape[1]} x {image.shape[0]} px (centre "
                f"{rows.center[i].tolist()}, side {rows.side[i]:g} px). Expected image and label file from the same "
                f"edition of {self.benchmark.title}."
            ) from error
        except UnreadableImage as error:
            raise UserError(f"{file} (row {rows.row[i]}): {error}. Fetch the image again.") from error
        whole = None
        if self.whole:
            whole = letterbox(image if self._exchanged else np.ascontiguousarray(image[..., ::-1]))
        return Crop(np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1)), whole, image.shape[1], image.shape[0])

    def batches(self, rows: BenchmarkRows, size: int, threads: int) -> Iterator[tuple[BenchmarkRows, list[Crop]]]:
        """Batches of all rows in their order, which threads read ahead."""
        with ThreadPoolExecutor(max(1, threads)) as pool:
            waiting: deque[tuple[BenchmarkRows, list[Future[Crop]]]] = deque()
            try:
                for first in range(0, len(rows), size):
                    part = rows.take(slice(first, first + size))
                    waiting.append((part, [pool.submit(self.read, part, i) for i in range(len(part))]))
                    if len(waiting) > _AHEAD:
                        done, crops = waiting.popleft()
                        yield done, [crop.result() for crop in crops]
                for done, crops in waiting:
                    yield done, [crop.result() for crop in crops]
            finally:
                pool.shutdown(cancel_futures=True)


FOV_FROM = "cam_model_cleaned.ckpt, CameraHMR's HumanFoV weights (camerahmr.is.tue.mpg.de, after registration)"


@dataclass(frozen=True)
class Intrinsics:
    """The source of the cameras of crops."""

    text: str
    """Its name in reports."""
    fov: HumanFov | None = None
    source: str = "fov"
    """fov, label or diagonal."""
    focal: float | None = None
    """The same focal length for all images, px."""

    @classmethod
    def choose(cls, source: str, fov: Path | None, device: torch.device) -> "Intrinsics":
        """`source` is `fov` (with `fov`, the file of its weights), `label`, `diagonal`, or a focal length, px. Raises
        `UserError` for anything else."""
        if source == "fov":
            if fov is None:
                raise UserError(
                    f"the protocol's focal lengths come from HumanFoV. Name its weights: --fov FILE, "
                    f"{FOV_FROM}. Without them, use --intrinsics label (where the label file has cam_int), diagonal "
                    f"(the "
                    "image's diagonal), or a focal length in px; the output then says so."
                )
            return cls(f"HumanFoV ({fov.name})", HumanFov.load(fov, device))
        texts = {"label": "the label's", "diagonal": "focal length = the image's diagonal"}
        if source in texts:
            return cls(texts[source], None, source)
        try:
            focal = float(source)
        except ValueError:
            focal = float("nan")
        if not 0 < focal < float("inf"):
            raise UserError(f"--intrinsics {source}: expected fov, label, diagonal, or a focal length in px.")
        return cls(f"focal length {focal:g} px", None, "focal", focal)

    def check(self, benchmark: Benchmark, rows: BenchmarkRows) -> None:
        """Raise `UserError` if cameras are to come from the label file, and it has none."""
        if self.source == "label" and rows.cam_int is None:
            raise UserError(
                f"--intrinsics label: the label file of {benchmark.title} has no cam_int. Expected fov (with --fov "
                f"FILE, {FOV_FROM}), diagonal, or a focal length in px."
            )

    @torch.no_grad()
    def __call__(self, crops: list[Crop], rows: BenchmarkRows) -> Float[np.ndarray, "B 3 3"]:
        """The intrinsics for a batch of crops, px."""
        if self.source == "label":
            assert rows.cam_int is not None
            return rows.cam_int
        if self.fov is not None:
            device = self.fov.fc1.weight.device
            small = torch.from_numpy(np.stack([crop.whole for crop in crops if crop.whole is not None]))
            vfov = self.fov(normalize(small.permute(0, 3, 1, 2).to(device))).tolist()
            sizes = [(crop.width, crop.height) for crop in crops]
            return np.stack([intrinsics_from_vfov(v, *size) for v, size in zip(vfov, sizes, strict=True)])
        found = []
        for crop in crops:
            intrinsics = diagonal_intrinsics(crop.width, crop.height)
            if self.focal is not None:
                intrinsics[[0, 1], [0, 1]] = self.focal
            found.append(intrinsics)
        return np.stack(found).astype(np.float32)
