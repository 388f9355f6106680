"""Batches of samples, from any position on, made by worker processes.

The main process decides what is in a batch and the workers make it: they know no order and keep no position, so that
the stream is the same for any number of them.
"""

import atexit
import logging
import multiprocessing
import os
import re
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hmr_skel.data.images import UnreadableImage
from hmr_skel.data.samples import NOT_THERE, Batch, SampleDataset, stack
from hmr_skel.data.selection import Order
from hmr_skel.errors import UserError

SUBSTITUTES = 8
"""So many of the rows that follow may stand in for one whose image is unreadable."""
REPORTED_FILES = 20
"""Unreadable images that are named; the others are only counted."""

_log = logging.getLogger(__name__)


class Batches(AbstractContextManager, Iterator[Batch]):
    """An iterator of batches that owns worker processes: `close()` it, or use it in a `with`.

    Attributes:
        skipped: how many samples were replaced (or, in order, left out) so far, their images being unreadable.
    """

    def __init__(
        self,
        maker: "_SampleMaker",
        requests: Iterable[np.ndarray],
        workers: int,
        pin_memory: bool = False,
        timeout: float = 300.0,
        ahead: int = 0,
    ) -> None:
        self.skipped = 0
        self._reported: set[str] = set()
        loader = DataLoader(
            maker,
            sampler=requests,
            batch_size=None,  # a request is a whole batch
            num_workers=workers,
            prefetch_factor=max(2, -(-ahead // workers)) if workers else None,
            pin_memory=pin_memory,
            timeout=timeout if workers else 0,
            worker_init_fn=_start_worker,
            multiprocessing_context="spawn" if workers else None,  # a forked torch may hang
            generator=torch.Generator(),  # else one number of the global generator would be used up
        )
        self._made: Iterator | None = iter(loader)

    def __next__(self) -> Batch:
        """Raises `UserError` where no batch comes in time, a worker was killed, or images are unreadable in a row."""
        while self._made is not None:
            try:
                batch, unreadable = next(self._made)
            except BaseException as error:  # Ctrl-C too
                traceback.clear_frames(error.__traceback__)  # they would keep the workers
                self.close()
                if re.search(r"DataLoader.*(timed out|exited unexpectedly|killed by signal)", str(error)):
                    raise UserError(
                        f"no batch of images came from the loader's processes: {error}. Is the disk with the images "
                        "reachable? Where memory was short, use fewer workers."
                    ) from error
                raise
            self.skipped += len(unreadable)
            for text in unreadable:
                missing = text.endswith(NOT_THERE)
                once = NOT_THERE if missing else text
                if once not in self._reported and len(self._reported) < REPORTED_FILES:
                    self._reported.add(once)
                    _log.warning("skipped: %s%s", text, "; others that are not there are only counted" * missing)
            if isinstance(batch, UserError):
                self.close()
                raise batch
            if batch is not None:  # else, in order, all of its images were unreadable
                return batch
        raise StopIteration

    def close(self) -> None:
        """End the worker processes, in bounded time: torch does so when the iterator goes. Again, it does nothing."""
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

    A sample whose image is unreadable is replaced by one of the rows that follow it, the same in every run.

    Args:
        batch_size: samples per batch of this rank.
        seed: of the order and of the augmentation.
        start: number of the first batch: where to resume.
        rank, world_size: batch k of rank r holds samples (k * world_size + r) * batch_size onwards of one stream, so
            that the batches number k of all ranks are one batch of one process with `world_size * batch_size`.
        workers: processes; 0 makes the batches in this one.
        timeout: seconds to wait for a batch of the workers.
        ahead: batches that the workers make before they are asked for; at least two each.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    order = Order(dataset.strata, seed)

    def request(number: int) -> np.ndarray:
        return np.stack(order.at((number * world_size + rank) * batch_size, batch_size), 1)

    numbers = range(start, np.iinfo(np.int64).max if stop is None else stop)
    maker = _SampleMaker(dataset, seed, SUBSTITUTES)
    return Batches(maker, map(request, numbers), workers, pin_memory, timeout, ahead)


def ordered_batches(dataset: SampleDataset, batch_size: int, *, workers: int = 0) -> Batches:
    """Every row once, in order, for evaluation; the last batch may be smaller. Unreadable images are left out, and
    counted in `skipped`."""

    def request(start: int) -> np.ndarray:
        return np.array([(index, 0) for index in range(start, min(start + batch_size, len(dataset)))])

    starts = range(0, len(dataset), batch_size)
    return Batches(_SampleMaker(dataset, 0, substitutes=0), map(request, starts), workers)


class _SampleMaker(Dataset):
    """Requests to batches: what runs in a worker."""

    def __init__(self, dataset: SampleDataset, seed: int, substitutes: int) -> None:
        self.dataset, self.seed, self.substitutes = dataset, seed, substitutes

    def __getitem__(self, index: np.ndarray) -> tuple[Batch | UserError | None, list[str]]:
        """The batch of a request [B 2] of indices and epochs, None where no image can be read; and "file: reason" of
        every sample skipped."""
        samples: list[Batch] = []
        unreadable: list[str] = []
        for wanted, epoch in index.tolist():
            for place in range(wanted, wanted + 1 + self.substitutes):
                try:
                    samples.append(self.dataset.read(place % len(self.dataset), epoch, self.seed))
                    break
                except UnreadableImage as error:
                    unreadable.append(str(error))
            else:
                if self.substitutes:
                    error = UserError(
                        f"{1 + self.substitutes} images in a row are unreadable: {'; '.join(unreadable[-3:])}. Are "
                        "image_root and image_path of the manifest right, and all images there? For the default "
                        "dataset: make images (hmr-skel images)."
                    )
                    return error, unreadable
        return stack(samples) if samples else None, unreadable


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(1)
    # When all Python has ended: the native libraries' own clean-up aborts the process now and then, which would look
    # like a worker that was killed.
    atexit.register(os._exit, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: it is the main process that ends its workers
    # It may also be killed: PyTorch's workers look every five seconds, but not while they start or wait for a disk.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
