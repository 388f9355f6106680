"""Workers on Dask, and builds that know nothing of each other."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from flows import cluster
from flows.cluster import environments, is_cluster
from flows.shard import Builder
from hmr_skel.cli import main
from hmr_skel.data.lease import InHand, Lease
from hmr_skel.data.schema import write_rows
from hmr_skel.data.storage import may_pass
from hmr_skel.errors import UserError
from tests.flows.conftest import ROWS, ROWS_PER_SHARD
from tests.flows.processes import ROOT, TIMEOUT_S, hmr_skel, processes_with, run, running, wait_until
from tests.flows.served import Served
from tests.flows.test_shard import assert_equal_columns

linux = pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")
SHARDS = ROWS // ROWS_PER_SHARD
CRASHING = """
import os, signal, sys
from flows.shard import Builder

build = Builder._build

def crash(self, shard, *args):
    if shard.index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return build(self, shard, *args)

Builder._build = crash  # in the workers too, which read this file again
if __name__ == "__main__":
    from hmr_skel.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert [place["OMP_NUM_THREADS"] for place in environments(2, "cpu")] == ["3", "2"]
    assert [place["NUMBA_NUM_THREADS"] for place in environments(8, "cpu")] == ["1"] * 8
    assert all("CUDA_VISIBLE_DEVICES" not in place for place in environments(2, "cpu"))


@pytest.mark.parametrize(("visible", "own"), [(None, "0120"), ("", "0120"), ("4, 6", "4646")])
def test_each_worker_has_a_gpu_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch, visible, own):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in environments(4, "auto")] == list(own)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1"):
        environments(2, "cuda:1")


def test_one_process_is_no_cluster():
    assert [is_cluster(workers, None) for workers in (None, 1, 2)] == [False, False, True]
    assert is_cluster(None, "tcp://head:8786")
    with pytest.raises(UserError, match="workers is 0"):  # of a deployment's run
        is_cluster(0, None)


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    for option in (["--workers", "2"], ["--dask-address", "tcp://x:1"]):
        assert main(["dataset", *option]) == 2
        assert "make setup EXTRAS=dask" in capsys.readouterr().err


def test_a_cluster_of_its_own_has_workers_of_its_own(capsys):
    assert main(["dataset", "--workers", "2", "--dask-address", "tcp://x:1"]) == 2
    assert "without --workers" in capsys.readouterr().err


def test_a_shard_in_other_hands(small: Path, tmp_path: Path):
    builder, other = (Builder.open(small, tmp_path / "out", "cpu", quiet=True) for _ in range(2))
    with Lease(builder.out, builder.shards[0], other.run):
        with pytest.raises(InHand):
            builder.build(0, progress=False)
        assert not builder.build(1, progress=False).skipped
    assert not builder.build(0, progress=False).skipped


def test_one_that_slept_leaves_the_others_files(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For so long that another build has taken its shard over."""
    builder, other = (Builder.open(small, tmp_path / "out", "cpu", quiet=True) for _ in range(2))
    fit = builder.fitter.fit

    def sleep(*args):
        os.utime(builder.out / ".leases" / f"{builder.shards[0].number}.json", (1, 1))
        assert not other.build(0, progress=False).skipped
        os.utime(data, (1, 1))
        return fit(*args)

    data = builder.shards[0].data_file(tmp_path / "out")
    monkeypatch.setattr(builder.fitter, "fit", sleep)
    with pytest.raises(InHand, match="another build"):
        builder.build(0, progress=False)
    assert data.stat().st_mtime == 1
    assert builder.build(0, progress=False).skipped


def test_two_that_write_the_same_shard_at_once_are_told(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Data of one build never stay beside the meta file of another, even if they are as long."""
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    shard = builder.shards[0]
    data = shard.data_file(builder.out)

    def write_both(*args, **about) -> dict:
        written = write_rows(*args, **about)
        content = data.read_bytes()
        data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return written

    with monkeypatch.context() as patch:
        patch.setattr("flows.shard.write_rows", write_both)
        with pytest.raises(UserError, match="another process wrote its files") as caught:
            builder.build(0, progress=False)
    assert may_pass(caught.value)  # the flow tries again
    assert not shard.meta_file(builder.out).exists()
    assert not builder.build(0, progress=False).skipped


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_a_second_build_skips_what_the_first_has_in_hand(small: Path, tmp_path: Path):
    from flows.build import build_hmr_skel
    from flows.report import ShardsUnfinished

    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    with (
        Lease(builder.out, builder.shards[1], "theirs"),
        Lease(builder.out, builder.shards[3], "theirs"),
        pytest.raises(ShardsUnfinished, match=r"2 of 4 shards are not.*\n  shards 1, 3: in the hands of process"),
    ):
        build_hmr_skel(str(small), str(tmp_path / "out"), "cpu", progress=False)
    assert builder.unfinished(range(4)) == [1, 3]


def dataset(manifest: Path, out: Path, *more: str) -> list[str]:
    return ["dataset", "--manifest", str(manifest), "--out", str(out), "--device", "cpu", "--workers", "2", *more]


@linux
@pytest.mark.slow
@pytest.mark.extra
def test_one_of_two_workers_is_killed(served: Served, small: Path, tmp_path: Path):
    """All shards are complete, and equal to those that one process builds."""
    small.write_text(re.sub(r"rows_per_shard = \d+", "rows_per_shard = 2", small.read_text()))
    out, log = tmp_path / "out", tmp_path / "log"
    command = hmr_skel(*dataset(small, out, "--json", "--server", served.url))
    with running(command, tmp_path, log, served.folder) as process:
        wait_until(lambda: list((out / "meta").glob("*.json")), process, log)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == 0, log.read_text()
    summary = json.loads(log.read_text().splitlines()[-1])
    assert (summary["failed"], len(summary["reports"]), summary["rows"]) == ({}, ROWS // 2, ROWS)
    assert list((out / ".leases").iterdir()) == []
    assert processes_with(tmp_path) == []
    alone = Builder.open(small, tmp_path / "alone", "cpu", quiet=True)
    for index in range(ROWS // 2):
        alone.build(index, progress=False)
    assert_equal_columns(out, tmp_path / "alone")


def workers_of(pid: int) -> list[int]:
    """Dask's workers among a process's children, whichever of its threads started them."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    found = [int(child) for text in lists for child in text.split()]
    return sorted(child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())


@linux
@pytest.mark.slow
@pytest.mark.extra
def test_a_shard_that_kills_its_worker_is_named_and_the_others_are_done(served: Served, small: Path, tmp_path: Path):
    program = tmp_path / "crashing.py"
    program.write_text(CRASHING)
    command = [sys.executable, str(program), *dataset(small, tmp_path / "out", "--server", served.url)]
    done = run(command, tmp_path, served.folder, {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert "1 of 4 shards are not complete" in done.stderr
    assert f"on {cluster.DEATHS} different workers, but all those workers died" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "out" / "meta").iterdir())) == SHARDS - 1
    assert processes_with(tmp_path) == []


def test_a_scheduler_that_is_gone():
    from flows.build import _results

    class Gone:
        def submit(self, task, parameters):
            raise ConnectionError

    with pytest.raises(UserError, match="no Dask scheduler answers"):
        list(_results(Gone(), [0], {"on_worker": True}))


def test_a_cluster_whose_workers_are_gone(monkeypatch: pytest.MonkeyPatch):
    """They died, and Dask has given up starting them again."""
    from flows import build

    class Left:
        client = Mock(nthreads=lambda: {"tcp://a": 2} if next(looks) else {})

        def submit(self, task, parameters):
            return Mock(task_run_id=parameters["index"])

    looks = iter([True, True, True, True, True, False, False, False, False])
    monkeypatch.setattr(build, "NO_WORKER_S", 0.01)
    words = "no worker for 0 s, with shards 3, 5 in hand: .* run this again"
    with pytest.raises(UserError, match=words):
        list(build._results(Left(), [3, 5, 6], {}))


@pytest.mark.extra
def test_the_cluster_takes_its_own_processes_only():
    """It listens on this machine, and asks for the key of this build."""
    import psutil
    from distributed import Client, Security

    with cluster.local_cluster([]) as ours:
        assert ours.scheduler_address.startswith("tls://127.0.0.1:")
        listening = [one for one in psutil.Process().net_connections() if one.status == psutil.CONN_LISTEN]
        assert listening
        assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
        with Client(ours, set_as_default=False) as client:
            assert client.nthreads() == {}
        for address in (ours.scheduler_address, ours.scheduler_address.replace("tls:", "tcp:")):
            security = Security.temporary() if address.startswith("tls:") else None
            with pytest.raises((OSError, ValueError)):
                Client(address, security=security, timeout="2s", set_as_default=False)
