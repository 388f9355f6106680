"""One shard, built for real: rows in, Parquet, rejects and meta out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.fitter import _by_increments
from flows.shard import Builder, build_shard
from hmr_skel import load_shards
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.shards import parse_shards
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from tests.flows.conftest import BAD_ROW, ROWS, ROWS_PER_SHARD, write_small


def columns(out: Path) -> dict[str, np.ndarray]:
    """All columns of all shards of a dataset."""
    shards = load_shards(out)
    return {name: shards[name] for name in shards.columns}


def assert_equal_columns(a: Path, b: Path) -> None:
    """Every column of every shard is equal, bit for bit (NaN equals NaN)."""
    first, second = columns(a), columns(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_shard_is_built_and_then_skipped(small: Path, tmp_path: Path):
    manifest = load_manifest(small)
    report = build_shard(manifest, 1, tmp_path / "out", device="cpu", progress=False)
    assert (report.shard, report.shards, report.rows) == (1, 4, ROWS_PER_SHARD)
    assert (report.kept, report.rejected, report.reasons) == (ROWS_PER_SHARD - 1, 1, {"non_finite": 1})
    assert report.limit_violations == 0
    assert not report.skipped
    assert 0 < report.v2v_mm["mean"] <= report.v2v_mm["p99"] <= report.v2v_mm["max"] < 60
    json.dumps(report.as_dict())

    rows = load_shards(report.file)
    assert rows["source_row"].tolist() == [6, 7, 9, 10, 11]
    assert set(rows["skel_gender"]) == {"male"}
    assert set(rows["keypoints_3d_source"]) == {"smpl_mesh"}
    assert np.isfinite(rows["skel_q"]).all()
    rejects = load_shards(tmp_path / "out/rejects/rejects-00001-of-00004.parquet")
    assert rejects["source_row"].tolist() == [BAD_ROW]
    meta = json.loads((tmp_path / "out/meta/shard-00001-of-00004.json").read_text())
    assert meta["v2v_mm"] == report.v2v_mm
    seconds = dict(report.seconds)
    total, wait = seconds.pop("total"), seconds.pop("wait")
    assert seconds.keys() == {"load", "read", "check", "fit", "write"}
    assert sum(seconds.values()) == pytest.approx(total)
    assert (seconds["load"] > 0, seconds["fit"] > 0, 0 <= wait < total) == (True, True, True)
    assert (report.iterations >= 1, report.starts >= 1, report.batch >= 1) == (True, True, True)
    assert (tmp_path / "out/README.md").exists()

    again = build_shard(manifest, 1, tmp_path / "out", device="cpu", progress=False)
    assert again == replace(report, skipped=True)


def test_keypoints_computed_from_the_mesh_project_onto_the_labels(small: Path, tmp_path: Path):
    """The default labels' 2D keypoints are projections of the same points, so ours must land on them."""
    report = build_shard(load_manifest(small), 0, tmp_path / "out", device="cpu", progress=False)
    rows = load_shards(report.file)
    points = rows["keypoints_3d"][..., :3] @ rows["cam_int"].swapaxes(-1, -2)
    projected = points[..., :2] / points[..., 2:]
    there = rows["keypoints_2d"][..., 2] > 0
    assert there.mean() > 0.5
    np.testing.assert_allclose(projected[there], rows["keypoints_2d"][there][:, :2], atol=0.1)


def test_rebuilding_gives_equal_columns(small: Path, tmp_path: Path):
    manifest = load_manifest(small)
    for out in ("a", "b"):
        build_shard(manifest, 2, tmp_path / out, device="cpu", progress=False)
    build_shard(manifest, 2, tmp_path / "b", device="cpu", rebuild=True, progress=False)
    assert_equal_columns(tmp_path / "a", tmp_path / "b")


def test_a_changed_label_file_is_noticed(open_body_dir: Path, small_labels, tmp_path: Path):
    manifest = write_small(tmp_path, open_body_dir, small_labels)
    first = build_shard(load_manifest(manifest), 0, tmp_path / "out", device="cpu", progress=False)
    labels = small_labels | {"pose_cam": small_labels["pose_cam"] * np.float32(0.9)}
    write_small(tmp_path, open_body_dir, labels)
    second = build_shard(load_manifest(manifest), 0, tmp_path / "out", device="cpu", progress=False)
    assert not second.skipped
    assert second.v2v_mm != first.v2v_mm


def test_rows_of_each_smpl_gender_keep_their_place(open_body_dir: Path, small_labels, tmp_path: Path):
    """Genders are fitted apart and put back in order: each row equals the row fitted from its own label file."""
    genders = np.array(["m", "f", "n"] * (ROWS // 3))
    mixed = write_small(tmp_path, open_body_dir, small_labels, gender=genders)
    build_shard(load_manifest(mixed), 0, tmp_path / "mixed", device="cpu", progress=False)
    rows = load_shards(tmp_path / "mixed")
    assert rows["smpl_gender"].tolist() == ["male", "female", "neutral"] * 2
    (tmp_path / "female").mkdir()
    female = write_small(tmp_path / "female", open_body_dir, small_labels, gender=np.full(ROWS, "f"))
    build_shard(load_manifest(female), 0, tmp_path / "female/out", device="cpu", progress=False)
    alone = load_shards(tmp_path / "female/out")
    for i in (1, 4):
        np.testing.assert_allclose(rows["skel_q"][i], alone["skel_q"][i], atol=1e-4)
        assert not np.allclose(rows["skel_q"][i - 1], alone["skel_q"][i - 1], atol=1e-4)


def test_skel_rows_pass_through_beside_fitted_ones(open_body_dir: Path, small_labels, tmp_path: Path):
    manifest = write_small(tmp_path, open_body_dir, small_labels)
    given = {
        "imgname": np.array(["S1_1", "S1_2"]),
        "center": np.full((2, 2), 300, np.float32),
        "scale": np.ones(2, np.float32),
        "orig_poses": np.full((2, 46), 0.1, np.float32),
        "orig_betas": np.zeros((2, 10), np.float32),
    }
    np.savez(tmp_path / "given.npz", **given)
    with open(manifest, "a") as file:
        file.write(f'\n[[sources]]\nname = "given"\nformat = "hsmr"\nfile = "{tmp_path / "given.npz"}"\n')
    text = manifest.read_text().replace(f"rows_per_shard = {ROWS_PER_SHARD}", "rows_per_shard = 22")
    manifest.write_text(text)
    report = build_shard(load_manifest(manifest), 1, tmp_path / "out", device="cpu", progress=False)
    rows = load_shards(report.file)
    assert rows["source"].tolist() == ["walk", "walk", "given", "given"]
    assert rows["status"].tolist()[2:] == ["given", "given"]
    np.testing.assert_array_equal(rows["skel_q"][2:], given["orig_poses"])
    assert not rows.valid("v2v_mm")[2:].any()
    assert rows.valid("v2v_mm")[:2].all()


def test_only_skel_rows(open_body_dir: Path, tmp_path: Path):
    """No row to fit: no error figures, and no body model is needed."""
    np.savez(
        tmp_path / "given.npz",
        imgname=np.array(["a"]),
        center=np.ones((1, 2), np.float32),
        scale=np.ones(1, np.float32),
        orig_poses=np.zeros((1, 46), np.float32),
        orig_betas=np.zeros((1, 10), np.float32),
    )
    (tmp_path / "m.toml").write_text(
        f'name = "g"\nskel_gender = "male"\nrows_per_shard = 5\n'
        f'[body_models]\nkind = "files"\npath = "{tmp_path}/none"\n'
        f'[[sources]]\nname = "given"\nformat = "hsmr"\nfile = "{tmp_path}/given.npz"\n'
    )
    report = build_shard(load_manifest(tmp_path / "m.toml"), 0, tmp_path / "out", progress=False)
    assert (report.kept, report.v2v_mm, report.limit_violations) == (1, None, 0)
    assert "no row was fitted" in report.text()


def test_another_gender_is_another_fit(small: Path, tmp_path: Path):
    manifest = load_manifest(small)
    best = Builder(replace(manifest, skel_gender="best"), tmp_path / "best", "cpu", quiet=True).build(0, progress=False)
    male = Builder(manifest, tmp_path / "male", "cpu", quiet=True).build(0, progress=False)
    assert best.v2v_mm["mean"] <= male.v2v_mm["mean"] + 1e-6
    assert set(load_shards(best.file)["skel_gender"]) <= {"male", "female"}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("7", [7]), ("07", [7]), ("08", [8]), ("0-3,7", [0, 1, 2, 3, 7]), ("3, 1", [1, 3]), ("2-2,2", [2])],
)
def test_shard_numbers_are_decimal(text, numbers):
    assert parse_shards(text) == numbers


@pytest.mark.parametrize("text", ["", "x", "-1", "3-1", "0-999999999", "1,,2", "0x7", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_what_names_no_shard(text):
    with pytest.raises(UserError, match=r"shards|backwards"):
        parse_shards(text)


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match="device"):
        resolve_device(name)


def test_progress_counts_every_row_once():
    """The fit tells rows done so far, once over for each gender; a progress bar wants rows just done."""
    steps: list[int] = []
    tell = _by_increments(steps.append)
    for done in (512, 1024, 1100, 512, 1024, 1100):
        tell(done)
    assert steps == [512, 512, 76, 512, 512, 76]


def test_a_bad_model_file_shows_before_any_work(open_body_dir: Path, small_labels, tmp_path: Path):
    models = shutil.copytree(open_body_dir, tmp_path / "models")
    manifest = write_small(tmp_path, models, small_labels)
    build_shard(load_manifest(manifest), 0, tmp_path / "out", device="cpu", progress=False)
    Builder.open(manifest, tmp_path / "out", "cpu").load_models([0])
    content = (models / "skel_male.pkl").read_bytes()
    (models / "skel_male.pkl").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read as a model file"):
        Builder.open(manifest, tmp_path / "out", "cpu").load_models([0])
    (models / "SMPL_to_J19.pkl").unlink()
    with pytest.raises(UserError, match="no body model"):
        Builder.open(manifest, tmp_path / "out", "cpu")
