import copy
from pathlib import Path

import pytest

from hmr_skel.data.images import image_rules
from hmr_skel.data.manifest import load_manifest, parse_manifest
from hmr_skel.errors import UserError

MANIFESTS = Path(__file__).parents[2] / "manifests"
GOOD = {
    "name": "mine",
    "skel_gender": "male",
    "rows_per_shard": 100,
    "body_models": {"kind": "files", "path": "models"},
    "sources": [{"name": "aic", "format": "camerahmr", "file": "aic.npz"}],
}


def changed(**changes) -> dict:
    """GOOD with changes; `source__file="x"` changes the source, None deletes."""
    content = copy.deepcopy(GOOD)
    for key, value in changes.items():
        table = content["sources"][0] if key.startswith("source__") else content
        key = key.removeprefix("source__")
        if value is None:
            del table[key]
        else:
            table[key] = value
    return content


def test_shipped_manifests_load(monkeypatch):
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", "/models")
    monkeypatch.setenv("HMR_SKEL_DATA", "/data")
    default = load_manifest(MANIFESTS / "open.toml")
    assert default.sources[0].rows / default.rows_per_shard == 12
    assert default.held_out_shards == 2
    assert default.sources[0].file == Path("/data/open/labels.npz")
    paper = load_manifest(MANIFESTS / "hmr-skel.toml")
    assert [s.name for s in paper.sources] == ["aic", "insta1", "insta2", "mpii", "coco", "h36m", "mpi-inf"]
    assert len(paper.source("aic").exclude) == 9
    assert paper.body_models.path == Path("/models")


def test_image_rules_of_the_paper(monkeypatch):
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", "/models")
    monkeypatch.setenv("HMR_SKEL_DATA", "/data")
    rules = image_rules(load_manifest(MANIFESTS / "hmr-skel.toml"))
    for source, imgname, file in [
        ("aic", "aic-train/00ab.jpg", "aic-train/00ab.jpg"),
        ("insta1", "some/where/a/b_c/0001.jpg", "insta-train/a/b_c/0001.jpg"),
        ("insta2", "insta-train/a/b_c/0001.jpg", "insta-train/a/b_c/0001.jpg"),
        ("coco", "train2014/COCO_1.jpg", "coco-train/COCO_1.jpg"),
        ("mpii", "1.jpg", "mpii-train/1.jpg"),
        ("h36m", "S1_Walking.55_000001", "h36m-train/S1_Walking.55_000001.jpg"),
        ("mpi-inf", "S1/x", "mpi-inf-train/S1/x.jpg"),
    ]:
        assert rules[source].file(imgname) == Path("/data/images") / file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": None}, ["test.toml: name is missing"]),
        ({"source__name": "a..b"}, ["sources[0] (a..b).name is 'a..b'"]),
        ({"skel_gender": "neutral"}, ["skel_gender is 'neutral'. Expected 'male', 'female' or 'best'."]),
        ({"source__file": " "}, ["sources[0] (aic).file is empty. Expected a path."]),
        ({"rows_per_shard": 0}, ["rows_per_shard is 0. Expected greater than or equal to 1."]),
        ({"rows_per_shard": "256"}, ["rows_per_shard is '256'. Expected a valid integer."]),
        ({"row_per_shard": 5}, ["row_per_shard: unknown key. Is it rows_per_shard? Known keys here: body_m"]),
        ({"sources": []}, ["names sources []", "[[sources]]"]),
        ({"sources": GOOD["sources"] * 2}, ["each with its own name"]),
        ({"body_models": {"kind": "files"}}, ["body_models.path is missing"]),
        ({"source__file": "s3://bucket/aic.npz"}, ["sources[0] (aic).file is a URI", "copy it to a folder here"]),
        ({"source__sha256": "abc"}, ["sources[0] (aic).sha256 is 'abc'"]),
        ({"source__allow_pickle": "yes"}, ["allow_pickle is 'yes'. Expected a valid boolean."]),
        ({"source__generate": {"kind": "open", "rows": 5, "sed": 0}}, ["(aic).generate.sed: unknown key. Is it seed?"]),
        ({"source__fields": {"betas": "shape"}}, ["fields.betas is not a column", "smpl_betas"]),
        ({"source__fields": {"smpl_betas": []}}, ["fields.smpl_betas is empty"]),
        ({"source__image_path": [["(", ""]]}, ["image_path[0] is", "Expected a regular expression"]),
        ({"source__image_path": ["a"]}, ["image_path[0] is 'a'. Expected a valid tuple."]),
        ({"source__rows": 5, "source__generate": {"kind": "open", "rows": 6}}, ["rows = 5", "generate.rows = 6"]),
        ({"source__format": "hsmr", "skel_gender": "female"}, ["'aic' has SKEL rows of gender 'male'"]),
        ({"source__file": "${NOT_SET_ANYWHERE}/a.npz"}, ["NOT_SET_ANYWHERE is not set", "file"]),
    ],
)
def test_errors_name_the_key_and_what_was_expected(changes, words):
    with pytest.raises(UserError) as caught:
        parse_manifest(changed(**changes), "test.toml")
    for word in ["test.toml", *words]:
        assert word in str(caught.value)


def test_variables_and_their_defaults(monkeypatch):
    monkeypatch.setenv("LABELS", "/labels")
    monkeypatch.setenv("EMPTY", "")
    manifest = parse_manifest(changed(source__file="${LABELS}/${EMPTY:-x}/a.npz"), "test.toml")
    assert manifest.sources[0].file == Path("/labels/x/a.npz")
    monkeypatch.setenv("LABELS", "${SECRET}")  # what a variable holds is not looked at again
    assert parse_manifest(changed(source__file="${LABELS}/a.npz"), "x").sources[0].file == Path("${SECRET}/a.npz")


def test_sha256_follows_rows_not_places_or_formatting(tmp_path):
    base = parse_manifest(GOOD, "a.toml").sha256
    same = [
        {"source__file": "elsewhere/aic.npz"},
        {"description": "words"},
        {"body_models": {"kind": "open", "path": "elsewhere"}},
        {"source__rows": 7},
        {"source__image_root": "images"},
    ]
    other = [
        {"rows_per_shard": 101},
        {"skel_gender": "female"},
        {"recipe": "fast"},
        {"held_out_shards": 1},
        {"source__scale_unit": "px"},
        {"source__exclude": ["a"]},
        {"source__smpl_gender": "male"},
        {"source__fields": {"smpl_betas": "betas"}},
    ]
    assert {parse_manifest(changed(**changes), "b.toml").sha256 for changes in same} == {base}
    hashes = {parse_manifest(changed(**changes), "b.toml").sha256 for changes in other}
    assert len(hashes | {base}) == len(other) + 1
    spaced = tmp_path / "spaced.toml"
    spaced.write_text(
        '# comment\nskel_gender="male"\nname =   "mine"\nrows_per_shard=100\n'
        '[[sources]]\nfile="aic.npz"\nformat="camerahmr"\nname="aic"\n[body_models]\npath="models"\nkind="files"\n'
    )
    assert load_manifest(spaced).sha256 == base


def test_labels_as_published():
    """Of the male mesh, with the betas copied; the same as if both were written out."""
    manifest = parse_manifest(changed(recipe="published", skel_gender="male"), "a.toml")
    assert (manifest.recipe, {source.smpl_gender for source in manifest.sources}) == ("published_shape", {"male"})
    by_hand = changed(recipe="published_shape", skel_gender="male", source__smpl_gender="male")
    assert parse_manifest(by_hand, "a.toml") == manifest
    with pytest.raises(UserError, match=r"a\.toml: skel_gender is 'best'\. Expected 'male' with recipe 'published'"):
        parse_manifest(changed(recipe="published", skel_gender="best"), "a.toml")
