"""Workers on Dask, and builds that know nothing of each other."""

import os
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from flows import cluster
from flows.cluster import environments, is_cluster
from flows.shard import Builder
from hmr_skel.cli import main
from hmr_skel.data.lease import InHand
from hmr_skel.data.storage import may_pass, put_bytes
from hmr_skel.errors import UserError

linux = pytest.mark.skipif(sys.platform != "linux", reason="allowed: looks for processes in /proc")


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
    assert "--dask-address does not go with --workers" in capsys.readouterr().err


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

    def put_both(place: Path, content: bytes) -> None:
        put_bytes(place, content)
        if place == shard.rejects_file(builder.out):
            data.write_bytes((was := data.read_bytes())[:-1] + bytes([was[-1] ^ 1]))

    with monkeypatch.context() as patch:
        patch.setattr("hmr_skel.data.schema.put_bytes", put_both)
        with pytest.raises(UserError, match="another process wrote its files") as caught:
            builder.build(0, progress=False)
    assert may_pass(caught.value)  # the flow tries again
    assert not shard.meta_file(builder.out).exists()
    assert not builder.build(0, progress=False).skipped


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
    words = "no worker for 0 s, with shards 3, 5 not finished.* run this again"
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
