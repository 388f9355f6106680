"""The time that is left, by a clock of our own."""

import pytest

from flows.progress import Progress


class Clock:
    """Seconds, as they are set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_shards_one_after_the_other():
    clock = Clock()
    progress = Progress(dict.fromkeys(range(12), 512), range(12), clock)
    assert progress.text() == "0 of 12 shards"
    for index in range(4):
        clock.now += 8
        progress.end(index)
    assert (progress.rows_per_s, progress.left_s) == (64, 64)
    assert progress.text() == "4 of 12 shards, 64.0 rows/s, 0:01:04 left"
    assert progress.percent == pytest.approx(100 / 3)


def test_complete_shards_say_nothing_of_the_time_that_others_take():
    clock = Clock()
    progress = Progress(dict.fromkeys(range(100), 10), range(90, 100), clock)
    assert progress.percent == 90
    for index in range(90):
        clock.now += 0.01
        progress.end(index)
    assert progress.left_s is None
    clock.now = 110.0
    progress.end(95)
    assert (progress.rows_per_s, progress.left_s) == (1, 90)
    assert progress.text() == "91 of 100 shards, 1.0 rows/s, 0:01:30 left"


def test_a_small_last_shard_and_one_that_fails():
    clock = Clock()
    progress = Progress({0: 100, 1: 100, 2: 100, 3: 7}, range(4), clock)
    clock.now += 50
    progress.end(1)
    clock.now += 1
    progress.end(2, failed=True)
    assert progress.left_s == pytest.approx(107 / 2)
    assert progress.text() == "2 of 4 shards, 1 failed, 2.0 rows/s, 0:00:54 left"
    clock.now += 49
    progress.end(0)
    assert progress.left_s == pytest.approx(3.5)
    clock.now += 1
    progress.end(3)  # another process had built it in the meantime
    assert (progress.left_s, progress.percent) == (0, 100)


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_several_in_flight_that_end_together(workers: int):
    """Right at the end of every round; in the moment in which a round's shards come in, too long."""
    clock = Clock()
    shards, seconds = 80, 10.0
    progress = Progress(dict.fromkeys(range(shards), 10), range(shards), clock)
    for index in range(shards):
        clock.now = 100 + seconds * (index // workers + 1) + 0.01 * (index % workers)
        progress.end(index)
        true = 100 + seconds * shards / workers - clock.now
        if index % workers == workers - 1:
            assert progress.left_s == pytest.approx(true, abs=1)
        elif index >= workers:
            assert progress.left_s > true - 0.5


def test_a_machine_that_becomes_slower_is_noticed():
    clock = Clock()
    progress = Progress(dict.fromkeys(range(100), 1), range(100), clock)
    for index in range(60):
        clock.now += 1 if index < 30 else 3
        progress.end(index)
    assert progress.left_s == 3 * 40


def test_days():
    clock = Clock()
    progress = Progress({0: 1, 1: 20_000}, range(2), clock)
    clock.now += 10
    progress.end(0)
    assert progress.text().endswith(", 2 days, 7:33:20 left")
