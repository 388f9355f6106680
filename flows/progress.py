"""How far a build is, and how long it will still take."""

import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta

FEWEST = 8
"""Shards that a rate is taken over, once there are so many."""


class Progress:
    """Counts shards as they end. Done is a share of rows; the time left goes by the rate at which rows were built.

    The rate is that of the latest half of what was built, as machines become busy and idle. Shards that were complete
    already take no time and say nothing of it; nor do those that fail.
    """

    def __init__(
        self, rows: Mapping[int, int], todo: Collection[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """To be made when the first shard starts.

        Args:
            rows: of each shard that is asked for, by its number.
            todo: those of them that are not complete yet.
            clock: seconds.
        """
        self.shards = len(rows)
        self.shards_done = 0
        self.failed = 0
        self.rows = sum(rows.values())
        self._todo = {index: rows[index] for index in todo}
        self._clock = clock
        self._built = [(clock(), 0)]  # when, and how many rows by then

    def end(self, index: int, *, failed: bool = False) -> None:
        """A shard is complete, built here or by another process that shares the work, or failed."""
        self.shards_done += 1
        self.failed += failed
        rows = self._todo.pop(index, 0)
        if rows and not failed:
            self._built.append((self._clock(), self._built[-1][1] + rows))

    @property
    def rows_done(self) -> int:
        """Rows of the shards that are over, complete ones included, even before their turn."""
        return self.rows - sum(self._todo.values())

    @property
    def percent(self) -> float:
        """Of the rows."""
        return 100.0 * self.rows_done / self.rows

    @property
    def rows_per_s(self) -> float | None:
        """None before the first shard is built."""
        count = len(self._built) - 1
        end, rows = self._built[-1]
        start, _ = self._built[max(min(count // 2, count - FEWEST), 0)]
        # Workers that start together end together: all shards that ended with this one were done before.
        together = bisect_right(self._built, start + 0.05 * (end - start), key=lambda moment: moment[0])
        start, before = self._built[together - 1]
        return (rows - before) / (end - start) if end > start else None

    @property
    def left_s(self) -> float | None:
        """Seconds from the last shard's end to that of all; None while nothing is known."""
        left = self.rows - self.rows_done
        if left == 0:
            return 0.0
        return None if self.rows_per_s is None else left / self.rows_per_s

    def text(self) -> str:
        """`4 of 12 shards, 98.1 rows/s, 0:42:10 left`"""
        words = [f"{self.shards_done:,} of {self.shards:,} shards"]
        if self.failed:
            words.append(f"{self.failed:,} failed")
        if self.rows_per_s is not None:
            words.append(f"{self.rows_per_s:.1f} rows/s")
        if self.left_s is not None:
            words.append(f"{timedelta(seconds=round(self.left_s))} left")
        return ", ".join(words)
