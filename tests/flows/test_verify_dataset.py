"""A dataset against its manifest, and its repair."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitting.version import FIT_VERSION
from flows.shard import Builder
from flows.verify import repair_dataset, verify_dataset
from hmr_skel.cli import main
from hmr_skel.data.schema import SCHEMA, write_shard
from hmr_skel.data.shards import Shard
from hmr_skel.errors import UserError
from hmr_skel.rows import Reject
from tests.flows.conftest import build_all
from tools.drill.faults import equal_datasets
from tools.drill.small import make_small, small_manifest


@pytest.fixture(scope="module")
def other(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The builder of another dataset, of as many shards; read only."""
    folder = tmp_path_factory.mktemp("other")
    builder = Builder(small_manifest(folder, open_body_dir, seed=1), folder / "out", "cpu", quiet=True)
    build_all(builder)
    return builder


@pytest.fixture
def copied(elsewhere: tuple[Builder, Path]) -> Builder:
    """A builder, at work on a copy of its dataset."""
    builder, finished = elsewhere
    shutil.copytree(finished, builder.out)
    return builder


def rewrite(builder: Builder, index: int, change) -> None:
    """A shard written anew, by the rules, with other rows."""
    shard, out = builder.shards[index], builder.out
    rows, rejects = (pq.read_table(file(out)).to_pylist() for file in (shard.data_file, shard.rejects_file))
    change(rows, rejects)
    write(builder, shard, rows, rejects)


def write(builder: Builder, shard: Shard, rows: list[dict], rejects: list[dict]) -> None:
    """A shard written by the rules, as if it were the builder's of that number."""
    made_from = builder.ingredients(builder.shards[shard.index])
    left_out = [Reject(**{field.name: row[field.name] for field in fields(Reject)}) for row in rejects]
    table = pa.Table.from_pylist(rows, SCHEMA)
    write_shard(builder.out, shard, table, left_out, made_from, {"read": 1.0}, {"manifest_name": "drill"})


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
        (turn_a_knee, "1 of 6 rows differ when fitted again, first drill/00000003 (skel_q by 0.01)"),
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


def test_a_shard_of_another_source(copied: Builder):
    """It has this manifest's fingerprint, but its rows are of a source that the manifest has not."""
    shard, out = copied.shards[1], copied.out
    renamed = replace(shard, pieces=(replace(shard.pieces[0], source="other"),))
    tables = [pq.read_table(file(out)).to_pylist() for file in (shard.data_file, shard.rejects_file)]
    rows, rejects = ([row | {"source": "other"} for row in table] for table in tables)
    write(copied, renamed, rows, rejects)
    (problem,) = verify_dataset(out, copied).problems
    assert (problem.shard, "6 of 6 rows differ when fitted again" in problem.text) == (1, True)


def test_sound_shards_of_another_version_are_left(copied: Builder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flows.shard.FIT_VERSION", FIT_VERSION + 1)
    before = copied.shards[0].data_file(copied.out).read_bytes()
    copied.shards[3].rejects_file(copied.out).unlink()
    found = verify_dataset(copied.out, copied, sample=0)
    told = f"fitted by version {FIT_VERSION}, this is {FIT_VERSION + 1}: shards 0-2 would be built again"
    assert [problem.shard for problem in found.problems] == [3, None]
    assert found.problems[1].text.startswith(told)
    assert repair_dataset(copied, found.problems, progress=False) == (0, 1)
    assert copied.shards[0].data_file(copied.out).read_bytes() == before
    found = verify_dataset(copied.out, copied, sample=0)
    assert (found.sound, [problem.shard for problem in found.problems]) == ([3], [None])


def test_repair_by_another_manifest_is_refused(finished: Builder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = tmp_path / "wrong.toml"
    manifest.write_text((finished.out.parent / "drill.toml").read_text().replace('name = "drill"', 'name = "wrong"', 1))
    files = [file(finished.out) for one in finished.shards for file in (one.data_file, one.meta_file)]
    before = [path.read_bytes() for path in files]
    assert main(["verify", str(finished.out), "--manifest", str(manifest), "--repair", "--device", "cpu"]) == 2
    assert "is the manifest 'wrong', but the shards were made by 'drill'" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before


def test_the_command(other: Builder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = str(other.out.parent / "drill.toml")
    out = shutil.copytree(other.out, tmp_path / "out")
    arguments = ["verify", str(out), "--manifest", manifest, "--device", "cpu"]
    assert main([*arguments, "--json", "--sample", "5"]) == 0
    line, last = capsys.readouterr().out.strip().splitlines()
    assert line == f"{out}: 4 shards, 4 sound; 0 problems (5 rows fitted again)"
    counts = {"shards": 4, "sound": 4, "not_built": [], "refitted": 5, "problems": [], "moved": 0, "built": 0}
    assert json.loads(last) == counts

    (out / "rejects" / "rejects-00003-of-00004.parquet").unlink()
    stray = out / "data" / "train-00000-of-00004 (1).parquet"
    stray.write_bytes(b"x")
    before = (out / "meta" / "shard-00001-of-00004.json").read_bytes()
    assert main([*arguments, "-q"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main([*arguments, "--repair", "--sample", "0"]) == 0
    assert "repaired: 1 shards built again, 1 files moved to set-aside" in capsys.readouterr().out
    assert (out / "set-aside" / "data" / stray.name).read_bytes() == b"x"
    assert (out / "meta" / "shard-00001-of-00004.json").read_bytes() == before
    assert equal_datasets(out, other.out)

    assert main(["verify", str(out)]) == 2
    assert "Name it with --manifest" in capsys.readouterr().err
    assert main(["verify", str(out), "--files-only", "--repair"]) == 2
    assert "--files-only uses no manifest" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "nothing"), "--files-only"]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main(["verify", str(out), "--files-only"]) == 0
    assert "(the files alone)" in capsys.readouterr().out


def test_a_dataset_of_another_number_of_shards_is_not_repaired(finished: Builder, open_body_dir: Path, tmp_path: Path):
    """All its files would be set aside, and all its rows fitted again."""
    other = Builder.open(make_small(tmp_path, open_body_dir, shards=2), finished.out, "cpu", quiet=True)
    assert len(other.shards) != len(finished.shards)
    found = verify_dataset(finished.out, other, sample=0).problems
    with pytest.raises(UserError, match=r"was made in 4 shards, and the manifest makes 2"):
        repair_dataset(other, found, progress=False)
