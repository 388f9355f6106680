"""Two manifests, or two states of one, in one folder: never a mix without a word."""

from pathlib import Path

import pytest

from flows.shard import Builder, build_shard
from hmr_skel.cli import main
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.shards import read_meta
from hmr_skel.errors import UserError


def other(manifest: Path, name: str) -> Path:
    """The manifest with another exclude list, so that it makes other rows, in a file of that name."""
    text = manifest.read_text().replace('format = "camerahmr"', 'format = "camerahmr"\nexclude = ["x"]')
    path = manifest.with_name(name)
    path.write_text(text)
    return path


def fingerprints(builder: Builder) -> list[str | None]:
    metas = [read_meta(builder.out, shard) for shard in builder.shards]
    return [None if meta is None else meta["fingerprint"] for meta in metas]


@pytest.mark.parametrize("command", [["fit", "--shard", "1"], ["fit", "--shard", "0"], ["dataset"]])
def test_another_manifest_of_the_same_name_is_refused(small: Path, tmp_path: Path, capsys, command: list[str]):
    out = tmp_path / "out"
    build_shard(load_manifest(small), 0, out, device="cpu", progress=False)
    builder = Builder.open(small, out, "cpu", quiet=True)
    before = fingerprints(builder)
    assert main([*command, "--manifest", str(other(small, "second.toml")), "--out", str(out)]) == 2
    assert fingerprints(builder) == before
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{out} holds shard 0 of another dataset, 'small' made from small.toml" in said
    assert "this is 'small' from second.toml" in said


def test_another_manifest_may_replace_all_shards(small: Path, tmp_path: Path):
    out, second = tmp_path / "out", other(small, "second.toml")
    for index in (0, 1):
        build_shard(load_manifest(small), index, out, device="cpu", progress=False)
    with pytest.raises(UserError, match="shard 1 of another dataset"):
        build_shard(load_manifest(second), 0, out, device="cpu", progress=False, rebuild=True)
    builder = Builder.open(second, out, "cpu", quiet=True)
    for index in builder.unfinished(range(4), rebuild=True):
        builder.build(index, rebuild=True, progress=False)
    assert builder.unfinished(range(4)) == []


def test_the_same_manifest_under_another_file_name_is_complete(small: Path, tmp_path: Path):
    build_shard(load_manifest(small), 0, tmp_path / "out", device="cpu", progress=False)
    renamed = small.rename(small.with_name("renamed.toml"))
    assert build_shard(load_manifest(renamed), 0, tmp_path / "out", device="cpu", progress=False).skipped


def test_after_an_edit_shards_are_built_again_and_what_is_left_is_said(small: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    for index in (0, 1, 2):
        build_shard(load_manifest(small), index, out, device="cpu", progress=False)
    other(small, "small.toml")
    fit = ["fit", "--shard", "0", "--manifest", str(small), "--out", str(out)]
    assert main(fit) == 0
    told = capsys.readouterr().err
    assert "made from another manifest: shard 0 will be built again" in told
    mix = "made from another manifest: shards 1-2; until `hmr-skel dataset` builds them, the dataset is a mix"
    assert mix in told
    assert main([*fit, "--quiet"]) == 0
    assert mix in capsys.readouterr().err
    assert main(["dataset", "--shards", "0", *fit[3:], "--quiet"]) == 0
    assert mix in capsys.readouterr().err
    builder = Builder.open(small, out, "cpu", quiet=True)
    assert builder.unfinished(range(4)) == [1, 2, 3]


def test_a_shard_that_another_build_replaces_meanwhile_is_noticed(small: Path, tmp_path: Path):
    first = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    for index in (0, 1):
        first.build(index, progress=False)
    assert first.replaced([0, 1]) == {}
    second = Builder.open(other(small, "second.toml"), tmp_path / "out", "cpu", quiet=True)
    second.build(1, progress=False)
    ((index, error),) = first.replaced([0, 1]).items()
    assert index == 1
    assert "shard 1 was replaced meanwhile" in str(error)


def test_a_shard_that_goes_between_two_looks(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another build removes the meta file before it writes the shard."""
    builder = Builder.open(small, tmp_path / "out", "cpu", quiet=True)
    for index in (0, 1):
        builder.build(index, progress=False)
    gone = builder.shards[1]
    monkeypatch.setattr("flows.shard.read_meta", lambda out, shard: None if shard is gone else read_meta(out, shard))
    assert [report.shard for report in builder.reports([0, 1])] == [0]
    with pytest.raises(UserError, match="shard 1 was replaced meanwhile"):
        builder.build(1, progress=False)
