"""The figures of a run: what was slow, what is not complete."""

from dataclasses import replace

import pytest

from flows.report import DatasetSummary, ShardReport, ShardsUnfinished, slow_shards


def report(shard: int, rows: int = 100, **changes) -> ShardReport:
    """An ordinary shard: fifty seconds of fitting for a hundred rows. `changes` are seconds, or fields."""
    seconds = {"read": 1.0, "check": 1.0, "load": 0.0, "wait": 10.0, "fit": 50.0, "write": 3.0}
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
        (report(0, rows=300, fit=150.0), "fitting took 150.0 s, the median 50.0 s; it has 300 rows, the median 100"),
        (report(0, wait=90.0), "waiting for the device took 90.0 s, the median 10.0 s"),
        (report(0, write=90.0), "writing took 90.0 s, the median 3.0 s"),
        (
            report(0, fit=150.0, batch=64),
            "fitting took 150.0 s, the median 50.0 s; it was fitted in batches of 64 rows for want of memory",
        ),
    ],
)
def test_a_slow_shard_and_its_reason(slow: ShardReport, reason: str):
    (found,) = slow_shards([slow, *USUAL])
    assert (found["shard"], found["reason"]) == (0, reason)
    assert (found["seconds"], found["times_median"]) == (slow.elapsed_s, pytest.approx(slow.elapsed_s / 65, abs=0.01))


def test_the_three_slowest_and_none_without_a_difference():
    several = [report(index, fit=200.0 + index) for index in range(4)]
    assert [one["shard"] for one in slow_shards([*several, *USUAL])] == [3, 2, 1]
    assert slow_shards(USUAL) == []
    assert slow_shards([report(0, fit=500.0), report(1)]) == []  # which of two is slow?


def test_what_is_not_complete_is_named_by_its_reason():
    summary = DatasetSummary(
        "d", "out", 9, [0], [1], {2: "no body model", 3: "no body model", 5: "a bug"}, {6: "process 7", 7: "process 7"},
        20, 19, 1, {"box": 1}, None, 0, 3.0, {"fit": 2.0, "wait": 0.0}, [], [report(0).as_dict(), report(1).as_dict()],
    )  # fmt: skip
    lines = ["shards 2-3: no body model", "shard 5: a bug"]
    lines += ["shards 6-7: in the hands of process 7; run this again when it is done"]
    assert summary.unfinished() == lines
    assert "1 built in 3 s, 1 were complete already and skipped, 3 failed, 2 in the hands of another build (of 9)" in (
        summary.text()
    )
    assert "  time              fitting 2.0 s\n" in summary.text()
    assert "20 read, 19 kept, 1 rejected (1 box)" in summary.markdown()
    assert summary.table()[2] == {"shard": 2, "failed": "no body model"}
    assert [row["shard"] for row in summary.table()] == [0, 1, 2, 3, 5, 6, 7]
    error = ShardsUnfinished(summary, dict.fromkeys((2, 3, 5, 6, 7), ValueError("bug")))
    assert str(error).startswith("5 of 7 shards are not complete; the others are.")
    assert "ValueError: bug" in error.traceback
