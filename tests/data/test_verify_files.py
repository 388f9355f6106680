import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hmr_skel.data.annotations import plan_source
from hmr_skel.data.atomic import replacing
from hmr_skel.data.meta import load_meta, meta_text
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.schema import SCHEMA, shard_table
from hmr_skel.data.shards import Shard, plan
from hmr_skel.data.verify import verify_files
from hmr_skel.errors import UserError
from hmr_skel.rows import Reject
from tests.data.conftest import label_arrays, make_manifest
from tests.data.sample_set import fake_fit, write_files


@pytest.fixture
def built(tmp_path) -> tuple[Path, list[Shard]]:
    """Two shards of 8 rows, of which the last is rejected."""
    np.savez(tmp_path / "a.npz", **label_arrays(16))
    manifest = make_manifest([{"name": "aic", "format": "camerahmr", "file": str(tmp_path / "a.npz")}])
    reader = plan_source(manifest.sources[0], tmp_path).open()
    shards = plan(manifest, {"aic": 16})
    for shard in shards:
        start = shard.pieces[0].start
        table = shard_table(reader.read(start, start + 7), fake_fit(7))
        write_files(tmp_path, shard, table, [Reject("aic", start + 7, "", "betas", "")], seconds={"total": 1.5})
    return tmp_path, shards


def test_a_sound_dataset(built, tmp_path):
    report = verify_files(built[0])
    assert (report.problems, report.shards, report.sound) == ([], 2, [0, 1])
    with pytest.raises(UserError, match="no dataset in"):
        verify_files(tmp_path / "nothing")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def copy_of_the_other(path: Path) -> None:
    path.write_bytes(path.with_name(path.name.replace("00001-of", "00000-of")).read_bytes())


def change_meta(out: Path, shard: Shard, **changes) -> None:
    """A meta file that says something else, with a checksum that is right."""
    path = shard.meta_file(out)
    path.write_text(meta_text(load_meta(path) | changes))


def same_row_twice(out: Path, shard: Shard) -> None:
    table = pq.read_table(shard.data_file(out)).replace_schema_metadata(None).cast(SCHEMA)
    write_files(out, shard, table, [Reject("aic", shard.pieces[0].start, "", "betas", "")])


def no_parquet(out: Path, shard: Shard) -> None:
    path = shard.data_file(out)
    path.write_bytes(b"PAR1" + bytes(50) + b"PAR1")
    name = path.relative_to(out).as_posix()
    files = load_meta(shard.meta_file(out))["files"]
    change_meta(out, shard, files=files | {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}})


def remove_all(out: Path, shard: Shard) -> None:
    for path in (shard.data_file(out), shard.rejects_file(out), shard.meta_file(out)):
        path.unlink()


def not_finite(out: Path, shard: Shard) -> None:
    table = pq.read_table(shard.data_file(out)).replace_schema_metadata(None).cast(SCHEMA)
    column = table.schema.field("skel_q")
    values = pa.array([[np.nan] * 46] * 7, column.type)
    table = table.set_column(table.column_names.index("skel_q"), column, values)
    write_files(out, shard, table, [Reject("aic", 15, "", "betas", "")])


MORE_ROWS = [{"source": "aic", "start": 8, "stop": 18}]
ELSEWHERE = {"data/../../etc/passwd": {"bytes": 1, "sha256": ""}}


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda out, s: flip(s.data_file(out), 200), "train-00001-of-00002.parquet: not the bytes that were written"),
        (lambda out, s: s.meta_file(out).unlink(), "shard-00001-of-00002.json: missing; the shard is unfinished"),
        (lambda out, s: flip(s.meta_file(out), 99), "not a meta file of a shard (its checksum is missing or wrong"),
        (lambda out, s: s.rejects_file(out).unlink(), "rejects-00001-of-00002.parquet: missing"),
        (lambda out, s: copy_of_the_other(s.rejects_file(out)), "rejects-00001-of-00002.parquet: not the bytes"),
        (lambda out, s: flip(s.rejects_file(out), 100), "rejects-00001-of-00002.parquet: not the bytes"),
        (lambda out, s: s.data_file(out).unlink(), "train-00001-of-00002.parquet: missing"),
        (lambda out, s: copy_of_the_other(s.data_file(out)), "train-00001-of-00002.parquet: not the bytes"),
        (lambda out, s: os.truncate(s.data_file(out), 3000), "train-00001-of-00002.parquet: not the bytes"),
        (lambda out, s: os.truncate(s.data_file(out), 10**6), "train-00001-of-00002.parquet: not the bytes"),
        (lambda out, s: change_meta(out, s, fingerprint="g"), "it has another fingerprint than its meta file"),
        (lambda out, s: change_meta(out, s, files=ELSEWHERE), "it names other files ('data/../../etc/passwd')"),
        (lambda out, s: copy_of_the_other(s.meta_file(out)), "it is the meta file of shard 0 of 2"),
        (no_parquet, "train-00001-of-00002.parquet is not a Parquet file"),
        (lambda out, s: change_meta(out, s, pieces=MORE_ROWS), "of 10 rows to read, 2 are neither kept nor"),
        (same_row_twice, "of 8 rows to read, 1 are neither kept nor rejected; 1 too many"),
        (not_finite, "skel_q has 322 values that are not finite"),
    ],
)
def test_every_harm_is_found_and_named(built, harm, words):
    out, shards = built
    harm(out, shards[1])
    report = verify_files(out)
    assert words in report.problems[0].text
    assert {problem.shard for problem in report.problems} == {1}
    assert report.sound == [0]


def test_what_is_not_built_yet_is_told_and_no_problem(built):
    out, shards = built
    remove_all(out, shards[1])
    report = verify_files(out)
    assert (report.problems, report.sound, report.not_built) == ([], [0], [1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data/train-00002-of-00002.parquet", "of no shard of this dataset, which has 2, 0 to 1"),
        ("data/train-000001-of-00002.parquet", "not a name of a dataset's file"),
        ("meta/shard-00001-of-00003.json", "of no shard of this dataset"),
        ("meta/shard-00001-of-000002.json", "not a name of a dataset's file"),
        ("rejects/rejects-00001-of-00002 (copy).parquet", "not a name of a dataset's file"),
    ],
)
def test_what_does_not_belong_there(built, name, words):
    out, _ = built
    (out / name).write_bytes(b"x")
    (problem,) = verify_files(out).problems
    assert words in problem.text
    assert (problem.stray, problem.shard) == (out / name, None)


def test_a_file_that_is_being_written_is_no_problem(built):
    out, _ = built
    with replacing(out / "data" / "train-00001-of-00002.parquet") as temporary:
        temporary.write_bytes(b"half")
        assert verify_files(out).problems == []
        temporary.write_bytes((out / "data" / "train-00001-of-00002.parquet").read_bytes())


def test_a_row_in_two_shards(built):
    out, shards = built
    table = pq.read_table(shards[0].data_file(out)).replace_schema_metadata(None).cast(SCHEMA)
    write_files(out, Shard(1, 2, shards[0].pieces, False), table, [Reject("aic", 7, "", "betas", "")])
    problems = verify_files(out).problems
    assert [problem.shard for problem in problems] == [0, 1]
    assert "rows of 'aic' are in shard 0 and in shard 1 too" in problems[0].text
