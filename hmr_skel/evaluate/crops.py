"""The images of a benchmark: crops for the network, and whole ones, made small, for HumanFoV."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from hmr_skel.data.images import CROP_SIZE, OutsideImage, UnreadableImage, below, box_affine, crop_image, decode
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import Benchmark
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.model.fov import letterbox

_AHEAD = 3  # batches read while the network works on one


@dataclass(frozen=True)
class Crop:
    """One person. RGB."""

    image: UInt8[np.ndarray, "3 256 256"]
    whole: UInt8[np.ndarray, "256 256 3"] | None
    """The whole image on a white square, with blue and red exchanged where legacy has it so."""
    width: int
    """Of the whole image, px."""
    height: int


class CropReader:
    """Reads the images of rows. No state but where they are: threads may share it."""

    def __init__(self, benchmark: Benchmark, root: Path, whole: bool, legacy: Sequence[str] = ()) -> None:
        """
        Args:
            benchmark: for what is said of it.
            root: the folder that image names are relative to.
            whole: give the whole image too.
            legacy: switches, of which `bgr-focal` and `aliased-crop` matter here.
        """
        self.benchmark, self.root, self.whole = benchmark, root, whole
        switches = benchmark.legacy(legacy)
        self._exchanged, self._aliased = "bgr-focal" in switches, "aliased-crop" in switches

    def check(self, rows: BenchmarkRows) -> None:
        """Look for every image. Raises `UserError` with the first that is missing: part of a benchmark is another."""
        names = dict.fromkeys(rows.imgname.tolist())
        missing = [name for name in names if not below(self.root, name).is_file()]
        if missing:
            raise UserError(
                f"{len(missing):,} of {len(names):,} images of {self.benchmark.title} are missing, the first being "
                f"{self.root / missing[0]}. They are from: {self.benchmark.images_from}."
            )

    def read(self, rows: BenchmarkRows, i: int) -> Crop:
        """Row i. Raises `UserError` where its image cannot be read, or does not show its box."""
        file = below(self.root, rows.imgname[i])
        try:
            image, _ = decode(file.read_bytes(), shrink=1.0)
            affine = box_affine(rows.center[i].astype(float), float(rows.side[i]))
            crop = _interpolated(image, affine) if self._aliased else crop_image(image, affine)
        except OSError as error:
            raise UserError(f"{file}: {error.strerror or error}.") from error
        except OutsideImage as error:
            raise UserError(
                f"{file} (row {rows.row[i]}): {error} of the image's {image.shape[1]} x {image.shape[0]} px (centre "
                f"{rows.center[i].tolist()}, side {rows.side[i]:g} px). Expected the image and the label file of one "
                f"edition of {self.benchmark.title}."
            ) from error
        except UnreadableImage as error:
            raise UserError(f"{file} (row {rows.row[i]}): {error}. Fetch the image again.") from error
        whole = None
        if self.whole:
            whole = letterbox(image if self._exchanged else np.ascontiguousarray(image[..., ::-1]))
        return Crop(np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1)), whole, image.shape[1], image.shape[0])

    def batches(self, rows: BenchmarkRows, size: int, threads: int) -> Iterator[tuple[BenchmarkRows, list[Crop]]]:
        """All rows in their order, read ahead by threads."""
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


def _interpolated(image: UInt8[np.ndarray, "H W 3"], affine: np.ndarray) -> UInt8[np.ndarray, "256 256 3"]:
    return cv2.warpAffine(image, affine, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR)
