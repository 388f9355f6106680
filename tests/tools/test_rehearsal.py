"""The rehearsal at the paper's size, at another size: its steps in this process, and what is measured of one."""

import sys
from pathlib import Path

import pytest

from flows.shard import Builder
from flows.verify import verify_dataset
from tools import rehearsal
from tools.rehearsal import STEPS, Scene, measured


def test_copies_stand_in_for_shards(tmp_path: Path, open_body_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "SAMPLES", 50)
    monkeypatch.setattr(rehearsal, "BASE_ROWS", 7)
    (tmp_path / "body_models").symlink_to(open_body_dir)
    scene = Scene(tmp_path, rows=96, shards=12, really=2)
    assert STEPS["make_label_files"](scene) == "96 rows in 3 files"
    assert STEPS["plan"](scene) == "12 shards, 12 to build"
    builder = Builder.open(scene.manifest, scene.out, "cpu", quiet=True)
    for index in range(scene.really):
        builder.build(index, progress=False)
    assert STEPS["fill"](scene) == "10 shards copied"
    assert STEPS["plan"](scene) == "12 shards, 0 to build"
    assert verify_dataset(scene.out, Builder.open(scene.manifest, scene.out), sample=0).problems == []
    assert STEPS["load"](scene).startswith("96 rows; source1/00000016; v2v mean ")
    assert STEPS["open_training"](scene) == "80 male rows"
    assert "; 50 samples, " in STEPS["train_samples"](scene)


@pytest.mark.skipif(sys.platform != "linux", reason="allowed: reads /proc")
def test_what_is_measured(tmp_path: Path):
    scene = Scene(tmp_path, 0, 0, 0)
    code = "import sys, time; block = bytearray(64 * 2**20); print('done', flush=True); time.sleep(0.3); sys.exit(3)"
    done = measured(scene, [sys.executable, "-c", code])
    assert (done.status, done.said) == (3, "done")
    assert 64 < done.own_mb <= done.all_mb < 150
    killed = measured(scene, [sys.executable, "-c", "import time; time.sleep(600)"], kill_after_s=0.1)
    assert killed.status == -9
