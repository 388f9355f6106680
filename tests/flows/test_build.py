"""The flow, really run: on a temporary server, as `make dataset` does."""

import json
import re
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from hmr_skel import load_shards
from tests.flows.conftest import ROWS
from tests.flows.processes import hmr_skel, prefect_home, processes_with, run, running

linux = pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")


def dataset(manifest: Path, *more: str) -> list[str]:
    out = manifest.parent / "out"
    return hmr_skel("dataset", "--manifest", str(manifest), "--out", str(out), "--device", "cpu", *more)


@linux
@pytest.mark.slow
def test_a_failing_shard_names_itself_when_the_others_are_done(small: Path, tmp_path: Path):
    in_the_way = tmp_path / "out" / "data" / "train-00002-of-00004.parquet"
    in_the_way.mkdir(parents=True)
    failed = run(dataset(small, "--json"), tmp_path)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout
    assert "error: 1 of 4 shards failed" in failed.stderr
    assert f"shard 2: cannot write {in_the_way}" in failed.stderr
    summary = json.loads(failed.stdout.splitlines()[-1])
    assert (summary["built"], list(summary["failed"])) == ([0, 1, 3], ["2"])

    in_the_way.rmdir()
    mended = run(dataset(small, "--json"), tmp_path)
    assert mended.returncode == 0, mended.stderr
    summary = json.loads(mended.stdout.splitlines()[-1])
    assert (summary["skipped"], summary["built"]) == ([0, 1, 3], [2])
    assert summary["kept"] + summary["rejected"] == summary["rows"] == ROWS
    assert summary["reasons"] == {"non_finite": 1}
    assert len(load_shards(tmp_path / "out")) == ROWS - 1
    assert "3 were complete already" in mended.stdout
    assert re.search(r"^shard 2 of 4: .*; 4 of 4 shards, [\d.]+ rows/s, 0:00:00 left$", mended.stderr, re.MULTILINE)
    assert (summary["stages"]["fit"] > 0, summary["slow"]) == (True, [])
    assert re.search(r"^  time  .*fitting [\d.]+ s", mended.stdout, re.MULTILINE)

    with sqlite3.connect(prefect_home(tmp_path) / "prefect.db") as database:
        keys = {key for (key,) in database.execute("select key from artifact where key is not null")}
        tasks = database.execute("select name, state_type from task_run order by created desc limit 4").fetchall()
    assert keys == {"build-progress", "build-shards", "build-summary"}
    assert sorted(tasks) == [(f"shard-{i:05d}", "COMPLETED") for i in range(4)]
    assert processes_with(tmp_path) == []


@linux
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(small: Path, tmp_path: Path, signum):
    # A row to a shard: four shards would be done before the signal is heard.
    small.write_text(re.sub(r"rows_per_shard = \d+", "rows_per_shard = 1", small.read_text()))
    with running(dataset(small), tmp_path, tmp_path / "log") as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "out" / "data").glob("*.parquet")) and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(signum)
        assert process.wait(timeout=30) == 130, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert "interrupted" in log
    assert "Traceback" not in log
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert len(list((tmp_path / "out" / "data").iterdir())) < ROWS // 2  # it did not go on with what was waiting
    assert processes_with(tmp_path) == []


def test_a_run_that_prefect_cancels_stops_what_is_at_work(monkeypatch: pytest.MonkeyPatch):
    from prefect.exceptions import TerminationSignal

    from flows import build

    class Cancelled:
        cache_clear = staticmethod(lambda: None)

        def __call__(self, *args):
            raise TerminationSignal(signal=signal.SIGTERM)

    stopped: list = []
    monkeypatch.setattr(build, "_builder", Cancelled())
    monkeypatch.setattr(build, "_interrupt", stopped.append)
    with pytest.raises(TerminationSignal):
        build.build_hmr_skel.fn()
    assert stopped == [{}]


def test_a_terminal_that_goes_stops_like_ctrl_c():
    from hmr_skel.commands import build

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        build._stop_like_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        build._stop_like_ctrl_c()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
