import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmr_skel.data.annotations import plan_source
from hmr_skel.data.atomic import replacing
from hmr_skel.data.schema import shard_table, write_shard
from hmr_skel.data.shards import (
    Piece,
    check_no_other_plan,
    find_states,
    fingerprint_of,
    pick,
    plan,
    shard_state,
)
from hmr_skel.errors import UserError
from hmr_skel.rows import Reject
from tests.data.conftest import label_arrays, make_manifest
from tests.data.sample_set import MADE_FROM, fake_fit, write_files


def sources(*names: str) -> list[dict]:
    return [{"name": name, "format": "camerahmr", "file": f"{name}.npz"} for name in names]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 60))
def test_every_row_is_in_one_shard_in_order(counts, size):
    names = [f"s{i}" for i in range(len(counts))]
    manifest = make_manifest(sources(*names), rows_per_shard=size)
    shards = plan(manifest, dict(zip(names, counts, strict=True)))
    rows = [(piece.source, row) for shard in shards for piece in shard.pieces for row in range(piece.start, piece.stop)]
    assert rows == [(name, row) for name, count in zip(names, counts, strict=True) for row in range(count)]
    assert [shard.num_rows for shard in shards[:-1]] == [size] * (len(shards) - 1)
    assert 0 < shards[-1].num_rows <= size
    assert [(shard.index, shard.count) for shard in shards] == [(i, len(shards)) for i in range(len(shards))]


def test_files_pieces_and_held_out(tmp_path):
    shards = plan(make_manifest(sources("a", "b"), held_out_shards=1), {"a": 10, "b": 10})
    assert shards[1].pieces == (Piece("a", 8, 10), Piece("b", 0, 6))
    assert [shard.held_out for shard in shards] == [False, False, True]
    assert shards[1].data_file(tmp_path).relative_to(tmp_path).as_posix() == "data/train-00001-of-00003.parquet"
    assert shards[1].rejects_file(tmp_path).relative_to(tmp_path).as_posix() == "rejects/rejects-00001-of-00003.parquet"
    assert shards[1].meta_file(tmp_path).relative_to(tmp_path).as_posix() == "meta/shard-00001-of-00003.json"
    assert pick(shards, 2) is shards[2]
    for index in (3, -1):
        with pytest.raises(UserError, match=f"no shard {index}: this manifest makes 3 shards, 0 to 2"):
            pick(shards, index)
    with pytest.raises(UserError, match="holds out 3 shards; 20 rows make 3"):
        plan(make_manifest(sources("a", "b"), held_out_shards=3), {"a": 10, "b": 10})
    with pytest.raises(UserError, match=r"rows make [\d,]+ of 8\. Expected .*change rows_per_shard"):
        plan(make_manifest(sources("a")), {"a": 2**70})


@pytest.fixture
def built(tmp_path):
    """A shard of 8 rows of which one is rejected, written from `MADE_FROM`."""
    np.savez(tmp_path / "a.npz", **label_arrays(8))
    manifest = make_manifest([sources("a")[0] | {"file": str(tmp_path / "a.npz")}])
    (shard,) = plan(manifest, {"a": 8})
    rows = plan_source(manifest.sources[0], tmp_path / "cache").read(0, 8)
    table = shard_table(rows.take(np.arange(8) != 3), fake_fit(7))
    rejects = [Reject("a", 3, "x.jpg", "betas", "too large")]
    write_files(tmp_path, shard, table, rejects)
    return tmp_path, shard, table, rejects


def test_the_state_of_a_shard(built):
    out, shard, table, rejects = built
    data, meta = shard.data_file(out), shard.meta_file(out)
    content, about = data.read_bytes(), meta.read_bytes()

    def state(fingerprint: str | None = None, **options) -> str:
        return shard_state(out, shard, fingerprint, **options).kind

    own = fingerprint_of(MADE_FROM)
    assert (state(), state(own), state(own, read=True), state("another")) == (*["complete"] * 3, "outdated")
    assert [found.kind for found in find_states(out).values()] == ["complete"]
    data.write_bytes(content[:-1])
    assert (state(own), state("another")) == ("unfinished", "unfinished")
    data.write_bytes(content[:-1] + b"x")
    assert (state(own), state(own, read=True)) == ("complete", "unfinished")
    data.unlink()
    assert state(own) == "unfinished"
    data.write_bytes(content)
    for damaged in (b"", about[:-9]):
        meta.write_bytes(damaged)
        assert state(own) == "unfinished"
        assert shard_state(out, shard).meta is None
    meta.write_bytes(about)
    # writing the shard again makes it unfinished until its meta file is there
    with pytest.raises(KeyError):  # no name of a manifest: it stops after the old meta file is gone
        write_shard(out, shard, table, rejects, MADE_FROM, {}, {})
    assert state(own) == "unfinished"
    assert not meta.exists()
    data.unlink()
    shard.rejects_file(out).unlink()
    assert state(own) == "missing"
    assert find_states(out) == {}


def test_a_lost_row_is_noticed(built):
    out, shard, table, _ = built
    with pytest.raises(ValueError, match="kept 7 \\+ rejected 0 is not read 8"):
        write_files(out, shard, table, [])


def test_output_that_cannot_be_written(built, tmp_path):
    _, shard, table, rejects = built
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/data/train-00000.*Choose an output folder"):
        write_files(tmp_path / "file", shard, table, rejects)


def test_what_cannot_be_read_while_writing_is_not_said_to_be_unwritable(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "x") as temporary:
        temporary.write_bytes((tmp_path / "label file").read_bytes())
    assert caught.value.filename == str(tmp_path / "label file")
    with pytest.raises(OSError, match="Input/output error"), replacing(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # of a file that was open
    with pytest.raises(UserError, match=r"cannot write .*x: No space left"), replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_shards_of_another_plan_are_refused(built):
    out, _, _, _ = built
    check_no_other_plan(out, 1)
    check_no_other_plan(out / "new", 5)
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet belongs to a dataset with another number"):
        check_no_other_plan(out, 2)
