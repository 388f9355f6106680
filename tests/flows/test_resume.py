"""Killed at any moment and started again, a build comes to the same dataset."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.shard import Builder
from hmr_skel.data.manifest import load_manifest
from tests.flows.processes import ROOT, environment
from tests.flows.test_shard import assert_equal_columns

BUILD_ALL = """
import sys
from flows.shard import Builder
builder = Builder.open(sys.argv[1], sys.argv[2], "cpu", quiet=True)
print("opened", flush=True)
for index in range(len(builder.shards)):
    print(builder.build(index, progress=False).line(), flush=True)
"""


def start(manifest: Path, out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD_ALL, str(manifest), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(manifest.parent),
        cwd=ROOT,
    )


@pytest.mark.slow
def test_killed_and_started_again(small: Path, tmp_path: Path):
    reference = Builder(load_manifest(small), tmp_path / "reference", "cpu", quiet=True)
    begin = time.monotonic()
    for index in range(4):
        reference.build(index, progress=False)
    seconds = time.monotonic() - begin

    rng = random.Random(0)
    out = tmp_path / "out"
    for _ in range(4):
        child = start(small, out)
        assert child.stdout is not None
        child.stdout.readline()  # opened: kill it at work, not while it imports torch
        time.sleep(rng.uniform(0, seconds))
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        child.stdout.close()
    child = start(small, out)
    text, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    assert len(text.splitlines()) == 5
    assert_equal_columns(tmp_path / "reference", out)
    for kind in ("rejects", "meta"):
        names = [sorted(path.name for path in (base / kind).iterdir()) for base in (out, tmp_path / "reference")]
        assert names[0] == names[1]
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_killed_while_writing(small: Path, tmp_path: Path):
    """The temporary file that a kill leaves goes with the next build of the same shard, and no other does."""
    manifest = load_manifest(small)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(timeout=30)
    Builder(manifest, tmp_path / "out", "cpu", quiet=True).build(0, progress=False)
    host = _temporary_name(tmp_path)
    data = tmp_path / "out" / "data"
    left = data / f".train-00001-of-00004.parquet.{host}-{dead.pid}-0123abcd.tmp"
    at_work = data / f".train-00001-of-00004.parquet.{host}-{os.getpid()}-0123abcd.tmp"
    others = data / f".train-00002-of-00004.parquet.{host}-{dead.pid}-0123abcd.tmp"
    for path in (left, at_work, others):
        path.write_bytes(b"half")
    Builder(manifest, tmp_path / "out", "cpu", quiet=True).build(1, progress=False)
    assert [path.exists() for path in (left, at_work, others)] == [False, True, True]


def _temporary_name(folder: Path) -> str:
    """This machine's name as it stands in temporary names."""
    from hmr_skel.data.atomic import replacing

    with replacing(folder / "probe") as temporary:
        temporary.write_text("")
    return temporary.name.removeprefix(".probe.").rsplit("-", 2)[0]


@pytest.mark.slow
def test_two_processes_on_the_same_shards(small: Path, tmp_path: Path):
    children = [start(small, tmp_path / "out") for _ in range(2)]
    for child in children:
        child.communicate(timeout=240)
        assert child.returncode == 0
    reference = Builder(load_manifest(small), tmp_path / "reference", "cpu", quiet=True)
    for index in range(4):
        reference.build(index, progress=False)
    assert_equal_columns(tmp_path / "reference", tmp_path / "out")
