"""The benchmarks' label files: what is read of each format, and what is refused."""

import re

import numpy as np
import pytest

from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import BENCHMARKS, REGRESSOR_FILES, BenchmarkFiles, chosen, legacy_switches
from hmr_skel.evaluate.labels import load_rows
from hmr_skel.evaluate.summary import sequences_of
from tests.evaluate.conftest import changed_labels
from tests.evaluate.stand_in import ROWS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_format_is_read(opened, stand_in, name):
    benchmark, rows, _ = opened(name)
    labels = stand_in.labels
    assert len(rows) == ROWS
    np.testing.assert_array_equal(rows.row, np.arange(ROWS))
    np.testing.assert_array_equal(rows.center, labels["center"])
    np.testing.assert_allclose(rows.told_side, rows.side)
    assert all((stand_in.folder / "images" / benchmark.images / image).is_file() for image in rows.imgname)
    if benchmark.truth.endswith("smpl"):
        np.testing.assert_array_equal(rows.smpl_pose, labels["pose_cam"])
        np.testing.assert_array_equal(rows.smpl_betas, labels["shape"])
    gender = {"gendered_smpl": ["male", "female"] * 3, "neutral_smpl": ["neutral"] * 6}.get(benchmark.truth)
    assert gender == (None if rows.smpl_gender is None else rows.smpl_gender.tolist())
    groups = sequences_of(rows.imgname.tolist(), benchmark.sequence)
    assert groups == [None] * 6 if benchmark.sequence is None else len(set(groups)) == 3
    assert None not in groups or benchmark.sequence is None


def test_boxes(opened, stand_in):
    """CameraHMR's are / 200, HMR2's in px, MOYO's w and h in px, widened to 192:256 before they are squared."""
    side = 200 * stand_in.labels["scale"]
    for name in ("3dpw", "h36m-p2", "coco"):
        np.testing.assert_allclose(opened(name)[1].side, side, rtol=1e-6)
    wide = np.arange(ROWS) % 2 == 1  # boxes as wide as high; the others are half as wide
    np.testing.assert_allclose(opened("moyo")[1].side, np.where(wide, side / 0.75, side), rtol=1e-6)
    legacy = opened("moyo", "moyo-box")[1]
    np.testing.assert_allclose(legacy.side, opened("moyo")[1].side)
    np.testing.assert_allclose(legacy.told_side, side, rtol=1e-6)


def test_openpose_limbs_of_3d_labels_do_not_count(opened):
    points = opened("h36m-p2")[1].keypoints_3d
    assert (points[:, 1:15, 3] == 0).all()
    assert (np.delete(points, np.arange(1, 15), 1)[..., 3] == 1).all()


def test_in_the_published_code_who_is_not_male_is_female(stand_in, tmp_path):
    benchmark, gender = BENCHMARKS["emdb"], np.array(["m", "neutral", "f", "male", "neutral", "female"])
    path = changed_labels(stand_in, "emdb", tmp_path, gender=gender)
    found = load_rows(benchmark, path, ["neutral-female"]).smpl_gender
    assert found.tolist() == ["male", "female", "female", "male", "female", "female"]
    assert load_rows(benchmark, path).smpl_gender.tolist()[1] == "neutral"
    path = changed_labels(stand_in, "emdb", tmp_path, gender=None)  # a file that says nothing of genders
    assert set(load_rows(benchmark, path, ["neutral-female"]).smpl_gender) == {"neutral"}


@pytest.mark.parametrize(("text", "gender"), [(b"m", "male"), ("F", "female"), (None, "neutral")])
def test_genders_are_what_they_say(stand_in, tmp_path, text, gender):
    path = changed_labels(stand_in, "3dpw", tmp_path, gender=text and np.array([text] * ROWS))
    assert load_rows(BENCHMARKS["3dpw"], path).smpl_gender.tolist() == [gender] * ROWS


MOYO = {"global_orient": [[0] * 3] * ROWS, "body_pose": [[0] * 69] * ROWS}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("3dpw", {"gender": np.array(["x"] * ROWS)}, r"row 0: smpl_gender is 'x'; expected neutral"),
        ("3dpw", {"pose_cam": None, "pose": np.zeros((ROWS, 72))}, r"has no key 'pose_cam' .*It has: .*3dpw_test\.npz"),
        ("3dpw", {"pose_cam": np.zeros((5, 72))}, r"smpl_pose has shape \(5, 72\)\. Expected 6"),
        ("3dpw", {"pose_cam": np.array([[0], [0, 1]] * 3, object)}, r"smpl_pose does not contain numbers of one shape"),
        ("spec-syn", {"shape": np.zeros((ROWS, 9))}, r"smpl_betas has shape \(6, 9\)\. Expected \(N, 1"),
        ("3dpw", {"center": np.full((ROWS, 2), np.nan)}, r"row 0: center\[0\] is nan"),
        ("coco", {"scale": np.zeros((ROWS, 2))}, r"row 0: the box is 0 px\. Expected 1"),
        ("3dpw", {"cam_int": np.zeros((ROWS, 3, 3))}, r"row 0: cam_int has focal lengths \[0\.0, 0\.0\]"),
        ("3dpw", {"cam_int": np.zeros((ROWS, 3))}, r"cam_int has shape \(6, 3\)\. Expected \(N, 3"),
        ("h36m-p2", {"extra_keypoints_3d": None}, r"has no key 'extra_keypoints_3d'.*Human3\.6M"),
        ("coco", {"body_keypoints_2d": None, "extra_keypoints_2d": None}, r"has no key 'body_keypoints_2d'"),
        ("moyo", {"scales": np.ones(ROWS)}, r"'scales' has shape \(6,\), expected \(6, 2\)"),
        (
            "moyo",
            {"smpl": np.array(MOYO | {"betas": [[1], []]}, object)},
            r"'betas' does not contain numbers of one shape",
        ),
        ("moyo", {"smpl": np.array({"poses": 1}, object)}, r"'smpl' contains poses, expected a dict with"),
    ],
)
def test_what_is_refused(stand_in, tmp_path, name, changes, message):
    path = changed_labels(stand_in, name, tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load_rows(BENCHMARKS[name], path)


@pytest.mark.parametrize(
    ("name", "changes", "side"),
    [
        ("moyo", {"scales": np.array([[0.5, 300]] * ROWS)}, 300),  # the longer side counts
        ("3dpw", {"imgname": (ROWS, 1), "gender": (ROWS, 1), "pose_cam": (ROWS, 1, 72)}, None),
    ],
)
def test_unusual_labels_are_read(stand_in, opened, tmp_path, name, changes, side):
    """Tuples are other shapes of the file's own arrays."""
    usual = np.load(stand_in.folder / "labels" / BENCHMARKS[name].labels, allow_pickle=True)
    changes = {k: usual[k].reshape(v) if isinstance(v, tuple) else v for k, v in changes.items()}
    rows = load_rows(BENCHMARKS[name], changed_labels(stand_in, name, tmp_path, **changes))
    np.testing.assert_array_equal(rows.imgname, opened(name)[1].imgname)
    np.testing.assert_array_equal(rows.smpl_pose, opened(name)[1].smpl_pose)
    np.testing.assert_array_equal(rows.told_side, side or opened(name)[1].told_side)


@pytest.mark.parametrize(
    ("name", "gone", "slots"),
    [("h36m-p2", "body_keypoints_3d", slice(0, 25)), ("coco", "extra_keypoints_2d", slice(25, 44))],
)
def test_keypoints_that_the_protocol_does_not_need_may_be_absent(stand_in, tmp_path, name, gone, slots):
    """Human3.6M scores the extra ones alone; COCO whatever is labelled."""
    rows = load_rows(BENCHMARKS[name], changed_labels(stand_in, name, tmp_path, **{gone: None}))
    points = rows.keypoints_2d if name == "coco" else rows.keypoints_3d
    assert not points[:, slots].any()
    assert np.delete(points, np.arange(44)[slots], 1)[..., -1].any()


def test_a_missing_file_names_itself_and_where_it_is_from(tmp_path):
    for benchmark in BENCHMARKS.values():
        with pytest.raises(UserError, match=re.escape(benchmark.labels_from)) as raised:
            BenchmarkFiles.find(benchmark, tmp_path)
        assert str(tmp_path / "labels" / benchmark.labels) in str(raised.value)


H36M = "J_regressor_h36m.npy"
KEYPOINTS = ("J_regressor_SKEL_mix_MALE.pkl", "SMPL_to_J19.pkl")
LSP = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9][:14]
LIMBS_NECK_HEAD = [25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 43]


@pytest.mark.parametrize(
    ("name", "truth", "root", "scored", "files"),
    [
        ("3dpw", "gendered_smpl", [0], LSP, (H36M,)),
        ("emdb", "gendered_smpl", [1, 2], list(range(24)), ("SMPL_NEUTRAL.pkl",)),
        ("spec-syn", "gendered_smpl", [1, 4], list(range(17)), (H36M,)),  # the hips; published: a hip and its knee
        ("moyo", "neutral_smpl", [0], list(range(24)), ("J_regressor_SMPL_MALE.pkl",)),
        ("moyo-hard", "neutral_smpl", [0], list(range(24)), ("J_regressor_SMPL_MALE.pkl",)),
        ("h36m-p2", "keypoints_3d", [39], LIMBS_NECK_HEAD, KEYPOINTS),
        ("coco", "keypoints_2d", [39], list(range(44)), KEYPOINTS),
    ],
)
def test_joint_sets_are_the_protocols(name, truth, root, scored, files):
    benchmark = BENCHMARKS[name]
    assert benchmark.truth == truth
    assert list(benchmark.joints.root) == root
    assert list(benchmark.joints.scored) == scored
    assert REGRESSOR_FILES[benchmark.joints.regressor] == files


def test_names_of_benchmarks_and_switches():
    assert [one.name for one in chosen("emdb, 3DPW,emdb")] == ["emdb", "3dpw"]
    assert [one.name for one in chosen("all")] == list(BENCHMARKS)
    with pytest.raises(UserError, match=r"no benchmark 'rich'.*3dpw"):
        chosen("rich")
    assert BENCHMARKS["h36m-p2"].legacy(legacy_switches("all")) == ("bgr-focal", "aliased-crop")
    assert BENCHMARKS["emdb"].legacy(legacy_switches("all")) == ("neutral-female", "aliased-crop")
    assert BENCHMARKS["spec-syn"].legacy(legacy_switches("spec-root,bgr-focal")) == ("spec-root",)
    assert BENCHMARKS["moyo-hard"].legacy(legacy_switches("bgr-focal,moyo-box,moyo-crop,neutral-female")) == (
        "bgr-focal", "moyo-box", "moyo-crop"
    )  # fmt: skip
    with pytest.raises(UserError, match=r"--legacy rgb: there is no such switch"):
        legacy_switches("rgb")
