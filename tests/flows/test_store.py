"""A dataset in an object store: built, killed, refused, verified, repaired."""

import errno
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.build import build_hmr_skel, may_heal
from flows.report import summarise_run
from flows.shard import Builder
from flows.verify import verify_dataset
from hmr_skel import load_shards
from hmr_skel.cli import main
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import RemotePath
from hmr_skel.errors import UserError
from tests.flows.conftest import build_all
from tests.object_store import SECRET, ObjectStore
from tools.drill.small import SHARDS

FOLDERS = ("data", "meta", "rejects")
FILES = sorted(
    str(file(Path()))
    for shard in (Shard(i, SHARDS, (), False) for i in range(SHARDS))
    for file in (shard.data_file, shard.meta_file, shard.rejects_file)
)


@pytest.fixture
def builder(elsewhere: tuple[Builder, Path], object_store: ObjectStore, tmp_path: Path) -> Builder:
    """The builder of a finished dataset of this machine, at work on nothing yet in the store."""
    elsewhere[0].out = object_store.place(f"datasets/{tmp_path.name}")
    return elsewhere[0]


@pytest.fixture
def like(elsewhere: tuple[Builder, Path]) -> Path:
    """The folder of the finished dataset."""
    return elsewhere[1]


def files(out: RemotePath) -> list[str]:
    return sorted(f"{name}/{file.name}" for name in FOLDERS for file in (out / name).iterdir())


def assert_whole(out: RemotePath, like: Path) -> None:
    """Everything is there once, with equal values in every column."""
    assert files(out) == FILES
    for name in FILES:
        if name.endswith(".parquet"):
            with (out / name).open() as file:
                assert pq.read_table(file).equals(pq.read_table(like / name), check_metadata=True), name


def test_built_in_a_store(builder: Builder, like: Path):
    assert build_all(builder) == [False] * SHARDS
    assert_whole(builder.out, like)
    assert (builder.out / "README.md").read_bytes() == (like / "README.md").read_bytes()
    assert [path for path in builder.local.rglob("*") if path.is_file()] == []  # nothing stays on this machine
    assert build_all(builder) == [True] * SHARDS
    found = verify_dataset(builder.out, builder, sample=10**6)
    assert (len(found.sound), found.refitted, found.problems) == (SHARDS, 24, [])
    stored = load_shards(str(builder.out), columns=["row_id", "v2v_mm"], split="test")
    assert stored["row_id"].tolist() == load_shards(like, split="test")["row_id"].tolist()
    reports = [builder.build(index, progress=False) for index in range(SHARDS)]
    summary = summarise_run(builder, reports, {}, 1.0)  # reads the files that the reports name
    fitted = load_shards(like)["v2v_mm"]
    assert (summary["kept"], summary["v2v_mm"]["max"]) == (len(fitted), pytest.approx(fitted.max(), abs=1e-4))
    for name in ("README.md", *FILES):
        assert SECRET.encode() not in (builder.out / name).read_bytes()


def test_a_put_that_is_refused(builder: Builder, like: Path, object_store: ObjectStore):
    """The shard is unfinished, and built again."""
    builder.build(0, progress=False)
    object_store.refuse = lambda method, path: method in ("PUT", "POST") and "meta/shard-00001" in path
    with pytest.raises(UserError, match=r"cannot write s3://bucket/.*shard-00001.*AWS_ACCESS_KEY_ID") as caught:
        builder.build(1, progress=False)
    assert SECRET not in str(caught.value)
    assert (heals(caught.value), heals(OSError(errno.EIO, "the disk"))) == (False, True)
    assert len(files(builder.out)) == 5
    object_store.refuse = lambda method, path: False
    assert build_all(builder) == [True, False, False, False]
    assert_whole(builder.out, like)


def heals(error: BaseException) -> bool:
    """Whether the flow tries again."""

    class State:
        def result(self, raise_on_failure: bool) -> BaseException:
            return error

    return may_heal(None, None, State())


def test_verify_and_repair(builder: Builder, like: Path, object_store: ObjectStore, capsys: pytest.CaptureFixture):
    build_all(builder)
    builder.shards[3].meta_file(builder.out).unlink()
    command = ["verify", str(builder.out), "--manifest", str(like.parent / "drill.toml"), "--sample", "0", "-q"]
    assert main(command) == 1
    assert "missing; the shard is unfinished" in capsys.readouterr().out
    assert main([*command, "--repair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["built"] == 1
    assert_whole(builder.out, like)
    # A store that does not answer is no damage: nothing is to be built again.
    object_store.refuse = lambda method, path: method == "GET" and "/data/train-00001" in path
    assert main([*command, "--repair"]) == 2
    captured = capsys.readouterr()
    assert "error: cannot read s3://" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "command", [("fit", "--shard", "0", "--out"), ("dataset", "--out"), ("verify",)], ids=lambda command: command[0]
)
def test_credentials_in_a_uri_are_refused(command: tuple[str, ...], capsys: pytest.CaptureFixture):
    assert main([*command, f"s3://key:{SECRET}@bucket/prefix"]) == 2
    captured = capsys.readouterr()
    assert "must not contain credentials" in captured.err
    assert SECRET not in captured.out + captured.err


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_the_flow(builder: Builder, like: Path):
    manifest = like.parent / "drill.toml"
    summary = build_hmr_skel(str(manifest), str(builder.out), "cpu", shards="1-2", progress=False)
    assert summary["built"] == [1, 2]
    assert build_all(builder) == [False, True, True, False]
    assert_whole(builder.out, like)
