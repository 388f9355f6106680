"""What a run's summary says was slow."""

from dataclasses import replace

import pytest

from flows.shard_report import ShardReport
from flows.slow import slow_shards, slow_text, stage_seconds, stage_text


def report(shard: int, rows: int = 100, **changes) -> ShardReport:
    """An ordinary shard: five seconds of fitting for a hundred rows. `changes` are seconds, or fields."""
    seconds = {"read": 0.1, "check": 0.1, "load": 0.0, "wait": 1.0, "fit": 5.0, "write": 0.3}
    seconds |= {name: changes.pop(name) for name in list(changes) if name in seconds}
    seconds["total"] = sum(seconds.values()) - seconds["wait"]
    plain = ShardReport(
        shard, 9, rows, rows, 0, rows / seconds["total"], None, 0, "f", seconds, iterations=10.0, starts=1.1, batch=512
    )
    return replace(plain, **changes)


USUAL = [report(index) for index in range(1, 8)]


@pytest.mark.parametrize(
    ("slow", "reason"),
    [
        (report(0, rows=300, fit=15.0), "it has 300 rows, the median 100"),
        (report(0, wait=9.0), "it waited 9.0 s for the device, the median 1.0 s"),
        (report(0, load=8.0), "8.0 s of it went to loading models"),
        (report(0, write=9.0), "writing took 30.0 times as long a row"),
        (report(0, read=9.0), "reading took 90.0 times as long a row"),
        (
            report(0, fit=15.0, starts=3.3),
            "fitting took 3.0 times as long a row, with 3.3 starts a row, the median 1.1",
        ),
        (
            report(0, fit=15.0, iterations=30.0),
            "fitting took 3.0 times as long a row, with 30.0 iterations a row, the median 10.0",
        ),
        (
            report(0, fit=15.0, batch=64),
            "fitting took 3.0 times as long a row, in batches of 64 rows for want of memory",
        ),
        (
            report(0, fit=15.0),
            "fitting took 3.0 times as long a row, though its rows were no harder: the machine was busy, or compiled "
            "the fit first",
        ),
        (report(0, rows=200, fit=20.0, starts=3.3), "fitting took 2.0 times as long a row, with 3.3 starts a row, the "
         "median 1.1"),
    ],
)  # fmt: skip
def test_a_slow_shard_and_its_reason(slow: ShardReport, reason: str):
    (found,) = slow_shards([slow, *USUAL])
    assert (found["shard"], found["reason"]) == (0, reason)
    elapsed = slow.seconds["total"] + slow.seconds["wait"]
    assert found["times_median"] == pytest.approx(elapsed / 6.5, abs=0.01)
    assert slow_text(found).startswith(f"shard 0: {elapsed:.1f} s, {elapsed / 6.5:.1f} times the median: it") == (
        reason.startswith("it")
    )


def test_the_three_slowest_and_none_without_a_difference():
    several = [report(index, fit=20.0 + index) for index in range(4)]
    assert [one["shard"] for one in slow_shards([*several, *USUAL])] == [3, 2, 1]
    assert slow_shards(USUAL) == []
    assert slow_shards([report(0, fit=50.0), report(1)]) == []  # which of two is slow?
    skipped = replace(report(0, fit=50.0), skipped=True)
    assert slow_shards([skipped, *USUAL]) == []


def test_a_shard_without_fitted_rows_has_no_effort_to_compare():
    given = [report(index, iterations=None, starts=None) for index in range(1, 8)]
    (found,) = slow_shards([report(0, fit=15.0, iterations=None, starts=None), *given])
    assert found["reason"].startswith("fitting took 3.0 times as long a row, though")


def test_seconds_by_stage():
    skipped = replace(report(0, fit=1000.0), skipped=True)
    seconds = stage_seconds([skipped, *USUAL[:2]], {"open": 2.0, "load": 3.0})
    assert seconds == {"open": 2, "load": 3, "wait": 2, "read": 0.2, "check": 0.2, "fit": 10, "write": 0.6}
    assert stage_text(seconds) == (
        "fitting 10.0 s, loading models 3.0 s, opening 2.0 s, writing 0.6 s, reading 0.2 s, checking 0.2 s; waiting "
        "for the device 2.0 s"
    )
    assert stage_text({"open": 0.01}) == "nothing to do"
