"""Batches of samples, from any position on, made by worker processes."""

from collections.abc import Iterator
from types import TracebackType

from hmr_skel.data.samples import Batch, SampleDataset


class Batches(Iterator[Batch]):
    """An iterator of batches that owns worker processes: `close()` it, or use it in a `with`.

    `skipped` is how many samples were replaced so far because their image was missing or corrupt.
    """

    skipped: int
    samples_per_epoch: int

    def __next__(self) -> Batch:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
) -> Batches:
    """The endless, shuffled stream of training batches from batch number `start` to `stop` (excluded).

    Args:
        batch_size: samples per batch of this rank.
        seed: of the order and of the augmentation.
        start: batches of this rank before the first one given: the position to resume at.
        rank, world_size: batch k of rank r holds samples (k * world_size + r) * batch_size onwards of one stream, so
            that the batches number k of all ranks are one batch of one process with `world_size * batch_size`.
        workers: processes; 0 makes the batches in this one.
        timeout: seconds to wait for a batch before `UserError`.
    """
    raise NotImplementedError


def ordered_batches(
    dataset: SampleDataset, batch_size: int, *, rank: int = 0, world_size: int = 1, workers: int = 0, timeout=300.0
) -> Batches:
    """Every row once, in order, for evaluation: rank r has rows r, r + world_size, ...; the last batch may be smaller.
    Unreadable images are left out and counted in `skipped`."""
    raise NotImplementedError
