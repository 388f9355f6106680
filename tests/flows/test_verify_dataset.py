"""A dataset against its manifest, and its repair."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitting.version import FIT_VERSION
from flows.shard import Builder
from flows.verify import repair_dataset, verify_dataset
from hmr_skel.cli import main
from hmr_skel.data.schema import SCHEMA, write_meta, write_rejects, write_shard
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import put_bytes
from hmr_skel.data.verify import Problem
from hmr_skel.errors import UserError
from hmr_skel.rows import Reject
from tests.object_store import ObjectStore
from tools.drill.corruption import KINDS, damage_and_repair
from tools.drill.damage import equal_datasets
from tools.drill.small import SHARDS, small_manifest


def build(folder: Path, models: Path, seed: int) -> Builder:
    builder = Builder(small_manifest(folder, models, seed=seed), folder / "out", "cpu", quiet=True, any_plan=True)
    for index in range(SHARDS):
        builder.build(index, progress=False)
    return builder


@pytest.fixture(scope="module")
def ours(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A finished dataset; read only."""
    return build(tmp_path_factory.mktemp("ours"), open_body_dir, 0)


@pytest.fixture(scope="module")
def other(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Another one, of as many shards; read only."""
    return build(tmp_path_factory.mktemp("other"), open_body_dir, 1)


@pytest.fixture
def copied(ours: Builder, tmp_path: Path):
    """The builder, at work on a copy of its dataset."""
    before = ours.out
    ours.out = shutil.copytree(before, tmp_path / "out")
    yield ours
    ours.out = before


def test_a_sound_dataset(ours: Builder):
    found = verify_dataset(ours.out, ours, sample=10**6)
    assert (found.shards, found.sound, found.refitted, found.problems) == (4, 4, 24, [])


@pytest.mark.slow
def test_every_corruption_is_found_and_repaired(ours: Builder, other: Builder, tmp_path: Path):
    results = damage_and_repair(ours, other.out, tmp_path, times=len(KINDS), seed=5)
    assert len(results) == len(KINDS)
    assert [result for result in results if not result.passed] == []


def rewrite(builder: Builder, index: int, change) -> None:
    """A shard written anew, by the rules, with other rows."""
    shard, out = builder.shards[index], builder.out
    rows, rejects = (pq.read_table(file(out)).to_pylist() for file in (shard.data_file, shard.rejects_file))
    change(rows, rejects)
    write(builder, shard, rows, rejects, builder.ingredients(shard))


def write(builder: Builder, shard: Shard, rows: list[dict], rejects: list[dict], made_from: dict) -> None:
    names = ("source", "source_row", "imgname", "reason", "detail")
    out, fingerprint = builder.out, builder.fingerprint(builder.shards[shard.index])
    table = pa.Table.from_pylist(rows, SCHEMA)
    data = write_shard(out, shard, table, fingerprint=fingerprint, manifest_name="drill", fit_version=1)
    left_out = write_rejects(out, shard, [Reject(**{name: row[name] for name in names}) for row in rejects])
    write_meta(out, shard, data, left_out, fingerprint, {}, made_from)


def turn_a_knee(rows, rejects):
    rows[2]["skel_q"][6] += 0.01


def change_the_label(rows, rejects):
    rows[0]["smpl_betas"][3] += 1e-6


def another_image(rows, rejects):
    rows[0]["imgname"] = "x.jpg"


def another_reason(rows, rejects):
    rejects[0]["reason"] = "box"


def reject_what_is_good(rows, rejects):
    row = rows.pop(0)
    rejects.append({"source": "drill", "source_row": row["source_row"], "imgname": "", "reason": "fit", "detail": ""})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (turn_a_knee, "1 of 6 rows made again are others, the first drill/00000003 (skel_q by 0.01)"),
        (change_the_label, "drill/00000001 (smpl_betas by"),
        (another_image, "(imgname)"),
        (another_reason, "drill/00000000 (box, not non_finite)"),
        (reject_what_is_good, "drill/00000001 (fit, not kept)"),
    ],
)
def test_rows_that_are_not_what_is_fitted_again(copied: Builder, change, words: str):
    """Checksums, columns and counts are all in order: only reading and fitting again shows it."""
    rewrite(copied, 0, change)
    assert verify_dataset(copied.out).problems == []
    (problem,) = verify_dataset(copied.out, copied, sample=24).problems
    assert words in problem.text
    assert problem.shard == 0


def test_a_shard_of_another_fingerprint(copied: Builder, other: Builder):
    for folder in ("data", "rejects", "meta"):
        for path in (other.out / folder).glob("*-00002-of-*"):
            shutil.copy(path, copied.out / folder)
    found = verify_dataset(copied.out, copied)
    (problem,) = found.problems
    assert (problem.shard, found.sound) == (2, 3)
    assert "shard-00002-of-00004.json: made from other rows or label files. Build the shard again." in problem.text
    assert repair_dataset(copied.out, found.problems, lambda: copied, progress=False) == (0, 1)
    assert verify_dataset(copied.out, copied).problems == []


def test_a_shard_of_another_source(copied: Builder):
    """It has this manifest's fingerprint, but its rows are of a source that the manifest has not."""
    shard, out = copied.shards[1], copied.out
    renamed = replace(shard, pieces=(replace(shard.pieces[0], source="other"),))
    tables = [pq.read_table(file(out)).to_pylist() for file in (shard.data_file, shard.rejects_file)]
    rows, rejects = ([row | {"source": "other"} for row in table] for table in tables)
    write(copied, renamed, rows, rejects, made_from={})
    (problem,) = verify_dataset(out, copied).problems
    assert (
        "shard-00001-of-00004.json: its meta file does not say what it was made from. Build the shard again"
        in problem.text
    )


def test_sound_shards_of_another_version_are_left(copied: Builder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flows.shard.FIT_VERSION", FIT_VERSION + 1)
    before = copied.shards[0].data_file(copied.out).read_bytes()
    copied.shards[3].rejects_file(copied.out).unlink()
    found = verify_dataset(copied.out, copied, sample=0)
    assert [problem.outdated for problem in found.problems] == [False, True, True, True]
    assert repair_dataset(copied.out, found.problems, lambda: copied, progress=False) == (0, 1)
    assert copied.shards[0].data_file(copied.out).read_bytes() == before
    found = verify_dataset(copied.out, copied, sample=0)
    assert {problem.shard for problem in found.problems} == {0, 1, 2}
    assert repair_dataset(copied.out, found.problems, lambda: copied, outdated=True, progress=False) == (0, 3)
    assert verify_dataset(copied.out, copied, sample=0).problems == []


def test_a_folder_among_the_files_is_set_aside(copied: Builder):
    for text in ("first", "second"):
        (copied.out / "data" / "old").mkdir()
        (copied.out / "data" / "old" / "x").write_text(text)
        found = verify_dataset(copied.out, copied, sample=0)
        assert repair_dataset(copied.out, found.problems, lambda: copied, progress=False) == (1, 0)
        assert verify_dataset(copied.out, copied, sample=0).problems == []
    aside = copied.out / "set-aside" / "data"
    assert [(aside / name / "x").read_text() for name in ("old", "old.1")] == ["first", "second"]


def test_a_folder_in_a_store_is_left_to_the_user(object_store: ObjectStore, ours: Builder):
    out = object_store.place("stray-folder")
    put_bytes(out / "data" / "old" / "x", b"x")
    problem = Problem("", stray=out / "data" / "old")
    with pytest.raises(UserError, match=r"data/old.* is a folder, and .* Move it by hand to .*set-aside/data/old"):
        repair_dataset(out, [problem], lambda: ours, progress=False)
    assert (out / "data" / "old" / "x").read_bytes() == b"x"


def test_repair_by_another_manifest_is_refused(ours: Builder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = tmp_path / "wrong.toml"
    manifest.write_text((ours.out.parent / "drill.toml").read_text().replace('name = "drill"', 'name = "wrong"', 1))
    files = [file(ours.out) for one in ours.shards for file in (one.data_file, one.meta_file)]
    before = [path.read_bytes() for path in files]
    for more in ([], ["--outdated"]):
        assert main(["verify", str(ours.out), "--manifest", str(manifest), "--repair", "--device", "cpu", *more]) == 2
        assert "is the manifest 'wrong', but the shards were made by 'drill'" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before
    assert main(["verify", str(ours.out), "--outdated"]) == 2


def test_the_command(ours: Builder, other: Builder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = str(other.out.parent / "drill.toml")
    out = shutil.copytree(other.out, tmp_path / "out")
    arguments = ["verify", str(out), "--manifest", manifest, "--device", "cpu"]
    assert main([*arguments, "--json", "--sample", "5"]) == 0
    line, last = capsys.readouterr().out.strip().splitlines()
    assert line == f"{out}: 4 of 4 shards sound, 0 problems (5 rows fitted again)"
    assert json.loads(last) == {
        "shards": 4, "sound": 4, "refitted": 5, "problems": [], "moved": 0, "built": 0,
    }  # fmt: skip

    (out / "rejects" / "rejects-00003-of-00004.parquet").unlink()
    (out / "data" / "train-00000-of-00099.parquet").write_bytes(b"x")
    before = (out / "meta" / "shard-00001-of-00004.json").read_bytes()
    assert main([*arguments, "-q"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main([*arguments, "--repair"]) == 0
    assert (
        "0 problems (24 rows fitted again); repaired: 1 shards built again, 1 files taken away"
        in capsys.readouterr().out
    )
    assert (out / "set-aside" / "data" / "train-00000-of-00099.parquet").read_bytes() == b"x"
    assert (out / "meta" / "shard-00001-of-00004.json").read_bytes() == before
    assert equal_datasets(out, other.out)

    assert main(["verify", str(out)]) == 2
    assert "Name it with --manifest" in capsys.readouterr().err
    assert main(["verify", str(out), "--files-only", "--repair"]) == 2
    assert "--files-only goes without manifest" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nothing"), "--files-only"]) == 2
    assert "no dataset in" in capsys.readouterr().err
    assert main(["verify", str(out), "--files-only"]) == 0
    assert "(the files alone)" in capsys.readouterr().out
