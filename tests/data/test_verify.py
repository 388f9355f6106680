import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hmr_skel.data.annotations import open_source
from hmr_skel.data.parquet import write_meta, write_rejects, write_shard
from hmr_skel.data.schema import shard_table
from hmr_skel.data.shards import Shard, plan
from hmr_skel.data.verify import verify_dataset
from hmr_skel.errors import UserError
from hmr_skel.rows import Reject


@pytest.fixture
def built(tmp_path, label_arrays, fake_fit, make_manifest) -> tuple[Path, list[Shard]]:
    np.savez(tmp_path / "a.npz", **label_arrays(16))
    manifest = make_manifest([{"name": "aic", "format": "camerahmr", "file": str(tmp_path / "a.npz")}])
    reader = open_source(manifest.sources[0], tmp_path)
    shards = plan(manifest, {"aic": 16})
    for shard in shards:
        start = shard.pieces[0].start
        rows = reader.read(start, start + 7)
        write_shard(tmp_path, shard, shard_table(rows, fake_fit(7)), fingerprint="f", manifest_name="t", code="c")
        write_rejects(tmp_path, shard, [Reject("aic", start + 7, "", "betas", "")])
        write_meta(tmp_path, shard, "f", {})
    return tmp_path, shards


def test_a_sound_dataset(built):
    assert verify_dataset(built[0]) == []


def test_no_dataset(tmp_path):
    with pytest.raises(UserError, match="no dataset in"):
        verify_dataset(tmp_path)


def damage_bytes(out: Path, shard: Shard) -> None:
    content = bytearray(shard.data_file(out).read_bytes())
    content[200] ^= 1
    shard.data_file(out).write_bytes(content)


def lose_rejects(out: Path, shard: Shard) -> None:
    shard.rejects_file(out).unlink()


def lose_meta(out: Path, shard: Shard) -> None:
    shard.meta_file(out).unlink()


def break_meta(out: Path, shard: Shard) -> None:
    shard.meta_file(out).write_text("{}")


def claim_more_rows(out: Path, shard: Shard) -> None:
    meta = json.loads(shard.meta_file(out).read_text())
    meta["pieces"][0]["stop"] += 2
    shard.meta_file(out).write_text(json.dumps(meta))


def same_row_twice(out: Path, shard: Shard) -> None:
    write_rejects(out, shard, [Reject("aic", shard.pieces[0].start, "", "betas", "")])
    write_meta(out, shard, "f", {})


def not_finite(out: Path, shard: Shard) -> None:
    table = pq.read_table(shard.data_file(out))
    column = table.schema.field("skel_q")
    values = pa.array([[np.nan] * 46] * 7, column.type)
    table = table.set_column(table.column_names.index("skel_q"), column, values)
    write_shard(out, shard, table, fingerprint="f", manifest_name="t", code="c")
    write_meta(out, shard, "f", {})


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage_bytes, "train-00001-of-00002.parquet: not the bytes that were written"),
        (lose_rejects, "rejects-00001-of-00002.parquet: missing"),
        (lose_meta, "train-00001-of-00002.parquet: unfinished"),
        (break_meta, "shard-00001-of-00002.json: not a meta file"),
        (claim_more_rows, "of 10 rows to read, 2 are neither kept nor rejected; 0 too many"),
        (same_row_twice, "of 8 rows to read, 1 are neither kept nor rejected; 1 too many"),
        (not_finite, "skel_q has 0 nulls and 322 values that are not finite"),
    ],
)
def test_every_harm_is_found_and_named(built, harm, words):
    out, shards = built
    harm(out, shards[1])
    problems = verify_dataset(out)
    assert words in problems[0]
    assert all("-00000-" not in problem for problem in problems)
