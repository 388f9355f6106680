import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hmr_skel
from hmr_skel.data.annotations import plan_source
from hmr_skel.data.card import write_card
from hmr_skel.data.load import load_shards, open_rows
from hmr_skel.data.schema import SCHEMA, column_shape, shard_table
from hmr_skel.data.selection import SampleConfig, choose_rows
from hmr_skel.data.shards import plan
from hmr_skel.data.storage import put_bytes
from hmr_skel.errors import UserError
from hmr_skel.rows import Reject
from tests.data.conftest import hsmr_arrays, label_arrays, make_manifest
from tests.data.sample_set import fake_fit, write_files

ROWS = {"aic": 5000, "h36m": 1000}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """4 shards: fitted rows and given ones, the third of both; the last held out; row 7 of each shard rejected."""
    folder = tmp_path_factory.mktemp("dataset")
    labels = label_arrays(ROWS["aic"])
    labels["gtkps"][3] = np.nan
    np.savez(folder / "aic.npz", **labels)
    np.savez(folder / "h36m.npz", **hsmr_arrays(ROWS["h36m"]))
    sources = [
        {"name": "aic", "format": "camerahmr", "file": str(folder / "aic.npz"), "description": "a | b"},
        {"name": "h36m", "format": "hsmr", "file": str(folder / "h36m.npz")},
    ]
    manifest = make_manifest(sources, rows_per_shard=2000, held_out_shards=1)
    readers = {source.name: plan_source(source, folder / "cache").open() for source in manifest.sources}
    shards = plan(manifest, ROWS)
    out = folder / "out"
    for shard in shards:
        tables, rejects = [], []
        for piece in shard.pieces:
            rows = readers[piece.source].read(piece.start, piece.stop)
            if not rejects:
                rejects = [Reject(rows.source, int(rows.source_row[7]), rows.imgname[7], "test", "the seventh")]
                rows = rows.take(np.arange(len(rows)) != 7)
            fit = None
            if piece.source == "aic":
                mesh_points = np.full((len(rows), 44, 4), 0.5, np.float32)
                fit = fake_fit(len(rows), seed=shard.index) | {"keypoints_3d": mesh_points}
            tables.append(shard_table(rows, fit))
        write_files(out, shard, pa.concat_tables(tables), rejects)
    write_card(out, manifest, shards)
    return out


def test_columns_are_arrays_over_all_shards(dataset):
    shards = hmr_skel.load_shards(dataset)
    assert len(shards) == 6000 - 3
    assert list(shards.columns) == SCHEMA.names
    for name in SCHEMA.names:
        assert shards[name].shape == (len(shards), *column_shape(SCHEMA.field(name))), name
    fitted = shards["source"] == "aic"
    kept = shards["source_row"][fitted]
    labels = label_arrays(ROWS["aic"])
    np.testing.assert_array_equal(shards["smpl_pose"][fitted], labels["pose_cam"][kept])
    np.testing.assert_array_equal(shards["cam_int"][fitted], labels["cam_int"][kept])
    given = ~fitted
    kept = shards["source_row"][given]
    np.testing.assert_array_equal(shards["skel_q"][given], hsmr_arrays(ROWS["h36m"])["orig_poses"][kept])


def test_null_is_not_annotated(dataset):
    shards = load_shards(dataset)
    fitted = shards["source"] == "aic"
    for name in ("smpl_pose", "smpl_betas", "smpl_gender", "cam_int", "v2v_mm", "iterations", "skel_transl"):
        np.testing.assert_array_equal(shards.valid(name), fitted, name)
    for name in ("skel_q", "skel_betas", "skel_gender", "status", "center", "keypoints_3d"):
        assert shards.valid(name).all(), name
    assert np.flatnonzero(~shards.valid("keypoints_2d")).tolist() == [3]
    assert np.isnan(shards["smpl_pose"][~fitted]).all()
    assert np.isnan(shards["v2v_mm"][~fitted]).all()
    assert (shards["iterations"][~fitted] == -1).all()
    assert set(shards["smpl_gender"][~fitted]) == {None}
    assert set(shards["status"][~fitted]) == {"given"}
    assert set(shards["keypoints_3d_source"][fitted]) == {"smpl_mesh"}
    assert set(shards["keypoints_3d_source"][~fitted]) == {"label"}
    last = shards[-1]
    assert last["smpl_pose"] is None
    assert last["iterations"] is None
    assert last["skel_q"].shape == (46,)
    assert last["keypoints_2d"].shape == (44, 3)


def test_rows_slices_and_lists_agree_with_columns(dataset):
    shards = load_shards(dataset, columns=["v2v_mm", "row_id", "skel_q"])
    assert list(shards[0]) == ["v2v_mm", "row_id", "skel_q"]
    whole = {name: shards[name] for name in shards.columns}
    rng = np.random.default_rng(0)
    picks = [
        slice(None),
        slice(1995, 2003),  # over the end of a file
        slice(5990, None, 3),
        slice(10, 3, -2),
        slice(5, 5),
        rng.integers(0, len(shards), 50),
        np.array([], np.int64),
        [],
        whole["v2v_mm"] > 0.99,
        [-1, 0, 0, 5996],
    ]
    for pick in picks:
        got = shards[pick]
        for name in shards.columns:
            np.testing.assert_array_equal(
                got[name], whole[name][np.array(pick, int) if isinstance(pick, list) else pick], f"{pick} {name}"
            )
    for i in (0, 1998, 1999, 2047, 2048, 5996, -1):
        assert shards[i]["row_id"] == whole["row_id"][i]
        np.testing.assert_array_equal(shards[i]["skel_q"], whole["skel_q"][i])
    with pytest.raises(IndexError):
        shards[len(shards)]
    with pytest.raises(IndexError):
        shards[[0, len(shards)]]


def test_splits_and_chosen_shards(dataset):
    train, test = load_shards(dataset, split="train"), load_shards(dataset, split="test")
    assert (len(train), len(test)) == (3998, 1999)
    assert load_shards(dataset, ["row_id"], shards=[2])["row_id"].tolist() == test["row_id"].tolist()
    assert len(load_shards([dataset / "data" / "train-00001-of-00003.parquet"])) == 1999
    assert len(load_shards(dataset / "data" / "train-00001-of-00003.parquet")) == 1999


def test_in_a_store(dataset, object_store):
    out = object_store.place("open")
    for file in sorted((dataset / "data").iterdir()):
        put_bytes(out / "data" / file.name, file.read_bytes())
    here, there = load_shards(dataset), load_shards(str(out))
    assert [path.name for path in there.paths] == [path.name for path in here.paths]
    before = object_store.sent
    np.testing.assert_array_equal(there["v2v_mm"], here["v2v_mm"])
    size = sum(path.stat().st_size for path in here.paths)
    assert object_store.sent - before < size / 20  # the column alone, and the footers
    for name in ("skel_q", "imgname", "keypoints_2d"):
        np.testing.assert_array_equal(there[name], here[name])
    there = pickle.loads(pickle.dumps(there))
    np.testing.assert_array_equal(there[[5, 2047, 5000]]["skel_betas"], here[[5, 2047, 5000]]["skel_betas"])
    assert there.arrow.to_table(columns=["row_id"]).equals(here.arrow.to_table(columns=["row_id"]))
    assert load_shards(str(there.paths[1]))["row_id"].tolist() == load_shards(here.paths[1])["row_id"].tolist()
    assert len(load_shards(list(there.paths), split="test")) == 1999
    with pytest.raises(UserError, match=r"no shards in s3://bucket/nothing.*Expected s3://bucket/nothing/data/train"):
        load_shards(str(object_store.place("nothing")))
    with pytest.raises(UserError, match=r"no file s3://bucket/open/data/gone"):
        load_shards([out / "data" / "gone.parquet"])
    object_store.refuse = lambda method, path: method == "GET"
    with pytest.raises(UserError, match=r"cannot read s3://bucket/open/data/train-00000.*ACCESS_DENIED"):
        there["scale"]


def test_a_dataset_that_is_in_the_data_folder_is_named(dataset, monkeypatch):
    monkeypatch.setenv("HMR_SKEL_DATA", str(dataset.parent))
    with pytest.raises(UserError, match=rf"no shards in data/{dataset.name}\..* There is one in {dataset}\."):
        load_shards(f"data/{dataset.name}")


def test_errors(dataset, tmp_path):
    file = dataset / "data" / "train-00001-of-00003.parquet"
    for call, words in [
        (lambda: load_shards(dataset, ["v2v"]), r"no column 'v2v' in .*It has: row_id, "),
        (lambda: load_shards(dataset, ["v2v_mm"])["qqq"], r"no column 'qqq' .* It has: v2v_mm"),
        (lambda: load_shards(dataset, ["v2v_mm"]).valid("skel_q"), "no column 'skel_q'"),
        (lambda: load_shards(dataset, shards=[9]), r"no shard 9 in .*: it has 0, 1, 2 of 3"),
        (lambda: load_shards(dataset, split="val"), "unknown split 'val'"),
        (lambda: load_shards(tmp_path), r"no shards in .*hmr-skel fit"),
        (lambda: load_shards([file, tmp_path / "gone.parquet"]), "no file"),
    ]:
        with pytest.raises(UserError, match=words):
            call()
    broken = tmp_path / "data" / "train-00000-of-00003.parquet"
    broken.parent.mkdir()
    broken.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"train-00000-of-00003\.parquet is not a Parquet file .*Build the shard again"):
        load_shards(tmp_path)
    (tmp_path / ".leases").mkdir()  # of the build that makes the first shard
    with pytest.raises(UserError, match=r"meta/shard-00000-of-00003\.json: missing; the shard is unfinished.*or wait"):
        load_shards(tmp_path)
    (broken.parent / "train-00000-of-00005.parquet").touch()
    with pytest.raises(UserError, match="another number of shards than 5"):
        load_shards(tmp_path)


def test_datasets_of_the_first_schema_are_read(dataset, tmp_path):
    """Without how hard limits push, how far bones are turned, and the statuses that tell doubtful rows."""
    now = load_shards(dataset).paths[0]
    (old := tmp_path / now.name).write_bytes(b"")
    columns = pq.read_table(now).drop_columns(["push", "push_dof", "beyond_deg"])
    pq.write_table(columns.replace_schema_metadata({"hmr_skel.schema_version": "1"}), old)
    found = load_shards([old])
    np.testing.assert_array_equal(found["skel_q"], load_shards([now])["skel_q"])
    assert choose_rows(found, SampleConfig(missing_intrinsics="diagonal")).rows.tolist() == list(range(len(columns)))
    with pytest.raises(UserError, match="no column 'push'"):
        load_shards([old], ["push"])


def test_columns_are_those_of_the_contract():
    expected = (
        "row_id source source_row imgname center scale cam_int keypoints_2d keypoints_3d keypoints_3d_source smpl_pose "
        "smpl_betas smpl_transl smpl_gender skel_q skel_betas skel_transl skel_gender v2v_mm v2v_max_mm joint_mm "
        "max_limit_violation_deg push push_dof beyond_deg iterations starts status"
    )
    assert SCHEMA.names == expected.split()
    widths = {"keypoints_2d": 132, "keypoints_3d": 176, "smpl_pose": 72, "smpl_betas": 10, "skel_q": 46, "cam_int": 9}
    for name, width in widths.items():
        assert SCHEMA.field(name).type == pa.list_(pa.float32(), width)


def test_hugging_face_datasets(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(dataset), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3998, "test": 1999}
    expected = load_shards(dataset, split="train")
    row = loaded["train"][3]
    np.testing.assert_array_equal(np.array(row["skel_q"], np.float32), expected["skel_q"][3])
    assert row["keypoints_2d"] is None
    rejects = datasets.load_dataset(str(dataset), "rejects", cache_dir=str(tmp_path))["rejects"]
    assert rejects["reason"] == ["test"] * 3


def test_card(dataset):
    card = (dataset / "README.md").read_text()
    assert "3 of 3 shards, 5,997 rows; 3 rows left out" in card
    assert "shards held out for evaluation (split `test`): 2" in card
    for name in SCHEMA.names:
        assert f"| {name} |" in card
    assert "| aic | camerahmr | a \\| b |" in card


UNPACKED = ("center", "cam_int", "keypoints_2d", "keypoints_3d", "skel_q", "skel_betas", "skel_transl")


@pytest.fixture
def files(sample_set, tmp_path):
    """The shards' files, in a folder of their own."""
    shutil.copytree(sample_set.path / "data", tmp_path / "data")
    return sorted((tmp_path / "data").glob("*.parquet"))


def test_rows_are_what_the_shards_hold(files):
    table = load_shards(files)
    rows = open_rows(table)
    assert len(rows) == len(table) == 36
    for i in [5, 35, 0, 12, 11, 24]:
        row, expected = rows[i], table[np.array([i])]
        for name in UNPACKED:
            np.testing.assert_array_equal(getattr(row, name), expected[name][0], err_msg=name)
        assert (row.source, row.imgname) == (expected["source"][0], expected["imgname"][0])
        assert row.side == expected["scale"].max() * np.float32(200)


def test_the_cache_is_made_once_and_again_for_another_shard(files):
    first = open_rows(load_shards(files))
    stamps = [file.stat().st_mtime_ns for file in first.files]
    assert all(file.parent == files[0].parent.parent / ".cache" / "samples" for file in first.files)
    table = pq.read_table(files[1])
    pq.write_table(table.slice(3), files[1])  # the same name, other rows
    second = open_rows(load_shards(files))
    assert [a == b for a, b in zip(first.files, second.files, strict=True)] == [True, False, True]
    assert [file.stat().st_mtime_ns for file in second.files][::2] == stamps[::2]
    assert not first.files[1].exists()
    assert len(second) == 33
    assert second[12].imgname == load_shards(files)[12]["imgname"]


@pytest.mark.parametrize("share", [0, 0.9])
def test_unpacked_rows_that_are_cut_short_are_unpacked_again(files, share):
    table = load_shards(files)
    file = open_rows(table).files[1]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: int(share * len(content))])
    assert open_rows(table)[12].imgname == table[12]["imgname"]
    assert file.read_bytes() == content


def test_a_copy_for_another_process_holds_no_rows(files):
    rows = open_rows(load_shards(files))
    rows[4].keypoints_2d[:] = 7  # a row is the reader's own
    assert not (rows[4].keypoints_2d == 7).any()
    packed = pickle.dumps(rows)
    assert len(packed) < 2000
    np.testing.assert_array_equal(pickle.loads(packed)[7].skel_q, rows[7].skel_q)
    for row in (-1, 36):
        with pytest.raises(IndexError, match=f"row {row} of 36"):
            rows[row]
