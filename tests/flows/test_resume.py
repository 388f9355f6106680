"""Killed at any moment and started again, a build comes to the same dataset."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from flows.shard import Builder
from hmr_skel.data.atomic import host, temporary_name
from hmr_skel.data.manifest import load_manifest
from tools.drill.damage import Cost, cost
from tools.drill.faults import Result, Setting, faults_table, finish, two_builds
from tools.drill.small import SHARDS, make_small
from tools.drill.worker import start_worker

NOTHING_LOST = Cost(lost=0, duplicated=0, half_files=0, equal=True)


@pytest.fixture(scope="module")
def setting(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A dataset as it should be; read only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    builder = Builder.open(make_small(folder, open_body_dir), folder / "out", "cpu", quiet=True)
    builder.load_models(range(SHARDS))
    start = time.monotonic()
    for index in range(SHARDS):
        builder.build(index, progress=False)
    return Setting(folder / "drill.toml", builder.out, SHARDS, time.monotonic() - start)


@pytest.mark.slow
def test_killed_and_started_again(setting: Setting, tmp_path: Path):
    out, rng = tmp_path / "out", Random(0)
    for _ in range(2):
        worker, opened = start_worker(setting.manifest, out, log=tmp_path / "log")
        assert opened.poll(120)  # kill it at work, not while it loads models
        worker.join(rng.uniform(0, setting.seconds))
        worker.kill()
        worker.join(30)
    before = [(path, path.stat().st_mtime_ns) for path in (out / "meta").glob("*.json")]
    result = finish("kill", setting, out)
    assert (result.cost, result.notes, result.passed) == (NOTHING_LOST, (), True)
    assert [(path, path.stat().st_mtime_ns) for path, _ in before] == before  # complete shards are not built again
    assert faults_table([result]).splitlines()[-1].split() == ["all", "1", "0", "0", "0", "100", "%"]


@pytest.mark.slow
def test_two_builds_of_the_same_shards(setting: Setting, tmp_path: Path):
    """Each shard is built once."""
    (result,) = two_builds(setting, tmp_path, Random(0), 1)
    assert (result.cost, result.notes) == (NOTHING_LOST, ())


def test_what_killed_processes_left_goes_with_the_next_start(small: Path, tmp_path: Path):
    manifest, data = load_manifest(small), tmp_path / "out" / "data"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(timeout=30)
    data.mkdir(parents=True)
    left = data / f".train-00001-of-00004.parquet.{host()}-{dead.pid}-0123abcd.tmp"
    card = data.parent / f".README.md.{host()}-{dead.pid}-0123abcd.tmp"
    at_work = temporary_name(data / "train-00001-of-00004.parquet")
    elsewhere = data / f".train-00001-of-00004.parquet.another-{dead.pid}-0123abcd.tmp"
    for path in (left, card, at_work, elsewhere):
        path.write_bytes(b"half")
    Builder(manifest, tmp_path / "out", "cpu", quiet=True).load_models([0])  # there is work to do
    assert [path.exists() for path in (left, card, at_work, elsewhere)] == [False, False, True, True]


def test_what_a_fault_cost_is_seen(setting: Setting, tmp_path: Path):
    out = shutil.copytree(setting.undisturbed, tmp_path / "out")
    assert cost(out, setting.undisturbed) == NOTHING_LOST
    assert cost(out, setting.undisturbed, rounding=True) == NOTHING_LOST
    data = sorted((out / "data").glob("*.parquet"))
    shutil.copy(data[0], data[1])
    found = cost(out, setting.undisturbed)
    kept = 5  # rows of shard 0 of which one is rejected
    assert (found.lost, found.duplicated, found.equal) == (6, kept, False)
    data[1].unlink()
    (out / "data" / ".x.tmp").write_bytes(b"")
    assert cost(out, setting.undisturbed) == Cost(lost=6, duplicated=0, half_files=2, equal=False)
    assert cost(tmp_path / "nothing", setting.undisturbed).lost == 24
    assert not Result("x", 1, cost(out, setting.undisturbed)).passed
