"""What a user types one after the other, on files that the commands themselves wrote: fit, report, export, train,
evaluate, verify."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hmr_skel import load_shards
from hmr_skel.cli import main
from tests.built_dataset import BAD_ROW, ROWS, ROWS_PER_SHARD, SHARDS, BuiltDataset
from tests.conftest import no_shape_checks
from tests.train.small_run import CHANGES


@pytest.fixture(scope="module")
def trained(built_dataset: BuiltDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training run on the built shards and images."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    changes = [word for change in (*CHANGES, "epochs=2", "learning_rate=3e-4") for word in ("--set", change)]
    where = ["--manifest", str(built_dataset.manifest), "--data", str(built_dataset.data), "--out", str(out)]
    with no_shape_checks():
        assert main(["train", *where, *changes, "--workers", "0", "--device", "cpu", "--log-every", "1", "-q"]) == 0
    return out


def text_of(page: str) -> str:
    """What a page shows, in one line."""
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append
    parser.feed(re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))
    return " ".join(" ".join(words).split())


def test_fit(built_dataset: BuiltDataset, capsys: pytest.CaptureFixture[str]):
    rows = load_shards(built_dataset.data)
    assert sorted([*rows["source_row"].tolist(), BAD_ROW]) == list(range(ROWS))
    assert len(load_shards(built_dataset.data, split="test")) == ROWS_PER_SHARD
    assert rows["v2v_mm"].max() < 20
    before = {path: path.stat().st_mtime_ns for path in (built_dataset.data / "data").iterdir()}
    where = ["--manifest", str(built_dataset.manifest), "--out", str(built_dataset.data)]
    assert main(["fit", "--shard", "01", *where, "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    assert "complete and up to date, not fitted again" in text[0]
    report = json.loads(last)
    assert (report["shards"], report["kept"], report["reasons"]) == (SHARDS, ROWS_PER_SHARD - 1, {"non_finite": 1})
    assert {path: path.stat().st_mtime_ns for path in (built_dataset.data / "data").iterdir()} == before


def test_report(built_dataset: BuiltDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "report.html"
    command = ["report", str(built_dataset.data), "--manifest", str(built_dataset.manifest), "-o", str(page), "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = load_shards(built_dataset.data)
    assert (said["rows"], said["rejected"]) == (ROWS - 1, 1)
    assert said["v2v_mm"]["mean"] == pytest.approx(rows["v2v_mm"].mean(), abs=1e-3)
    text = text_of(page.read_text())
    for words in (
        "47 rows kept of 48 read", "non finite 1 1 of open smpl_betas[4] is inf", "train-00002-of-00003.parquet test",
        "recipe shape convert, root frozen, limits anatomical made by hmr-skel", "knee_angle_r",
    ):  # fmt: skip
        assert words in text, words


def test_export(built_dataset: BuiltDataset, tmp_path: Path):
    assert main(["export", str(built_dataset.data), "--format", "skel-cf", "-o", str(tmp_path), "-q"]) == 0
    rows = load_shards(built_dataset.data, split="train")
    with np.load(tmp_path / "open-release-skel.npz", allow_pickle=False) as labels:
        assert labels["imgname"].tolist() == rows["imgname"].tolist()
        for key, column in (
            ("skel_poses", "skel_q"), ("skel_betas", "skel_betas"), ("skel_trans", "skel_transl"),
            ("pose_cam", "smpl_pose"), ("shape", "smpl_betas"), ("trans_cam", "smpl_transl"), ("center", "center"),
            ("cam_int", "cam_int"), ("gtkps", "keypoints_2d"), ("keypoints3d", "keypoints_3d"),
        ):  # fmt: skip
            np.testing.assert_array_equal(labels[key], rows[column], column)


def test_train(trained: Path):
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 16  # two passes over 31 rows, four at a time
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-8:]) < 0.97 * np.mean(losses[:8])


def test_evaluate(built_dataset: BuiltDataset, trained: Path, capsys: pytest.CaptureFixture[str]):
    where = ["--manifest", str(built_dataset.manifest), "--data", str(built_dataset.data), "--device", "cpu"]
    assert main(["evaluate", *where, "--json", str(trained)]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["rows"], report["left_out"]) == (ROWS_PER_SHARD, 0)
    for stage in ("mean_pose", "coarse", "final"):
        errors = report[stage]
        assert set(errors) >= {"mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "joint_set"}
        assert 0 < errors["pa_mpjpe_mm"] < errors["mpjpe_mm"] < 2000


def verify(built_dataset: BuiltDataset, data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    """Exit status and report of `verify`, with some rows fitted again."""
    command = ["verify", str(data), "--manifest", str(built_dataset.manifest), "--sample", "6", "--device", "cpu"]
    status = main([*command, "--json", "-q"])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_verify(built_dataset: BuiltDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert verify(built_dataset, built_dataset.data, capsys) == (
        0, {"shards": SHARDS, "sound": SHARDS, "not_built": [], "refitted": 6, "problems": [], "moved": 0, "built": 0}
    )  # fmt: skip
    data = copy_shards(built_dataset, tmp_path)
    file = data / "data" / "train-00001-of-00003.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    status, found = verify(built_dataset, data, capsys)
    assert (status, found["sound"]) == (1, SHARDS - 1)
    assert [re.sub(".*/", "", text) for text in found["problems"]] == [
        "train-00001-of-00003.parquet: not the bytes that were written. Build the shard again."
    ]


def copy_shards(built_dataset: BuiltDataset, folder: Path) -> Path:
    """The dataset's shards, to be spoiled."""
    for name in ("data", "rejects", "meta"):
        shutil.copytree(built_dataset.data / name, folder / name)
    return folder
