"""The watching of long runs: flat is told from growing, and a small run is watched to its end."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.drill.__main__ import main
from tools.drill.processes import Usage, descendants, proportional_mb
from tools.drill.soak import Sample, Soak, time_left
from tools.drill.soak_verdict import HEAD, checks, line, table

linux = pytest.mark.skipif(sys.platform != "linux", reason="allowed: reads /proc")


def watched(**growth: float) -> Soak:
    """A run of 300 shards in 30 minutes, 10 of them and 6,000 rows a minute; `growth` is a shard's, of each figure."""

    def sample(minute: int) -> Sample:
        shards, wobble = 10 * minute, (-1) ** minute
        grown = {name: each * shards for name, each in growth.items()}
        flow = Usage(1000 + 2.0 * shards, 600 + 5 * wobble + grown.get("memory", 0), 50 + grown.get("files", 0), 20)
        server = Usage(200, 150 + grown.get("server", 0), 30, 8 + grown.get("threads", 0))
        database = round(1e6 + 20e3 * shards + grown.get("database", 0))
        left = (30 - minute) * 60 * (1 + growth.get("eta", 0)) + 1
        return Sample(60.0 * minute, shards, 600 * shards, flow, server, None, None, database, left, 60.0 * minute - 1)

    return Soak(180_000, 300, tuple(map(sample, range(1, 31))), 0, 1800.0, 1802.0, "", "")


def test_what_is_flat_passes():
    run = watched()
    assert [check.name for check in checks(run) if not check.passed] == []
    by_name = {check.name: check for check in checks(run)}
    assert by_name["database"].value == pytest.approx(20)  # kB a shard
    assert abs(by_name["flow memory"].value) < 2  # mapped label files, 2 MB a shard here, do not count
    assert by_name["time left"].value == pytest.approx(0, abs=0.1)
    assert by_name["database"].text() == "database                     +20.0 kB per shard (bound 64): ok"


@pytest.mark.parametrize(
    ("name", "growth"),
    [
        ("flow memory", {"memory": 0.2}),
        ("flow files", {"files": 0.5}),
        ("server memory", {"server": 0.2}),
        ("server threads", {"threads": 0.2}),
        ("database", {"database": 60e3}),
        ("time left", {"eta": 0.5}),
        ("time left", {"eta": -0.5}),
    ],
)
def test_what_grows_or_is_wrong_fails(name: str, growth: dict[str, float]):
    assert [check.name for check in checks(watched(**growth)) if not check.passed] == [name]


def test_too_few_samples_prove_nothing():
    run = watched()
    few = replace(run, samples=run.samples[-2:])
    assert not any(check.passed for check in checks(few))
    assert "too few samples MB per 100 shards (bound 10): FAILED" in checks(few)[0].text()


def test_the_table():
    head, *lines = table(watched()).splitlines()
    assert (head, len(lines)) == (HEAD, 30)
    assert " ".join(lines[9].split()) == "10.0 100 100.0 1200 605 200 150 50 + 30 20 + 8 3.0 20.0 20.0"
    assert len(head) == len(lines[0]) < 120
    first = replace(watched().samples[0], left_s=None)
    assert line(first, None).split()[-1] == "1.2"  # the database: nothing was said of the time yet


def test_the_time_left_that_a_log_tells_last(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("starting\n")
    assert time_left(log)[0] is None
    log.write_text("shard 1 of 9: 5 kept; 1 of 9 shards, 3.0 rows/s, 1:00:00 left\nshard 2: 2 days, 0:01:05 left\n")
    os.utime(log, (0, os.stat(log).st_mtime - 100))
    left, age = time_left(log)
    assert left == 2 * 86400 + 65
    assert 99 < age < 130
    log.write_text("... 1 day, 0:00:10 left\nshard 3 of 9: ..., 0:00:10 left\n")
    assert time_left(log)[0] == 10


@linux
def test_memory_files_and_threads_of_processes(tmp_path: Path):
    code = (
        "import threading, time; memory = bytearray(64 * 2**20); files = [open(__file__) for _ in range(20)]\n"
        "for _ in range(5): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'])\n"
        "print(flush=True); time.sleep(60)"
    )
    script = tmp_path / "holds.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            (child,) = descendants(process.pid)
            usage = Usage.of([process.pid])
            assert 64 < usage.own_mb <= usage.rss_mb < 150
            assert 22 <= usage.files < 30
            assert usage.threads == 6
            assert Usage.of([process.pid, child]).threads == 7
            assert 64 < proportional_mb([process.pid]) < usage.rss_mb + 1
            assert usage.most(Usage(own_mb=1000, threads=1)) == replace(usage, own_mb=1000)
        finally:
            process.kill()
    process.wait(10)
    assert Usage.of([process.pid]) == Usage()
    assert descendants(process.pid) == []


@linux
@pytest.mark.extra
def test_a_small_run_is_watched(tmp_path: Path, open_body_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setattr("tools.drill.run_soak.open_body", lambda quiet: open_body_dir)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    status = main(["soak", "--rows", "95", "--shards", "24", "--every", "0.25", "--json"])
    out, _ = capfd.readouterr()
    *text, last = out.splitlines()
    report = json.loads(last)
    assert status == (0 if report["passed"] else 1)
    assert (report["rows"], report["shards"]) == (95, 24)
    samples = report["samples"]
    assert text[0] == HEAD
    assert [line.split()[1] for line in text[1 : len(samples) + 1]] == [str(sample["shards"]) for sample in samples]
    assert "dataset soak" in text
    assert any("fitting" in line for line in text)  # the run's own summary
    shards = [sample["shards"] for sample in samples]
    assert shards == sorted(shards)
    assert {shards[0], shards[-1]} == {0, 24}
    assert any(0 < number < 24 for number in shards)
    busy = [sample for sample in samples if sample["shards"]]
    assert all(100 < sample["flow"]["own_mb"] <= sample["flow"]["rss_mb"] for sample in busy)
    assert all(sample["server"]["rss_mb"] > 50 and sample["server"]["files"] > 3 for sample in busy)
    assert busy[-1]["database_bytes"] > samples[0]["database_bytes"]
    assert any(sample["left_s"] for sample in busy)
    assert report["stages"]["fit"] > 0
    database = next(check for check in report["checks"] if check["name"] == "database")
    assert database["value"] is None or 1 < database["value"] < 200  # kB a shard
