"""The flow, really run: on a temporary server, as `make dataset` does."""

import json
import shutil
import signal
import sqlite3
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hmr_skel import load_shards
from tests.flows.conftest import ROWS, write_small
from tests.flows.processes import hmr_skel, processes_with, run, running

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def dataset(manifest: Path, *more: str) -> list[str]:
    out = manifest.parent / "out"
    return hmr_skel("dataset", "--manifest", str(manifest), "--out", str(out), "--device", "cpu", *more)


@linux
@pytest.mark.slow
def test_a_failing_shard_names_itself_when_the_others_are_done(open_body_dir: Path, small_labels, tmp_path: Path):
    bodies = tmp_path / "bodies"
    shutil.copytree(open_body_dir, bodies, ignore=shutil.ignore_patterns("SMPL_FEMALE.pkl"))
    genders = np.full(ROWS, "n")
    genders[14] = "f"  # in shard 2
    manifest = write_small(tmp_path, bodies, small_labels, gender=genders)

    failed = run(dataset(manifest, "--json"), tmp_path)
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout
    assert "error: 1 of 4 shards failed" in failed.stderr
    assert "shard 2: " in failed.stderr
    assert "SMPL_FEMALE.pkl" in failed.stderr
    summary = json.loads(failed.stdout.splitlines()[-1])
    assert (summary["built"], list(summary["failed"])) == ([0, 1, 3], ["2"])
    assert load_shards(tmp_path / "out").paths[-1].name == "train-00003-of-00004.parquet"

    shutil.copy(open_body_dir / "SMPL_FEMALE.pkl", bodies)
    mended = run(dataset(manifest), tmp_path)
    assert mended.returncode == 0, mended.stderr
    # The new model file is part of what every shard depends on, so all are built again; a third run builds none.
    third = run(dataset(manifest, "--json"), tmp_path)
    summary = json.loads(third.stdout.splitlines()[-1])
    assert (summary["skipped"], summary["built"]) == ([0, 1, 2, 3], [])
    assert summary["kept"] + summary["rejected"] == summary["rows"] == ROWS
    assert "4 were complete already" in third.stdout

    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
        keys = {key for (key,) in database.execute("select key from artifact")}
        states = database.execute("select state_type from flow_run order by created").fetchall()
    assert keys == {"build-progress", "build-shards", "build-summary"}
    assert [state for (state,) in states] == ["FAILED", "COMPLETED", "COMPLETED"]
    assert processes_with(tmp_path) == []


@linux
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(small: Path, tmp_path: Path, signum):
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
    assert processes_with(tmp_path) == []
