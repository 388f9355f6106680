import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from hmr_skel.data.load import load_shards, open_rows

COLUMNS = ("center", "cam_int", "keypoints_2d", "keypoints_3d", "skel_q", "skel_betas", "skel_transl")


@pytest.fixture
def shards(sample_set, tmp_path):
    """The shards' files, in a folder of their own."""
    shutil.copytree(sample_set.path / "data", tmp_path / "data")
    return sorted((tmp_path / "data").glob("*.parquet"))


def test_rows_are_what_the_shards_hold(shards):
    table = load_shards(shards)
    rows = open_rows(table)
    assert len(rows) == len(table) == 36
    for i in [5, 35, 0, 12, 11, 24]:
        row, expected = rows[i], table[np.array([i])]
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(row, name), expected[name][0], err_msg=name)
        assert (row.source, row.imgname) == (expected["source"][0], expected["imgname"][0])
        assert row.side == expected["scale"].max() * np.float32(200)


def test_the_cache_is_made_once_and_again_for_another_shard(shards):
    first = open_rows(load_shards(shards))
    stamps = [file.stat().st_mtime_ns for file in first.files]
    assert all(file.parent == shards[0].parent.parent / ".cache" / "samples" for file in first.files)
    table = pq.read_table(shards[1])
    pq.write_table(table.slice(3), shards[1])  # the same name, other rows
    second = open_rows(load_shards(shards))
    assert [a == b for a, b in zip(first.files, second.files, strict=True)] == [True, False, True]
    assert [file.stat().st_mtime_ns for file in second.files][::2] == stamps[::2]
    assert not first.files[1].exists()
    assert len(second) == 33
    assert second[12].imgname == load_shards(shards)[12]["imgname"]


@pytest.mark.parametrize("share", [0, 0.9])
def test_unpacked_rows_that_are_cut_short_are_unpacked_again(shards, share):
    table = load_shards(shards)
    file = open_rows(table).files[1]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: int(share * len(content))])
    assert open_rows(table)[12].imgname == table[12]["imgname"]
    assert file.read_bytes() == content


def test_a_copy_for_another_process_holds_no_rows(shards):
    rows = open_rows(load_shards(shards))
    rows[4].keypoints_2d[:] = 7  # a row is the reader's own
    assert not (rows[4].keypoints_2d == 7).any()
    packed = pickle.dumps(rows)
    assert len(packed) < 2000
    np.testing.assert_array_equal(pickle.loads(packed)[7].skel_q, rows[7].skel_q)
    for row in (-1, 36):
        with pytest.raises(IndexError, match=f"row {row} of 36"):
            rows[row]
