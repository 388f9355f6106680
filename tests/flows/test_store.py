"""A dataset in an object store: built, killed, refused, verified, repaired."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.build import build_hmr_skel, may_heal
from flows.report import DatasetSummary
from flows.shard import Builder
from flows.verify import verify_dataset
from hmr_skel import load_shards
from hmr_skel.cli import main
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import RemotePath, put_bytes
from hmr_skel.errors import UserError
from tests.flows.processes import TIMEOUT_S, hmr_skel, running
from tests.object_store import SECRET, ObjectStore, serving
from tools.drill.small import SHARDS, small_manifest

ENDS = {"data": ("train", "parquet"), "meta": ("shard", "json"), "rejects": ("rejects", "parquet")}
FILES = [
    f"{folder}/{name}-{Shard(i, SHARDS, (), False).number}.{end}"
    for folder, (name, end) in ENDS.items()
    for i in range(SHARDS)
]


@pytest.fixture(scope="module")
def local(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A finished dataset of this machine; read only."""
    folder = tmp_path_factory.mktemp("local")
    builder = Builder(small_manifest(folder, open_body_dir), folder / "out", "cpu", quiet=True)
    build(builder)
    return builder


@pytest.fixture
def builder(local: Builder, object_store: ObjectStore, tmp_path: Path) -> Iterator[Builder]:
    """The same builder, at work on nothing yet in the store."""
    before = local.out
    local.out = object_store.place(f"datasets/{tmp_path.name}")
    yield local
    local.out = before


@pytest.fixture
def like(local: Builder) -> Path:
    """The folder of the finished dataset."""
    return local.manifest.sources[0].file.with_name("out")


def build(builder: Builder) -> list[bool]:
    """Every shard, and the card; whether a shard was skipped."""
    skipped = [builder.build(index, progress=False).skipped for index in range(SHARDS)]
    builder.write_card()
    return skipped


def files(out: RemotePath) -> list[str]:
    return sorted(f"{name}/{file.name}" for name in ENDS for file in (out / name).iterdir())


def assert_whole(out: RemotePath, like: Path) -> None:
    """Everything is there once, with equal values in every column."""
    assert files(out) == FILES
    for name in FILES:
        if name.endswith(".parquet"):
            with (out / name).open() as file:
                assert pq.read_table(file).equals(pq.read_table(like / name), check_metadata=True), name


def test_built_in_a_store(builder: Builder, like: Path):
    assert build(builder) == [False] * SHARDS
    assert_whole(builder.out, like)
    assert (builder.out / "README.md").read_bytes() == (like / "README.md").read_bytes()
    assert [path for path in builder.local.rglob("*") if path.is_file()] == []  # nothing stays on this machine
    assert build(builder) == [True] * SHARDS
    found = verify_dataset(builder.out, builder, sample=10**6)
    assert (found.sound, found.refitted, found.problems) == (SHARDS, 24, [])
    stored = load_shards(str(builder.out), columns=["row_id", "v2v_mm"], split="test")
    assert stored["row_id"].tolist() == load_shards(like, split="test")["row_id"].tolist()
    reports = [builder.build(index, progress=False) for index in range(SHARDS)]
    summary = DatasetSummary.of(builder, reports, {}, 1.0, {})  # reads the files that the reports name
    fitted = load_shards(like)["v2v_mm"]
    assert summary.v2v_mm is not None
    assert (summary.kept, summary.v2v_mm["max"]) == (len(fitted), pytest.approx(fitted.max(), abs=1e-4))
    for name in ("README.md", *FILES):
        assert SECRET.encode() not in (builder.out / name).read_bytes()


def test_killed_between_data_and_meta(
    builder: Builder, like: Path, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The process ends when the meta file is about to be put: the shard is unfinished, and built again."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{object_store.port}")
    manifest = like.parent / "drill.toml"
    command = hmr_skel("fit", "--manifest", str(manifest), "--shard", "1", "--out", f"s3://{builder.out.key}")

    def kill(method: str, path: str) -> bool:
        if "/meta/" in path and method in ("POST", "PUT"):
            os.kill(process.pid, signal.SIGKILL)
            return True
        return False

    object_store.refuse = kill
    with running(command, tmp_path / "home", tmp_path / "log", cwd=tmp_path) as process:
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL, (tmp_path / "log").read_text()
    object_store.refuse = lambda method, path: False
    assert files(builder.out) == [FILES[1], FILES[2 * SHARDS + 1]]
    assert build(builder) == [False] * SHARDS
    assert_whole(builder.out, like)


def test_a_put_that_is_refused(builder: Builder, like: Path, object_store: ObjectStore):
    builder.build(0, progress=False)
    object_store.refuse = lambda method, path: method in ("PUT", "POST") and "rejects-00001" in path
    with pytest.raises(UserError, match=r"cannot write s3://bucket/.*rejects-00001.*AWS_ACCESS_KEY_ID") as caught:
        builder.build(1, progress=False)
    assert SECRET not in str(caught.value)
    assert not heals(caught.value)
    assert not builder.shards[1].meta_file(builder.out).exists()
    object_store.refuse = lambda method, path: False
    assert build(builder) == [True, False, False, False]
    assert_whole(builder.out, like)


def test_a_store_that_stops(builder: Builder, like: Path):
    there = builder.out
    with serving() as other:
        builder.out = other.place(there.key.partition("/")[2])
        builder.build(0, progress=False)
    with pytest.raises(UserError, match=r"cannot read s3://.*AWS_ENDPOINT_URL.*What is finished is kept") as caught:
        builder.build(1, progress=False)
    assert heals(caught.value)  # flows/build.py tries again
    builder.out = there
    assert build(builder) == [True, False, False, False]
    assert_whole(builder.out, like)


def heals(error: BaseException) -> bool:
    """Whether the flow tries again."""

    class State:
        def result(self, raise_on_failure: bool) -> BaseException:
            return error

    return may_heal(None, None, State())


def test_no_bucket(builder: Builder, object_store: ObjectStore):
    """Said before anything is fitted."""
    nowhere = Builder(builder.manifest, object_store.place("x", bucket="nowhere"), "cpu", quiet=True)
    with pytest.raises(UserError, match="Make the bucket 'nowhere' first"):
        nowhere.load_models([0])


def test_verify_and_repair(builder: Builder, like: Path, object_store: ObjectStore, capsys: pytest.CaptureFixture):
    build(builder)
    data = builder.shards[2].data_file(builder.out)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    put_bytes(data, bytes(content))
    put_bytes(builder.out / "data" / "extra.parquet", b"nobody's")
    builder.shards[3].meta_file(builder.out).unlink()
    command = ["verify", str(builder.out), "--manifest", str(like.parent / "drill.toml"), "--sample", "0", "-q"]
    assert main(command) == 1
    problems = capsys.readouterr().out.splitlines()
    assert len(problems) == 3
    assert "data/extra.parquet" in problems[0]
    assert "train-00002-of-00004.parquet" in problems[1]
    assert "not the bytes that were written" in problems[1]
    assert "missing; the shard is unfinished" in problems[2]
    assert main([*command, "--repair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "shards": SHARDS, "sound": SHARDS, "refitted": 0, "problems": [], "moved": 1, "built": 2,
    }  # fmt: skip
    assert_whole(builder.out, like)
    assert (builder.out / "set-aside" / "data" / "extra.parquet").read_bytes() == b"nobody's"
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
    assert "s3://bucket/prefix: a URI must hold no credentials" in captured.err
    assert SECRET not in captured.out + captured.err


@pytest.mark.parametrize("command", ["report", "export", "render"])
def test_commands_that_read_folders_only(command: str, capsys: pytest.CaptureFixture):
    assert main([command, f"s3://key:{SECRET}@bucket/prefix"]) == 2
    captured = capsys.readouterr()
    assert "Copy the dataset there first: aws s3 sync" in captured.err
    assert SECRET not in captured.err


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_the_flow(builder: Builder, like: Path):
    manifest = like.parent / "drill.toml"
    summary = build_hmr_skel(str(manifest), str(builder.out), "cpu", progress=False)
    assert summary["built"] == list(range(SHARDS))
    assert_whole(builder.out, like)
    assert build(builder) == [True] * SHARDS
