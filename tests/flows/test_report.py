"""The figures of a run: what is not complete, and why."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flows.report import ShardReport, ShardsUnfinished, summarise_run, summary_text, unfinished_lines
from hmr_skel.data.lease import InHand
from hmr_skel.errors import UserError


def test_what_is_not_complete_is_named_by_its_reason():
    builder: Any = SimpleNamespace(manifest=SimpleNamespace(name="d"), out=Path("out"), shards=[None] * 9)
    report = ShardReport(0, 9, 10, 9, 1, {"box": 1}, 5.0, None, None, 0, 0, "f", skipped=False)
    reports = [report, ShardReport(1, 9, 10, 10, 0, {}, 5.0, None, None, 2, 3, "f", skipped=True)]
    no_body, bug = UserError("no body model"), ValueError("bug")
    failures = {2: no_body, 3: no_body, 5: bug, 6: InHand(6, "process 7"), 7: InHand(7, "process 7")}
    summary = summarise_run(builder, reports, failures, 3.0)
    lines = ["shards 2-3: no body model", "shard 5: ValueError: bug"]
    lines += ["shards 6-7: in the hands of process 7; run this again when it is done"]
    assert unfinished_lines(summary) == lines
    assert (summary["built"], summary["skipped"], summary["v2v_mm"]) == ([0], [1], None)
    text = summary_text(summary)
    assert "1 built in 3 s, 1 were complete already and skipped, 5 not complete (of 9)" in text
    assert "limit violations  2 rows outside the anatomical limits of hmr-skel" in text
    assert "20 read, 19 kept, 1 rejected (1 box)" in text
    error = ShardsUnfinished(summary, failures)
    assert str(error).splitlines() == [
        "5 of 7 shards are not complete. Run the same command again to build them:",
        *(f"  {line}" for line in lines),
    ]
    assert "ValueError: bug" in error.traceback
