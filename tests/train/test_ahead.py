"""Batches that are fetched before they are asked for."""

import pytest

from hmr_skel.train.ahead import Ahead


class Stream:
    """Numbers, one sample replaced with each."""

    def __init__(self, stop: int) -> None:
        self.skipped = 0
        self._numbers = iter(range(stop))

    def __iter__(self):
        return self

    def __next__(self) -> int:
        number = next(self._numbers)
        self.skipped += 1
        return number


def test_the_count_of_replaced_samples_is_that_of_the_batches_handed_out():
    stream = Stream(5)
    ahead = Ahead(stream, lambda: stream.skipped)
    ahead.fetch(3)
    assert (stream.skipped, ahead.skipped) == (3, 0)
    assert (next(ahead), ahead.skipped) == (0, 1)
    ahead.fetch(3)
    assert (stream.skipped, ahead.skipped) == (4, 1)


def test_all_batches_come_in_order_and_it_ends_where_the_stream_ends():
    ahead = Ahead(Stream(5))
    taken = []
    for number in ahead:
        taken.append(number)
        ahead.fetch(2)
    assert taken == [0, 1, 2, 3, 4]
    ahead.fetch(2)
    with pytest.raises(StopIteration):
        next(ahead)


def test_what_the_stream_raises_is_raised():
    def broken():
        yield 1
        raise ValueError("no disk")

    ahead = Ahead(broken())
    with pytest.raises(ValueError, match="no disk"):
        ahead.fetch(2)
    assert next(ahead) == 1
