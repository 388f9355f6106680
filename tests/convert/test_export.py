"""Datasets in other trainers' files, read back as those trainers read them."""

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import fitting
from fitting.distances import mesh_distances_mm
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.cli import main
from hmr_skel.convert import Bodies
from hmr_skel.convert.export import LABEL_LAYOUTS, Exported, export_dataset
from hmr_skel.convert.mirror import SMPL_MIRROR, mirrored_largest_mm, mirrored_smpl
from hmr_skel.data.annotations import plan_source
from hmr_skel.data.load import Shards
from hmr_skel.data.schema import shard_table
from hmr_skel.data.shards import Piece, Shard
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows, SkelParams, SmplParams
from tests.data.conftest import label_arrays, make_source
from tests.data.sample_set import fake_fit, write_files

ROWS = 7
SKEL_CF_KEYS = {
    "center": "center", "scale": "scale", "cam_int": "cam_int", "gtkps": "keypoints_2d", "keypoints3d": "keypoints_3d",
    "poses": "smpl_pose", "betas": "smpl_betas", "trans": "smpl_transl", "pose_cam": "smpl_pose",
    "shape": "smpl_betas", "trans_cam": "smpl_transl",
}  # fmt: skip
"""What the published trainer's `dataset_train.py` reads, and SMPL under the names of CameraHMR and of the published
fitter."""
SKEL_CF_FITS = {"skel_poses": "skel_q", "skel_betas": "skel_betas", "skel_trans": "skel_transl"}


def rows_of(source: str, seed: int = 0, **changes) -> AnnotationRows:
    arrays = label_arrays(ROWS, seed)
    columns = {
        "imgname": arrays["imgname"].astype(object),
        "center": arrays["center"],
        "scale": np.stack([arrays["scale"]] * 2, 1),
        "cam_int": arrays["cam_int"],
        "keypoints_2d": arrays["gtkps"],
        "keypoints_3d": np.random.default_rng(seed).normal(size=(ROWS, 44, 4)).astype(np.float32),
        "smpl_pose": arrays["pose_cam"],
        "smpl_betas": arrays["shape"],
        "smpl_transl": arrays["trans_cam"],
        "smpl_gender": np.full(ROWS, "neutral", object),
    }
    return AnnotationRows(source=source, source_row=np.arange(ROWS), **(columns | changes))


def dataset(folder: Path, *pieces: tuple[AnnotationRows, dict | None], held_out: bool = False) -> Path:
    """A dataset of a shard per piece, the last one held out if asked for."""
    for index, (rows, fit) in enumerate(pieces):
        last = held_out and index == len(pieces) - 1
        shard = Shard(index, len(pieces), (Piece(rows.source, 0, len(rows)),), last)
        table = shard_table(rows, fit)
        write_files(folder, shard, table)
    return folder


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_skel_cf(tmp_path: Path):
    one, two, other = rows_of("coco", 1), rows_of("coco", 2), rows_of("aic", 3)
    fits = [fake_fit(ROWS, seed) for seed in range(3)]
    folder = dataset(tmp_path / "set", (one, fits[0]), (other, fits[1]), (two, fits[2]))
    written = export_dataset(folder, tmp_path / "out", "skel-cf")
    assert written == {
        tmp_path / "out" / "coco-release-skel.npz": Exported(2 * ROWS, 0),
        tmp_path / "out" / "aic-release-skel.npz": Exported(ROWS, 0),
    }
    labels = load(tmp_path / "out" / "coco-release-skel.npz")
    assert labels["imgname"].dtype.kind == "U"
    assert labels["imgname"].tolist() == [*one.imgname, *two.imgname]
    expected = {
        **{key: (getattr(one, name), getattr(two, name)) for key, name in SKEL_CF_KEYS.items()},
        **{key: (fits[0][name], fits[2][name]) for key, name in SKEL_CF_FITS.items()},
    }
    assert set(labels) == {"imgname", *expected}
    for key, parts in expected.items():
        assert labels[key].dtype == np.float32, key
        np.testing.assert_array_equal(labels[key], np.concatenate(parts), err_msg=key)


def test_keypoints_that_are_not_annotated_count_for_nothing(tmp_path: Path):
    points = rows_of("coco").keypoints_2d.copy()
    points[0, 3] = np.nan, np.nan, 0
    points[1] = np.nan  # a row without any: null in the dataset
    folder = dataset(tmp_path / "set", (rows_of("coco", keypoints_2d=points), fake_fit(ROWS)))
    export_dataset(folder, tmp_path, "skel-cf")
    found = load(tmp_path / "coco-release-skel.npz")["gtkps"]
    assert np.isfinite(found).all()
    assert not found[0, 3].any()
    assert not found[1].any()
    np.testing.assert_array_equal(found[2:], points[2:])


@pytest.fixture(scope="module")
def fitted(bodies: Bodies) -> tuple[AnnotationRows, dict[str, np.ndarray]]:
    """Rows really fitted."""
    rows = rows_of("mpii", smpl_pose=0.3 * label_arrays(ROWS)["pose_cam"])
    result = fitting.fit_many(rows.smpl_params(), bodies.model("neutral", "male"))
    fit = fake_fit(ROWS) | {
        "skel_q": result.skel.q.numpy(),
        "skel_betas": result.skel.betas.numpy(),
        "skel_transl": result.skel.transl.numpy(),
        "v2v_max_mm": result.v2v_max_mm.numpy(),
    }
    return rows, fit


def test_hsmr_fields_read_by_our_own_reader(tmp_path: Path, fitted, bodies: Bodies):
    rows, fit = fitted
    folder = dataset(tmp_path / "set", fitted)
    export_dataset(folder, tmp_path / "out", "hsmr", bodies=bodies)
    path = tmp_path / "out" / "mpii-release-skel.npz"
    labels = load(path)
    assert set(labels) == {
        "imgname", "center", "scale", "keypoints_2d", "keypoints_3d", "orig_poses", "orig_betas", "orig_has_poses",
        "orig_has_betas", "orig_pve_max", "flip_poses", "flip_betas", "flip_pve_max", "extra_info",
    }  # fmt: skip
    np.testing.assert_allclose(labels["orig_pve_max"], fit["v2v_max_mm"] / 1000)
    assert [json.loads(text) for text in labels["extra_info"].tolist()][3] == {
        "dataset_name": "mpii", "row_id": "mpii/00000003", "source_row": 3, "status": "converged",
    }  # fmt: skip
    index = DOF_NAMES.index
    mirrored = labels["flip_poses"]
    assert (mirrored[:, index("knee_angle_l")] == fit["skel_q"][:, index("knee_angle_r")]).all()
    assert (mirrored[:, index("lumbar_bending")] == -fit["skel_q"][:, index("lumbar_bending")]).all()
    assert np.isfinite(labels["flip_pve_max"]).all()
    assert (labels["flip_pve_max"] != labels["orig_pve_max"]).all()
    np.testing.assert_allclose(labels["flip_pve_max"], labels["orig_pve_max"], atol=0.06)
    reader = plan_source(make_source(path, name="mpii", format="hsmr"), tmp_path / "cache").open()
    again = reader.read(0, ROWS)
    assert (again.skel_q == fit["skel_q"]).all()
    assert (again.center == rows.center).all()


def columns_of(fitted: tuple[AnnotationRows, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    rows, fit = fitted
    smpl = {name: getattr(rows, name) for name in ("smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender")}
    return {**smpl, **{name: fit[name] for name in fit if name.startswith(("skel", "v2v_max"))}}


def params_of(columns: dict[str, np.ndarray]) -> tuple[SmplParams, SkelParams]:
    tensors = {name: torch.from_numpy(values) for name, values in columns.items() if values.dtype == np.float32}
    pose = tensors["smpl_pose"].reshape(-1, 24, 3)
    return (
        SmplParams(pose[:, 0], pose[:, 1:], tensors["smpl_betas"], tensors["smpl_transl"]),
        SkelParams(tensors["skel_q"], tensors["skel_betas"], tensors["skel_transl"]),
    )


def test_a_mirrored_body_is_as_far_off_as_the_body_itself(fitted, bodies: Bodies):
    """The open body is symmetric, so that mirrored meshes are mirror images, but for SKEL's ankles."""
    columns = columns_of(fitted)
    columns["skel_q"] = columns["skel_q"].copy()
    columns["skel_q"][:, [DOF_NAMES.index(f"ankle_angle_{side}") for side in "rl"]] = 0
    annotated, fit = params_of(columns)
    smpl = bodies.smpl("neutral")
    columns["v2v_max_mm"] = mesh_distances_mm(annotated, fit, bodies.model("neutral", "male"))[1].numpy()
    np.testing.assert_allclose(mirrored_largest_mm(columns, bodies), columns["v2v_max_mm"], atol=0.2)
    # As images: every mirrored SMPL joint is the mirror image of its partner.
    turned = mirrored_smpl(annotated, smpl)
    there = smpl(annotated.global_orient, annotated.body_pose, annotated.betas, annotated.transl).joints
    here = smpl(turned.global_orient, turned.body_pose, turned.betas, turned.transl).joints
    torch.testing.assert_close(here[:, SMPL_MIRROR] * torch.tensor([-1.0, 1, 1]), there, atol=2e-4, rtol=0)


def test_other_bodies_than_those_of_the_fit_are_noticed(tmp_path: Path, fitted, bodies: Bodies):
    rows, fit = fitted
    folder = dataset(tmp_path / "set", (rows, fit | {"v2v_max_mm": fit["v2v_max_mm"] + 1}))
    with pytest.raises(UserError, match=r"other body models than the dataset was fitted with.*up to 1\.0 mm"):
        export_dataset(folder, tmp_path / "out", "hsmr", bodies=bodies)
    with pytest.raises(UserError, match=r"flip_pve_max is measured on meshes.*--body-models"):
        export_dataset(folder, tmp_path / "out", "hsmr")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("format", LABEL_LAYOUTS)
def test_columns_are_read_shard_by_shard_and_let_go(tmp_path: Path, fitted, bodies: Bodies, monkeypatch, format: str):
    """Of three million rows whole columns are gigabytes: what has been read of one shard is gone before the next."""
    folder, read, alive = dataset(tmp_path / "set", *[fitted] * 3), [], []
    original = Shards.__getitem__

    def counting(self, column):
        array = original(self, column)
        read.append(self.paths)
        alive.append((weakref.ref(array), self.paths))
        assert len({paths for ref, paths in alive if ref() is not None}) <= 2
        return array

    monkeypatch.setattr(Shards, "__getitem__", counting)
    written = export_dataset(folder, tmp_path / "out", format, bodies=bodies)
    assert [file.rows for file in written.values()] == [3 * ROWS]
    assert {len(paths) for paths in read} == {1}
    assert len(read) > 3 * len(load(*written)) / 2  # so were most columns, and no other way


def test_rows_that_hsmr_will_not_take_are_counted(tmp_path: Path, fitted, bodies: Bodies):
    rows, fit = fitted
    far = fit | {"skel_transl": fit["skel_transl"].copy()}
    far["skel_transl"][2, 0] += 0.1  # 100 mm to the side: beyond HSMR's 60
    columns = columns_of((rows, far))
    annotated, moved = params_of(columns)
    far["v2v_max_mm"] = mesh_distances_mm(annotated, moved, bodies.model("neutral", "male"))[1].numpy()
    written = export_dataset(dataset(tmp_path / "set", (rows, far)), tmp_path / "out", "hsmr", bodies=bodies)
    assert [file.beyond for file in written.values()] == [1 + int((fit["v2v_max_mm"] > 60).sum())]


def test_held_out_shards_stay_out(tmp_path: Path):
    pieces = [(rows_of("a", seed), fake_fit(ROWS, seed)) for seed in (1, 2)]
    folder = dataset(tmp_path / "set", *pieces, held_out=True)
    for split, fits in (("train", [1]), ("test", [2]), (None, [1, 2])):
        export_dataset(folder, tmp_path, "skel-cf", split=split)
        found = load(tmp_path / "a-release-skel.npz")["skel_poses"]
        assert (found == np.concatenate([fake_fit(ROWS, seed)["skel_q"] for seed in fits])).all()


@pytest.mark.parametrize(
    ("format", "poses", "missing"),
    [
        ("skel-cf", "skel_poses", {"poses", "pose_cam", "skel_trans"}),
        ("hsmr", "orig_poses", {"flip_pve_max", "orig_pve_max"}),  # and it needs no bodies
    ],
)
def test_rows_that_came_as_skel_have_no_smpl(tmp_path: Path, format: str, poses: str, missing: set[str]):
    none = dict.fromkeys(("smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender"))
    given = rows_of("h36m", **none, **{name: fake_fit(ROWS)[name] for name in ("skel_q", "skel_betas", "skel_gender")})
    export_dataset(dataset(tmp_path / "set", (given, None)), tmp_path, format)
    labels = load(tmp_path / "h36m-release-skel.npz")
    assert not missing & set(labels)
    assert (labels[poses] == given.skel_q).all()
    if format == "hsmr":
        assert json.loads(str(labels["extra_info"][0]))["status"] == "given"


def test_rows_of_the_other_gender_are_refused(tmp_path: Path):
    fit = fake_fit(ROWS) | {"skel_gender": np.array(["female"] * 2 + ["male"] * (ROWS - 2), object)}
    folder = dataset(tmp_path / "set", (rows_of("coco"), fit))
    with pytest.raises(UserError, match=r"2 of 7 rows are of the female SKEL.*skel_gender = 'male'"):
        export_dataset(folder, tmp_path / "out", "skel-cf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../x", "a\\b", ""])
def test_a_source_that_is_no_name_is_refused(tmp_path: Path, name: str):
    folder = dataset(tmp_path / "set", (rows_of(name), fake_fit(ROWS)))
    with pytest.raises(UserError, match="is no source's name"):
        export_dataset(folder, tmp_path / "a" / "out", "skel-cf")
    assert not list(tmp_path.rglob("*-release-skel.npz"))


def test_what_the_format_needs_has_to_be_there(tmp_path: Path):
    folder = dataset(
        tmp_path / "set", (rows_of("coco"), fake_fit(ROWS)), (rows_of("h36m", cam_int=None), fake_fit(ROWS))
    )
    with pytest.raises(UserError, match=r"7 of 7 rows of source 'h36m' have no cam_int, which the format needs for"):
        export_dataset(folder, tmp_path / "out", "skel-cf")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = dataset(tmp_path / "set", (rows_of("coco"), fake_fit(ROWS)))
    assert main(["export", str(folder), "--format", "skel-cf", "-o", str(tmp_path / "out"), "--json"]) == 0
    text, report = capsys.readouterr().out.strip().splitlines()
    assert "7 rows" in text
    assert f'"{tmp_path / "out" / "coco-release-skel.npz"}": 7' in report
    assert main(["export", str(tmp_path / "nothing"), "--format", "hsmr", "-o", str(tmp_path / "out")]) == 2
    assert "no shards" in capsys.readouterr().err
