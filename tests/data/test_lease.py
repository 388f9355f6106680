"""Leases: which build has which shard in hand."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hmr_skel.data import lease
from hmr_skel.data.atomic import host
from hmr_skel.data.lease import InHand, Lease
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import Place, put_bytes
from tests.object_store import ObjectStore

SHARD, OTHER = Shard(1, 4, (), False), Shard(2, 4, (), False)
NAME = "00001-of-00004.json"


@pytest.fixture(params=["folder", "store"])
def out(request: pytest.FixtureRequest, tmp_path: Path, object_store: ObjectStore) -> Place:
    return tmp_path / "out" if request.param == "folder" else object_store.place(f"lease-{tmp_path.name}")


def leave(out: Place, **changes: object) -> None:
    """The lease of another build, on another machine."""
    holder = {"host": "elsewhere", "process": 7, "build": "theirs", "lease": "x"} | changes
    put_bytes(out / ".leases" / NAME, json.dumps(holder).encode())


def test_of_two_builds_one_has_the_shard(out: Place):
    with Lease(out, SHARD, "one") as held:
        with pytest.raises(
            InHand, match=f"shard 1 is in the hands of process {os.getpid()} on {host()}. Run this again"
        ):
            Lease(out, SHARD, "two").__enter__()
        with Lease(out, OTHER, "two"):
            held.check()
    assert list((out / ".leases").iterdir()) == []
    with pytest.raises(KeyboardInterrupt), Lease(out, SHARD, "two"):
        raise KeyboardInterrupt
    assert list((out / ".leases").iterdir()) == []


def test_another_machine_has_it_until_it_is_silent(out: Place, monkeypatch: pytest.MonkeyPatch):
    """By the folder's clock. That of this machine may be hours ahead."""
    leave(out)
    later = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(InHand, match="process 7 on elsewhere") as caught:
        Lease(out, SHARD, "ours").__enter__()
    again = pickle.loads(pickle.dumps(caught.value))  # as Dask sends it
    assert (str(again), again.holder) == (str(caught.value), "process 7 on elsewhere")
    monkeypatch.setattr(lease, "SILENT_S", -60.0)
    with Lease(out, SHARD, "ours"):
        pass


def test_a_process_of_this_machine_that_ended_has_nothing(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(timeout=300)
    leave(tmp_path, host=host(), process=dead.pid)
    with Lease(tmp_path, SHARD, "ours"):
        pass
    for changes in ({"host": "another"}, {"process": os.getppid()}):  # the number of another process there
        leave(tmp_path, **{"host": host(), "process": dead.pid} | changes)
        with pytest.raises(InHand):
            Lease(tmp_path, SHARD, "ours").__enter__()


def test_another_worker_of_the_same_run_takes_over(tmp_path: Path):
    """The scheduler hands a shard out again when its worker is gone. Where that lives after all, it writes nothing."""
    with Lease(tmp_path, SHARD, "run") as first:
        with Lease(tmp_path, SHARD, "run") as second:
            second.check()
            with pytest.raises(InHand):
                first.check()
        with pytest.raises(InHand, match="this one was silent"):
            first.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_a_lease_that_says_nothing(tmp_path: Path, content: bytes):
    """Such as one that is being written."""
    put_bytes(tmp_path / ".leases" / NAME, content)
    with pytest.raises(InHand, match="in the hands of another build"):
        Lease(tmp_path, SHARD, "ours").__enter__()
    os.utime(tmp_path / ".leases" / NAME, (0, 0))
    with Lease(tmp_path, SHARD, "ours"):
        pass


def test_it_is_touched_while_the_shard_is_built(out: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    touched = threading.Event()

    def tell(function: Callable[..., None]) -> Callable[..., None]:
        return lambda *args: (function(*args), touched.set())[0]

    monkeypatch.setattr(lease, "put_bytes", tell(put_bytes))
    monkeypatch.setattr(os, "utime", tell(os.utime))
    with Lease(out, SHARD, "ours") as held:
        assert touched.wait(300)
        held.check()
    assert list((out / ".leases").iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-1"]


def test_who_lost_the_lease_writes_nothing_and_leaves_it_to_the_other(out: Place, monkeypatch: pytest.MonkeyPatch):
    """The machine was asleep, and another build has taken the shard over."""
    with Lease(out, SHARD, "ours") as held:
        leave(out)
        monkeypatch.setattr(lease, "BEAT_S", 0.01)
        held.touch()  # it ends by itself
        with pytest.raises(InHand, match="process 7 on elsewhere"):
            held.check()
    assert b"theirs" in (out / ".leases" / NAME).read_bytes()
