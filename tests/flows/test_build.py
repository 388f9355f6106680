"""The flow, really run: as `hmr-skel dataset` does, and in this process."""

import json
import re
import signal
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
import torch

from flows import build
from flows.fitter import Fitter
from flows.report import ShardsUnfinished
from flows.shard import Builder
from hmr_skel import load_shards
from hmr_skel.data.lease import InHand
from hmr_skel.device import DeviceLost, no_more_after_cuda_errors
from hmr_skel.errors import UserError
from tests.flows.conftest import ROWS
from tests.flows.foreign_page import ask, assert_closed
from tests.flows.processes import TIMEOUT_S, hmr_skel, processes_with, run, running, wait_until
from tests.flows.served import Served

linux = pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")


def dataset(manifest: Path, *more: str) -> list[str]:
    out = manifest.parent / "out"
    return hmr_skel("dataset", "--manifest", str(manifest), "--out", str(out), "--device", "cpu", *more)


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_a_failing_shard_names_itself_when_the_others_are_done(served: Served, small: Path, tmp_path: Path):
    """First by the command, on the server of `make serve`, whose password is found in the folder that it runs in."""
    in_the_way = tmp_path / "out" / "data" / "train-00002-of-00004.parquet"
    in_the_way.mkdir(parents=True)
    failed = run(dataset(small, "--json", "--server", served.url), tmp_path, served.folder)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout
    assert "error: 1 of 4 shards are not complete" in failed.stderr
    assert re.search(r"^shard 3 of 4: .*; 3 of 4 shards$", failed.stderr, re.MULTILINE)
    assert f"shard 2: cannot write {in_the_way}" in failed.stderr
    summary = json.loads(failed.stdout.splitlines()[-1])
    assert (summary["built"], list(summary["failed"])) == ([0, 1, 3], ["2"])

    in_the_way.rmdir()
    mended = build.build_hmr_skel(str(small), str(tmp_path / "out"), "cpu", progress=False)
    assert (mended["skipped"], mended["built"], mended["failed"]) == ([0, 1, 3], [2], {})
    assert (mended["rows"], mended["kept"], mended["reasons"]) == (ROWS, ROWS - 1, {"non_finite": 1})
    assert len(load_shards(tmp_path / "out")) == ROWS - 1
    assert "4 of 4 shards" in (tmp_path / "out" / "README.md").read_text()

    keys = "select key from artifact where key is not null and flow_run_id = ?"
    tasks = "select name, state_type from task_run where flow_run_id = ?"
    with closing(sqlite3.connect(served.database)) as database:
        runs = "select id from flow_run where parameters like ? order by created"
        first, second = database.execute(runs, [f"%{tmp_path}/%"]).fetchall()
        for one in (first, second):
            assert set(database.execute(keys, one)) == {("build-progress",), ("build-shards",), ("build-summary",)}
        done = [("shard-00002", "COMPLETED")]
        deadline = time.monotonic() + TIMEOUT_S
        while sorted(database.execute(tasks, second)) != done:  # by events, which the server writes down a little later
            assert time.monotonic() < deadline
            time.sleep(0.1)


@linux
@pytest.mark.slow
@pytest.mark.usefixtures("served")  # it makes Prefect's database
def test_interrupted_on_a_temporary_server(small: Path, tmp_path: Path):
    """Which lets nobody in while it is there, and goes with the command."""
    # A row to a shard: four shards would be done before the signal is heard.
    small.write_text(re.sub(r"rows_per_shard = \d+", "rows_per_shard = 1", small.read_text()))
    log, data = tmp_path / "log", tmp_path / "out" / "data"
    with running(dataset(small), tmp_path, log) as process:
        wait_until(lambda: server_of(process.pid), process, log)
        url, password = server_of(process.pid)
        wait_until(lambda: answers(url), process, log)
        process.send_signal(signal.SIGSTOP)  # so that it is not done before it is asked
        try:
            assert_closed(url, password)
        finally:
            process.send_signal(signal.SIGCONT)
        wait_until(lambda: list(data.glob("*.parquet")), process, log)
        process.send_signal(signal.SIGSTOP)
        so_far = len(list(data.iterdir()))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=TIMEOUT_S) == 130, log.read_text()
    text = log.read_text()
    assert "interrupted" in text
    assert "Traceback" not in text
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert len(list(data.iterdir())) <= so_far + 4  # those in hand, and it did not go on with what was waiting
    assert processes_with(tmp_path) == []
    assert password.partition(":")[2] not in text


def server_of(pid: int) -> tuple[str, str] | None:
    """The API's address and the password of the server that a process has started, if it has."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            arguments = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            environment = Path(f"/proc/{child}/environ").read_text().split("\0")
        except OSError:  # it has ended
            continue
        values = dict(line.split("=", 1) for line in environment if line)
        if "--port" in arguments:
            url = f"http://127.0.0.1:{arguments[arguments.index('--port') + 1]}/api"
            return url, values["PREFECT_SERVER_API_AUTH_STRING"]
    return None


def answers(url: str) -> bool:
    try:
        return ask(url, "GET", "/health")[0] == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_a_device_that_failed_is_not_tried_again(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a CUDA error every call fails, in this process."""
    fits: list[int] = []

    def fit(self, rows, progress):
        fits.append(int(rows.source_row[0]))
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(Fitter, "fit", fit)
    words = "cpu failed, and this process cannot use it any more: CUDA error: an illegal memory access was encountered"
    with pytest.raises(DeviceLost, match=words):
        build.build_hmr_skel(str(small), str(tmp_path / "out"), "cpu", progress=False)
    assert len(fits) == len(set(fits)) > 0
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_what_makes_a_device_useless():
    broken = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`")
    memory, bug = torch.OutOfMemoryError("CUDA error: out of memory"), RuntimeError("shapes cannot be multiplied")
    for error, becomes in ((broken, DeviceLost), (memory, torch.OutOfMemoryError), (bug, RuntimeError)):
        with pytest.raises(becomes) as raised, no_more_after_cuda_errors(torch.device("cuda")):
            raise error
        assert type(raised.value) is becomes


@pytest.mark.slow
def test_another_password_is_a_clear_message(served: Served, small: Path):
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from hmr_skel.commands.build import is_refusal

    with (
        temporary_settings({PREFECT_API_URL: served.url, PREFECT_API_AUTH_STRING: "me:word"}),
        pytest.raises(httpx.HTTPStatusError) as refused,
    ):
        build.build_hmr_skel(str(small))
    assert is_refusal(refused.value)
    assert not is_refusal(ValueError("401"))


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_an_interrupt_stops_the_shards_at_work(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []

    def interrupt(*args):
        yield 0, asdict(opened[0].build(0, progress=False))
        assert "1 of 4 shards" in card.read_text()  # and not only at the end, which a killed build has not
        assert not opened[0].stopped.is_set()
        raise KeyboardInterrupt

    card = tmp_path / "out" / "README.md"
    of = build._builder
    monkeypatch.setattr(build, "_builder", lambda *args: opened.append(of(*args)) or opened[0])
    monkeypatch.setattr(build, "_results", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.build_hmr_skel(str(small), str(tmp_path / "out"), "cpu", progress=False)
    assert opened[0].stopped.is_set()


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_what_is_complete_is_what_the_files_say_at_the_end(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another build may have completed a shard that is in its hands, or replaced one that was complete."""
    worker = Builder.open(small, tmp_path / "out", "cpu", quiet=True)

    def results(*args):
        yield 0, asdict(worker.build(0, progress=False))
        worker.build(1, progress=False)
        yield 1, InHand(1, "process 7")
        worker.shards[0].meta_file(worker.out).unlink()

    monkeypatch.setattr(build, "_results", results)
    with pytest.raises(ShardsUnfinished, match=r"1 of 2 .*\n  shard 0: another build in .* has replaced it") as caught:
        build.build_hmr_skel(str(small), str(tmp_path / "out"), "cpu", shards="0-1", progress=False)
    assert caught.value.summary["skipped"] == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_a_run_from_prefects_pages(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It names no folder. Its tasks share the flow's builder, and shards that are not there are refused at once."""
    monkeypatch.setenv("HMR_SKEL_DATA", str(tmp_path))
    opened = Mock(wraps=Builder.open)
    monkeypatch.setattr(Builder, "open", opened)
    assert build.build_hmr_skel(str(small), device="cpu", shards="1", progress=False)["out"] == str(tmp_path / "small")
    assert opened.call_count == 1
    (tmp_path / "labels.npz").unlink()
    small.write_text(small.read_text() + f'[sources.generate]\nkind = "open"\nrows = {ROWS}\n')
    with pytest.raises(UserError, match="no shard 99"):
        build.build_hmr_skel(str(small), device="cpu", shards="99", progress=False)
    assert not (tmp_path / "labels.npz").exists()


def test_told_to_stop_a_shard_ends_at_its_next_batch(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    batches: list[int] = []

    def fit(rows, progress):
        for batch in range(3):
            batches.append(batch)
            progress(batch)
            builder.stopped.set()

    monkeypatch.setattr(builder.fitter, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        builder.build(0, progress=False)
    assert batches == [0, 1]
    assert [path for end in ("parquet", "tmp") for path in (tmp_path / "out").rglob(f"*.{end}")] == []
    assert list((tmp_path / "out" / ".leases").iterdir()) == []


def test_a_terminal_that_goes_stops_like_ctrl_c():
    from hmr_skel.commands.build import _stop_on_signals

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        received = _stop_on_signals()
        for number in numbers:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert received == numbers
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        _stop_on_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
