"""Batches fetched while the processor would wait anyway."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Ahead(Iterator[T]):
    """A stream of batches, some of which are fetched before they are asked for.

    Taking a batch over from the process that made it costs milliseconds, which nobody notices while a step is computed
    in other threads.

    Args:
        stream: of batches.
        skipped: how many samples the stream has replaced so far.

    Attributes:
        skipped: the same count as of the last batch that was handed out, whatever has been fetched since.
    """

    def __init__(self, stream: Iterator[T], skipped: Callable[[], int] = lambda: 0) -> None:
        self.skipped = 0
        self._stream, self._count = stream, skipped
        self._fetched: deque[tuple[T, int]] = deque()

    def fetch(self, number: int) -> None:
        """Have so many batches ready, or as many as are left. Raises what the stream raises."""
        while len(self._fetched) < number:
            try:
                batch = next(self._stream)
            except StopIteration:
                return
            self._fetched.append((batch, self._count()))

    def __next__(self) -> T:
        self.fetch(1)
        if not self._fetched:
            raise StopIteration
        batch, self.skipped = self._fetched.popleft()
        return batch
