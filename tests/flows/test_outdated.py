"""Two manifests, two states of one, or two versions of the code, in one folder: never a mix without a word."""

import pickle
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fitting.version import FIT_VERSION
from flows import shard
from flows.shard import Builder
from flows.sources import ModelFiles, make_missing
from hmr_skel import load_shards
from hmr_skel.body.assets import SKEL_FILES
from hmr_skel.cli import main
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.shards import fingerprint_of, shard_state
from hmr_skel.errors import UserError
from tools.drill.small import MANIFEST


def other(manifest: Path, name: str) -> Path:
    """The manifest with another exclude list, so that it makes other rows, in a file of that name."""
    text = manifest.read_text().replace('format = "camerahmr"', 'format = "camerahmr"\nexclude = ["x"]')
    path = manifest.with_name(name)
    path.write_text(text)
    return path


def build(manifest: Path, *shards: int) -> list[bool]:
    """Whether each shard was skipped."""
    builder = Builder.open(manifest, manifest.parent / "out", "cpu", quiet=True)
    return [builder.build(index, progress=False).skipped for index in shards]


def test_another_manifest_of_the_same_name_is_refused_unless_it_replaces_all_shards(small: Path, capsys):
    build(small, 0, 1)
    builder, second = Builder.open(small, small.parent / "out", "cpu", quiet=True), other(small, "second.toml")
    before = [shard_state(builder.out, shard).meta for shard in builder.shards]
    for command in (["fit", "--shard", "2"], ["fit", "--shard", "0"], ["dataset"]):
        assert main([*command, "--manifest", str(second), "--out", str(builder.out)]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"{builder.out} holds shard 0 of another dataset, 'small' made from small.toml" in said
        assert "this is 'small' from second.toml" in said
    assert [shard_state(builder.out, shard).meta for shard in builder.shards] == before
    replacing = Builder.open(second, builder.out, "cpu", quiet=True)
    with pytest.raises(UserError, match="shard 1 of another dataset"):
        replacing.unfinished([0], rebuild=True)
    assert replacing.unfinished(range(4), rebuild=True) == [0, 1, 2, 3]


def test_the_same_manifest_under_another_file_name_is_complete(small: Path):
    assert build(small, 0) == [False]
    assert build(small.rename(small.with_name("renamed.toml")), 0) == [True]


def test_after_an_edit_what_is_outdated_is_said_even_by_a_quiet_build(small: Path, capsys):
    build(small, 0, 1, 2)
    other(small, "small.toml")
    fit = ["--shard", "0", "--manifest", str(small), "--out", str(small.parent / "out"), "--quiet"]
    assert main(["fit", *fit]) == 0
    assert "outdated: made from another manifest: shards 0-2; those that this build" in capsys.readouterr().err
    assert Builder.open(small, small.parent / "out", "cpu", quiet=True).unfinished(range(4)) == [1, 2, 3]


def test_a_shard_is_outdated_when_anything_that_counts_differs(small: Path, monkeypatch: pytest.MonkeyPatch):
    builder = Builder.open(small, small.parent / "out", "cpu", quiet=True)
    first, second, *_ = builder.shards
    was, (reader,) = builder.ingredients(first), builder.readers.values()
    assert builder.ingredients(first) == was
    assert {key for key, value in builder.ingredients(second).items() if value != was[key]} == {"shard", "pieces"}
    for key, owner, name, value in (
        ("pieces", builder, "readers", {reader.source.name: replace(reader, content_id="other")}),
        ("body_models", builder, "_body_models", "other"),
        ("recipe", builder, "config", replace(builder.config, batch=7)),
        ("fit_version", shard, "FIT_VERSION", -1),
        ("schema_version", shard, "SCHEMA_VERSION", -1),
        ("manifest", builder, "manifest", replace(builder.manifest, rows_per_shard=5)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            now = builder.ingredients(first)
        assert [one for one in was if was[one] != now[one]] == [key]
        assert fingerprint_of(now) != fingerprint_of(was)


def test_a_dataset_of_an_older_version(small: Path, tmp_path: Path, capsys):
    """It can be read, checked and reported on, and the build says that it fits its shards again."""
    out, where = str(tmp_path / "out"), ["--manifest", str(small), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as old:
        old.setattr(shard, "FIT_VERSION", FIT_VERSION - 1)
        build(small, 0)
    before = load_shards(out)["skel_q"]
    assert main(["verify", out, "--files-only"]) == 0
    assert main(["report", out, "--no-pictures", "-o", str(tmp_path / "report.html")]) == 0
    assert f"hmr-skel, fit version {FIT_VERSION - 1}" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    told = f"fitted by version {FIT_VERSION - 1}, this is {FIT_VERSION}: shard 0"
    assert main(["verify", out, *where]) == 1
    assert capsys.readouterr().out.startswith(f"{told} would be built again")
    assert main(["fit", "--shard", "0", "--out", out, *where]) == 0
    assert f"outdated: {told}" in capsys.readouterr().err
    np.testing.assert_array_equal(load_shards(out)["skel_q"], before)


def test_what_is_generated_is_made_again_at_a_raised_version(
    tmp_path: Path, open_body_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    values = {
        "name": "made",
        "rows_per_shard": 4,
        "labels": tmp_path / "labels.npz",
        "body_models": tmp_path / "bodies",
    }
    text = MANIFEST.format(**values).replace('kind = "files"', 'kind = "open"').replace("held_out_shards = 1", "")
    (tmp_path / "open.toml").write_text(f'{text}[sources.generate]\nkind = "open"\nrows = 4\n')
    manifest = load_manifest(tmp_path / "open.toml")
    made: list[str] = []
    copy, labels = partial(shutil.copytree, open_body_dir, dirs_exist_ok=True), tmp_path / "labels.npz"
    export, make = "hmr_skel.body.open_body.export.export_body", "hmr_skel.open_data.labels.make_labels"
    monkeypatch.setattr(export, lambda folder: made.append("body") or copy(folder))
    monkeypatch.setattr(make, lambda *args, **kwargs: made.append("labels") or labels.touch())
    make_missing(manifest, quiet=True)
    make_missing(manifest, quiet=True)
    assert made == ["body", "labels"]
    monkeypatch.setattr("flows.sources.LABELS_VERSION", -1)
    make_missing(manifest, quiet=True)
    assert made[2:] == ["labels"]
    monkeypatch.setattr("hmr_skel.body.open_body.export.EXPORT_VERSION", -1)
    make_missing(manifest, quiet=True)
    assert made[3:] == ["body", "labels"]  # labels are of the body


@pytest.mark.parametrize("kind", ["open", "files"])
def test_other_bones_of_the_open_body_are_no_other_fit(tmp_path: Path, open_body_dir: Path, kind: str):
    """They are only drawn. Any other array counts; of files that the user brings, every byte does."""
    files, path = ModelFiles(tmp_path, (), ("male",), kind == "open"), tmp_path / SKEL_FILES["male"]
    content = pickle.loads((open_body_dir / path.name).read_bytes())
    found = []
    for changed in ("", "skel_template_v", "skel_weights", "posedirs"):
        path.write_bytes(pickle.dumps(content | ({changed: 2 * content[changed]} if changed else {})))
        found.append(files.sha256(tmp_path / "notes"))
    assert len(set(found)) == (2 if kind == "open" else 4)
    assert found[3] not in found[:3]
