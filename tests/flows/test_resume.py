"""Killed at any moment and started again, a build comes to the same dataset."""

import shutil
from pathlib import Path
from random import Random

import pytest

from flows.shard import Builder
from tools.drill.faults import Cost, Result, Setting, cost, faults_table, finish
from tools.drill.injection import start_worker
from tools.drill.small import SHARDS

NOTHING_LOST = Cost(lost=0, duplicated=0, half_files=0, equal=True)


@pytest.fixture
def setting(finished: Builder) -> Setting:
    """The dataset as it should be, and how long a build of it takes, about."""
    return Setting(finished.out.parent / "drill.toml", finished.local, SHARDS, seconds=0.5)


@pytest.mark.slow
def test_killed_and_started_again(setting: Setting, tmp_path: Path):
    out, rng = tmp_path / "out", Random(0)
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


def test_what_a_fault_cost_is_seen(setting: Setting, tmp_path: Path):
    out = shutil.copytree(setting.undisturbed, tmp_path / "out")
    assert cost(out, setting.undisturbed, rounding=True) == cost(out, setting.undisturbed) == NOTHING_LOST
    data = sorted((out / "data").glob("*.parquet"))
    shutil.copy(data[0], data[1])
    found = cost(out, setting.undisturbed)
    kept = 5  # rows of shard 0 of which one is rejected
    assert (found.lost, found.duplicated, found.equal) == (6, kept, False)
    data[1].unlink()
    (out / "data" / ".x.tmp").write_bytes(b"")
    assert cost(out, setting.undisturbed) == Cost(lost=6, duplicated=0, half_files=2, equal=False)
    assert not Result("x", 1, cost(out, setting.undisturbed)).passed
