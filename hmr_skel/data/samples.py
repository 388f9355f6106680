"""Make training samples from a dataset's rows and images, and batches of them from any position on.

The main process decides the content of a batch, and worker processes make it. Workers know neither order nor position,
so the stream is the same for any number of them.
"""

import atexit
import logging
import multiprocessing
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hmr_skel.data import augment
from hmr_skel.data.augment import Augmentation
from hmr_skel.data.images import CROP_SIZE, ImageRule, UnreadableImage, after, box_affine, crop_image, decode, transform
from hmr_skel.data.load import RowCache, load_shards, open_rows
from hmr_skel.data.selection import ChosenRows, Order, SampleConfig, choose_rows, make_strata, one_gender
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError

CHECKED_PER_SOURCE = 64
"""Number of image files to look for when a dataset is opened, evenly spread over a source's rows."""
NOT_THERE = "not there"
"""The end of the text for a missing image."""
SUBSTITUTES = 8
"""The number of following rows that may replace one with an unreadable image."""
REPORTED_FILES = 20
"""The number of unreadable images that are named; others are only counted."""

Request = tuple[np.ndarray, np.ndarray, int, int]
"""The content of a batch: indices [B] into the dataset, epochs [B], seed, and the number of substitutes per row."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Crops of people with their labels, for the network and its losses; or one sample, without batch axis.

    The camera's frame is x right, y down, z forward, m. A flip mirrors the camera at its optical axis: "the full image"
    is then the image of this camera. `center`, `affine`, keypoints and q belong to it, and the intrinsics do not
    change. The crop is never rotated in it.
    """

    image: UInt8[Tensor, "*batch 3 256 256"]  # RGB, the crop
    center: Float[Tensor, "*batch 2"]  # of the box, px in the full image
    size: Float[Tensor, "*batch"]  # the box's side, px
    intrinsics: Float[Tensor, "*batch 3 3"]  # px
    affine: Float[Tensor, "*batch 2 3"]  # full image px -> crop px in [0, 256]
    keypoints_2d: Float[Tensor, "*batch 44 3"]  # crop coordinates [-0.5, 0.5], confidence; 0: missing, x and y NaN
    keypoints_3d: Float[Tensor, "*batch 44 4"]  # m, camera frame, confidence; 0: missing, x, y and z NaN
    q: Float[Tensor, "*batch 46"]  # rad; NaN where has_skel is False
    betas: Float[Tensor, "*batch 10"]  # NaN where has_skel is False
    has_skel: Bool[Tensor, "*batch"]
    transl: Float[Tensor, "*batch 3"]  # m; NaN if unknown, and after a flip (which would need a body model)
    row: Int64[Tensor, "*batch"]  # in the dataset's rows, before any filter

    def __len__(self) -> int:
        return len(self.row)

    def each(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to every field."""
        return Batch(*(function(getattr(self, f.name)) for f in fields(self)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self.each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Pin the memory; torch's loader calls this."""
        return self.each(Tensor.pin_memory)


def stack(samples: Sequence[Batch]) -> Batch:
    """Make one batch of at least one sample."""
    return Batch(*(torch.stack([getattr(s, f.name) for s in samples]) for f in fields(Batch)))


class SampleDataset(Dataset):
    """The rows of a dataset that are used for training or evaluation, as samples. It is cheap to send to a process."""

    def __init__(
        self,
        path: str | Place,
        images: Mapping[str, ImageRule],
        config: SampleConfig | None = None,
        split: Literal["train", "test"] = "train",
        augment: bool = True,
        quiet: bool = False,
    ) -> None:
        """Open a dataset, and check that its images are there.

        Args:
            path: the dataset's folder (the one with `data/` in it), or its URI.
            images: a rule per source, see `image_rules`.
            config: the choice of rows and the changes of samples; default `SampleConfig()`.
            split: `train`, or `test` for the held-out shards.
            augment: change samples at random, as in training.
            quiet: show no progress while rows are unpacked.

        Raises `UserError` if the folder has no such shards, a source has no images or none of its image files is found,
        bodies have both genders, the mixture has an unknown source, or no row is left.
        """
        self.images, self.augment = dict(images), augment
        self.config = config = SampleConfig() if config is None else config
        shards = load_shards(path, split=split)
        self.labels = open_rows(shards, quiet)  # all rows of the dataset
        chosen = choose_rows(shards, config)
        self.gender: Literal["male", "female"] = one_gender(shards, chosen, path)
        self.strata = make_strata(chosen, config.mixture, path)  # the stream of training samples draws from these
        self.rows, self.mask_skel, self.dropped = chosen.rows, chosen.mask_skel, chosen.dropped
        check_images(self.labels, chosen, images)

    def __getitem__(self, index: Request) -> tuple[Batch | None, list[str]]:
        """The batch of a request, and "file: reason" of every skipped sample. This runs in a worker.

        The batch is None if a sample has no readable substitute, or, in ordered batches, if no image is readable.
        """
        samples: list[Batch] = []
        unreadable: list[str] = []
        indices, epochs, seed, substitutes = index
        for wanted, epoch in zip(indices.tolist(), epochs.tolist(), strict=True):
            for place in range(wanted, wanted + 1 + substitutes):
                try:
                    samples.append(self.sample(place % len(self), epoch, seed))
                    break
                except UnreadableImage as error:
                    unreadable.append(str(error))
            else:
                if substitutes:
                    return None, unreadable
        return stack(samples) if samples else None, unreadable

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        left_out = [f"{count:,} left out for {reason}" for reason, count in self.dropped.items()]
        if masked := int(self.mask_skel.sum()):
            left_out.append(f"{masked:,} without their SKEL labels")
        return ", ".join([f"{len(self):,} {self.gender} rows", *left_out])

    def sample(self, index: int, epoch: int = 0, seed: int = 0) -> Batch:
        """A sample, a pure function of the arguments. Raises `UnreadableImage` for a missing or corrupt image."""
        rng = np.random.default_rng((seed, epoch, self.rows[index]))
        return self.augmented(index, augment.draw(self.config.augment, rng) if self.augment else Augmentation())

    def augmented(self, index: int, augmentation: Augmentation) -> Batch:
        """The sample with a given change. Raises `UnreadableImage`, whose text begins with the file."""
        label = self.labels[int(self.rows[index])]
        file = self.images[label.source].file(label.imgname)
        try:
            return self._make(index, label, file.read_bytes(), augmentation)
        except OSError as error:
            why = NOT_THERE if isinstance(error, FileNotFoundError) else error.strerror or error
            raise UnreadableImage(f"{file}: {why}") from error
        except UnreadableImage as error:
            raise UnreadableImage(f"{file}: {error}") from error

    def _make(self, index: int, label: np.record, data: bytes, augmentation: Augmentation) -> Batch:
        keypoints_2d = _annotated(label.keypoints_2d, self.config.quality.min_confidence)
        keypoints_3d = _annotated(label.keypoints_3d, self.config.quality.min_confidence)
        center, side = label.center.astype(float), float(label.side)
        if augmentation.part is not None:
            center, side = augment.part_box(keypoints_2d, augmentation.part) or (center, side)
        center = center + side * np.asarray(augmentation.shift)
        side *= augmentation.scale

        camera_known = bool(np.isfinite(label.cam_int).all())
        image, reduction = decode(data, shrink=side / CROP_SIZE if camera_known else 1.0)
        intrinsics = label.cam_int.astype(float) if camera_known else diagonal_intrinsics(*image.shape[1::-1])
        moved = augment.image_change(augmentation.flip, intrinsics)
        center = transform(moved, center)
        affine = box_affine(center, side)
        to_crop = after(affine, moved)
        crop = crop_image(image, to_crop, reduction)

        keypoints_2d[:, :2] = transform(to_crop, keypoints_2d[:, :2]) / CROP_SIZE - 0.5
        there = np.isfinite(label.skel_q).all() and np.isfinite(label.skel_betas).all()
        has_skel = bool(there and not self.mask_skel[index])
        known = np.float32(1 if has_skel else np.nan)
        q, in_place = (label.skel_q * known).astype(float), known
        if augmentation.flip:
            keypoints_2d, keypoints_3d, q = augment.mirror(keypoints_2d, keypoints_3d, q)
            in_place = np.float32(np.nan)
        floats = {
            "center": center,
            "size": side,
            "intrinsics": intrinsics,
            "affine": affine,
            "keypoints_2d": keypoints_2d,
            "keypoints_3d": keypoints_3d,
            "q": q,
            "betas": label.skel_betas * known,
            "transl": label.skel_transl * in_place,
        }
        return Batch(
            image=torch.from_numpy(augment.colored(crop, augmentation)),
            has_skel=torch.tensor(has_skel),
            row=torch.tensor(int(self.rows[index])),
            **{name: torch.from_numpy(np.array(array, np.float32)) for name, array in floats.items()},
        )


def check_images(rows: RowCache, chosen: ChosenRows, rules: Mapping[str, ImageRule]) -> None:
    """Look for some image files of every used source.

    Raises `UserError` if a source has no rule, or none of these files is there. If only some are missing, it prints a
    line with their number; such samples will be skipped.
    """
    for code in np.unique(chosen.source).tolist():
        name = chosen.sources[code]
        if name not in rules:
            raise UserError(
                f"source {name!r} has no images: image_root is set only for {', '.join(rules) or 'no source'}. "
                "Choose the dataset's own manifest, add image_root to the source there, or leave the source out."
            )
        own = chosen.rows[chosen.source == code]
        some = own[np.linspace(0, len(own) - 1, min(CHECKED_PER_SOURCE, len(own))).astype(int)].tolist()
        files = [rules[name].file(rows[row].imgname) for row in some]
        missing = [file for file in files if not file.is_file()]
        if len(missing) == len(files):
            raise UserError(
                f"source {name!r}: none of {len(files)} images looked for is there, the first being {files[0]} (of "
                f"imgname {str(rows[some[0]].imgname)!r}). Expected them below {rules[name].root}: change image_root "
                "or image_path in the manifest, or, for the default dataset, run `hmr-skel images` (make images)."
            )
        if missing:
            some_missing = f"{len(missing)} of {len(files)} images looked for are {NOT_THERE}, such as {missing[0]}"
            _log.warning("source %r: %s; samples without an image are skipped", name, some_missing)


def diagonal_intrinsics(width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """Guessed intrinsics, px: the focal length is the image's diagonal (53 degrees along it)."""
    focal = np.hypot(width, height)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _annotated(points: np.ndarray, min_confidence: float) -> np.ndarray:
    """Keypoints as float64, with confidence 0 and NaN coordinates if not annotated."""
    points = points.astype(float)
    there = np.isfinite(points).all(-1) & (points[:, -1] > 0) & (points[:, -1] >= min_confidence)
    points[~there, :-1], points[~there, -1] = np.nan, 0
    return points


class Batches(AbstractContextManager, Iterator[Batch]):
    """An iterator of batches that owns worker processes: `close()` it, or use it in a `with`.

    Attributes:
        skipped: number of samples replaced so far (in ordered batches: left out) because of unreadable images.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        requests: Iterable[Request],
        workers: int,
        pin_memory: bool = False,
        timeout: float = 300.0,
        ahead: int = 0,
        is_training: bool = True,
    ) -> None:
        self.skipped, self._is_training = 0, is_training
        self._reported: set[str] = set()
        loader = DataLoader(
            dataset,
            sampler=requests,
            batch_size=None,  # a request is a whole batch
            num_workers=workers,
            prefetch_factor=max(2, -(-ahead // workers)) if workers else None,
            pin_memory=pin_memory,
            timeout=timeout if workers else 0,
            worker_init_fn=_start_worker,
            multiprocessing_context="spawn" if workers else None,  # a forked torch may hang
            generator=torch.Generator(),  # otherwise torch would use a number of the global generator
        )
        self._made: Iterator | None = iter(loader)

    def __next__(self) -> Batch:
        """The next batch. Raises `UserError` if it is late, a worker was killed, or images in a row are unreadable."""
        while self._made is not None:
            try:
                batch, unreadable = next(self._made)
            except BaseException as error:  # Ctrl-C too
                traceback.clear_frames(error.__traceback__)  # frames would keep the workers alive
                self.close()
                if re.search(r"DataLoader.*(timed out|exited unexpectedly|killed by signal)", str(error)):
                    raise UserError(
                        f"no batch of images came from the loader's processes: {error}. Is the disk with the images "
                        "reachable? If memory ran out, use fewer workers."
                    ) from error
                raise
            self.skipped += len(unreadable)
            for text in unreadable:
                missing = text.endswith(NOT_THERE)
                once = NOT_THERE if missing else text
                if once not in self._reported and len(self._reported) < REPORTED_FILES:
                    self._reported.add(once)
                    _log.warning("skipped: %s%s", text, "; others that are not there are only counted" * missing)
            if batch is not None:
                return batch
            if self._is_training:
                self.close()
                raise UserError(
                    f"{1 + SUBSTITUTES} images in a row are unreadable: {'; '.join(unreadable[-3:])}. Are image_root "
                    "and image_path of the manifest right, and all images there? For the default dataset: make images "
                    "(hmr-skel images)."
                )
        raise StopIteration

    def close(self) -> None:
        """End the worker processes in bounded time, as torch does with the iterator. Further calls do nothing."""
        self._made = None

    def __exit__(self, *raised: object) -> None:
        self.close()


def batches(
    dataset: SampleDataset,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    timeout: float = 300.0,
    ahead: int = 0,
) -> Batches:
    """The endless, shuffled stream of training batches, from batch number `start` to `stop` (excluded).

    If the image of a sample is unreadable, one of the following rows replaces it, the same in every run.

    Args:
        batch_size: samples per batch of this rank.
        seed: decides order and augmentation.
        start: number of the first batch, for resuming.
        rank, world_size: batch k of rank r holds samples (k * world_size + r) * batch_size onwards of one stream, so
            that the batches number k of all ranks are one batch of one process with `world_size * batch_size`.
        workers: number of processes; 0 makes the batches in this process.
        timeout: seconds to wait for a batch from the workers.
        ahead: batches that the workers make in advance; at least two each.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    order = Order(dataset.strata, seed)

    def request(number: int) -> Request:
        return *order.at((number * world_size + rank) * batch_size, batch_size), seed, SUBSTITUTES

    numbers = range(start, np.iinfo(np.int64).max if stop is None else stop)
    return Batches(dataset, map(request, numbers), workers, pin_memory, timeout, ahead)


def ordered_batches(dataset: SampleDataset, batch_size: int, *, workers: int = 0) -> Batches:
    """Batches of every row once, in order; the last may be smaller. `skipped` counts unreadable images."""

    starts = range(0, len(dataset), batch_size)
    indices = (np.arange(start, min(start + batch_size, len(dataset))) for start in starts)
    return Batches(dataset, ((found, np.zeros_like(found), 0, 0) for found in indices), workers, is_training=False)


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(1)
    # Skip the clean-up of native libraries, which sometimes aborts the process and would look like a killed worker.
    atexit.register(os._exit, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main process ends its workers
    # The main process may be killed: PyTorch's workers check every five seconds, but not while they start or read.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
