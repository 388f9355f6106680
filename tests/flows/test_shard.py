"""One shard, built for real: rows in, Parquet, rejects and meta out."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from flows.report import ShardReport
from flows.shard import Builder
from hmr_skel import load_shards
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.shards import parse_shards
from hmr_skel.errors import UserError
from tests.flows.conftest import BAD_ROW, ROWS, ROWS_PER_SHARD, write_small


def assert_equal_columns(a: Path, b: Path) -> None:
    """Every column of every shard is equal, bit for bit (NaN equals NaN)."""
    first, second = load_shards(a), load_shards(b)
    assert first.columns == second.columns
    for name in first.columns:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def build_shard(manifest: Path, index: int, out: Path, **options: bool) -> ShardReport:
    return Builder.open(manifest, out, "cpu", quiet=True).build(index, progress=False, **options)


def test_a_shard_is_built_then_skipped_then_built_again(small: Path, tmp_path: Path):
    out = tmp_path / "out"
    report = build_shard(small, 1, out)
    assert (report.shard, report.shards, report.rows) == (1, 4, ROWS_PER_SHARD)
    assert (report.kept, report.rejected, report.reasons) == (ROWS_PER_SHARD - 1, 1, {"non_finite": 1})
    assert (report.limit_violations, report.skipped) == (0, False)
    assert 0 < report.v2v_mm["mean"] <= report.v2v_mm["p99"] <= report.v2v_mm["max"] < report.v2v_max_mm["max"] < 200
    json.dumps(asdict(report))

    rows = load_shards(report.file)
    assert rows["source_row"].tolist() == [6, 7, 9, 10, 11]
    assert set(rows["skel_gender"]) == {"male"}
    assert set(rows["keypoints_3d_source"]) == {"smpl_mesh"}
    # The labels' 2D keypoints are projections of the same points of the mesh, so ours must land on them.
    points = rows["keypoints_3d"][..., :3] @ rows["cam_int"].swapaxes(-1, -2)
    there = rows["keypoints_2d"][..., 2] > 0
    assert there.mean() > 0.5
    projected = points[..., :2] / points[..., 2:]
    np.testing.assert_allclose(projected[there], rows["keypoints_2d"][there][:, :2], atol=0.1)
    rejects = load_shards(out / "rejects/rejects-00001-of-00004.parquet")
    assert rejects["source_row"].tolist() == [BAD_ROW]
    meta = json.loads((out / "meta/shard-00001-of-00004.json").read_text())
    assert meta["v2v_mm"] == report.v2v_mm
    total = meta["seconds"].pop("total")
    assert (sorted(meta["seconds"]), sum(meta["seconds"].values())) == (["fit", "read", "write"], pytest.approx(total))

    assert build_shard(small, 1, out) == replace(report, skipped=True)
    before = shutil.copytree(out, tmp_path / "before")
    assert not build_shard(small, 1, out, rebuild=True).skipped
    assert_equal_columns(out, before)


def test_rows_of_each_smpl_gender_keep_their_place(open_body_dir: Path, small_labels, tmp_path: Path):
    """Genders are fitted apart and put back in order: each row equals the row fitted from its own label file."""
    genders = np.array(["m", "f", "n"] * (ROWS // 3))
    mixed = write_small(tmp_path, open_body_dir, small_labels, gender=genders)
    build_shard(mixed, 0, tmp_path / "mixed")
    rows = load_shards(tmp_path / "mixed")
    assert rows["smpl_gender"].tolist() == ["male", "female", "neutral"] * 2
    (tmp_path / "female").mkdir()
    female = write_small(tmp_path / "female", open_body_dir, small_labels, gender=np.full(ROWS, "f"))
    build_shard(female, 0, tmp_path / "female/out")
    alone = load_shards(tmp_path / "female/out")
    for i in (1, 4):
        np.testing.assert_allclose(rows["skel_q"][i], alone["skel_q"][i], atol=1e-4)
        assert not np.allclose(rows["skel_q"][i - 1], alone["skel_q"][i - 1], atol=1e-4)


GIVEN = {
    "imgname": np.array(["S1_1", "S1_2"]),
    "center": np.full((2, 2), 300, np.float32),
    "scale": np.ones(2, np.float32),
    "orig_poses": np.full((2, 46), 0.1, np.float32),
    "orig_betas": np.zeros((2, 10), np.float32),
}
"""A label file that holds SKEL."""


def test_skel_rows_pass_through_beside_fitted_ones(open_body_dir: Path, small_labels, tmp_path: Path):
    manifest = write_small(tmp_path, open_body_dir, small_labels)
    np.savez(tmp_path / "given.npz", **GIVEN)
    text = manifest.read_text().replace(f"rows_per_shard = {ROWS_PER_SHARD}", "rows_per_shard = 22")
    manifest.write_text(f'{text}\n[[sources]]\nname = "given"\nformat = "hsmr"\nfile = "{tmp_path / "given.npz"}"\n')
    report = build_shard(manifest, 1, tmp_path / "out")
    rows = load_shards(report.file)
    assert rows["source"].tolist() == ["small", "small", "given", "given"]
    assert rows["status"].tolist()[2:] == ["given", "given"]
    np.testing.assert_array_equal(rows["skel_q"][2:], GIVEN["orig_poses"])
    assert rows.valid("v2v_mm").tolist() == [True, True, False, False]


def test_only_skel_rows(tmp_path: Path):
    """No row to fit: no error figures, and no body model is needed."""
    np.savez(tmp_path / "given.npz", **GIVEN)
    (tmp_path / "m.toml").write_text(
        f'name = "g"\nskel_gender = "male"\nrows_per_shard = 5\n'
        f'[body_models]\nkind = "files"\npath = "{tmp_path / "none"}"\n'
        f'[[sources]]\nname = "h36m"\nformat = "hsmr"\nfile = "{tmp_path / "given.npz"}"\n'
    )
    report = build_shard(tmp_path / "m.toml", 0, tmp_path / "out")
    assert (report.kept, report.v2v_mm, report.limit_violations) == (2, None, 0)
    assert "no row was fitted" in report.text()


def test_the_better_of_two_genders(small: Path, tmp_path: Path):
    manifest = load_manifest(small)
    best = Builder(replace(manifest, skel_gender="best"), tmp_path / "best", "cpu", quiet=True).build(0, progress=False)
    male = Builder(manifest, tmp_path / "male", "cpu", quiet=True).build(0, progress=False)
    assert best.v2v_mm["mean"] <= male.v2v_mm["mean"] + 1e-6
    assert set(load_shards(best.file)["skel_gender"]) <= {"male", "female"}


def test_shard_numbers_are_decimal():
    texts = ("07", "08", "0-3,7", "3, 1", "2-2,2")
    assert [parse_shards(text) for text in texts] == [[7], [8], [0, 1, 2, 3, 7], [1, 3], [2]]


@pytest.mark.parametrize("text", ["", "x", "-1", "3-1", "0-999999999", "1,,2", "0x7", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_what_names_no_shard(text):
    with pytest.raises(UserError, match=r"shards|backwards"):
        parse_shards(text)


def test_a_bad_model_file_shows_before_any_work(open_body_dir: Path, small_labels, tmp_path: Path):
    models = shutil.copytree(open_body_dir, tmp_path / "models")
    manifest = write_small(tmp_path, models, small_labels)
    content = (models / "skel_male.pkl").read_bytes()
    (models / "skel_male.pkl").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read as a model file"):
        Builder.open(manifest, tmp_path / "out", "cpu").prepare()
    (models / "SMPL_to_J19.pkl").unlink()
    with pytest.raises(UserError, match="no body model"):
        Builder.open(manifest, tmp_path / "out", "cpu")
