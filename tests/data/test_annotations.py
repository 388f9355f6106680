import numpy as np
import pytest

from hmr_skel.data.annotations import check_rows, plan_source
from hmr_skel.data.npz import file_sha256
from hmr_skel.errors import UserError
from tests.data.conftest import hsmr_arrays, label_arrays, make_source


@pytest.fixture
def read(tmp_path):
    """Save arrays as a label file and read all rows of it."""

    def read(arrays: dict, save=np.savez, **source):
        save(tmp_path / "labels.npz", **arrays)
        reader = plan_source(make_source(tmp_path / "labels.npz", **source), tmp_path / "cache").open()
        return reader.read(0, reader.num_rows)

    return read


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_float32_passes_bit_for_bit(read, save):
    arrays = label_arrays(20)
    rows = read(arrays, save)
    keys = {"center": "center", "cam_int": "cam_int", "keypoints_2d": "gtkps"}
    for column, key in (keys | {"smpl_pose": "pose_cam", "smpl_betas": "shape", "smpl_transl": "trans_cam"}).items():
        got = getattr(rows, column)
        assert got.dtype == np.float32
        assert got.tobytes() == arrays[key].tobytes()
    assert rows.imgname.tolist() == arrays["imgname"].tolist()
    assert rows.row_id[:2] == ["aic/00000000", "aic/00000001"]
    assert rows.keypoints_3d is None
    assert rows.skel_q is None
    assert set(rows.smpl_gender) == {"neutral"}
    assert rows.smpl_params().body_pose.shape == (20, 23, 3)


LABELS = label_arrays(4)
POSE, SCALE, POINTS = LABELS["pose_cam"], LABELS["scale"], LABELS["gtkps"]
CENTER = LABELS["center"] + 0.1234567891
BOTH, WIDE = np.stack([SCALE, SCALE], 1), np.stack([SCALE, 2 * SCALE], 1)
CAM_EXT = np.tile(np.eye(4), (4, 1, 1))
CAM_EXT[:, :3, 3] = np.arange(12).reshape(4, 3) / 7
GENDERS = {"gender": np.array(["m", "Female", "neutral", "-1"])}
NEUTRAL, FEMALE = ["neutral"] * 4, ["female"] * 4

# What is changed in a file (None: is not there), what the manifest says, the column and what it then is.
READ = {
    "rounded once": [
        ({"center": CENTER.astype(kind)}, {}, "center", CENTER.astype(kind).astype("f4"))
        for kind in ("f8", "f2", "i8", ">f4")
    ],
    "pose": [({"pose": POSE, "pose_cam": None}, {}, "smpl_pose", POSE)],
    "pose of joints": [({"pose_cam": POSE.reshape(4, 24, 3)}, {}, "smpl_pose", POSE)],
    "CameraHMR's own name wins": [({"pose": 0 * POSE}, {}, "smpl_pose", POSE)],
    "one scale": [({}, {}, "scale", BOTH), ({"scale": SCALE[:, None]}, {}, "scale", BOTH)],
    "two scales": [({"scale": WIDE}, {}, "scale", WIDE)],
    "scales in px": [({"scale": WIDE * np.float32(256)}, {"scale_unit": "px"}, "scale", WIDE * np.float32(1.28))],
    "the first 44 keypoints count": [({"gtkps": np.tile(POINTS, (1, 2, 1))}, {}, "keypoints_2d", POINTS)],
    "no keypoints": [({}, {"fields": {"keypoints_2d": []}}, "keypoints_2d", None)],
    "cam_ext is added": [
        ({"cam_ext": CAM_EXT}, {}, "smpl_transl", (CAM_EXT[:, :3, 3] + LABELS["trans_cam"]).astype(np.float32))
    ],
    "no gender": [({}, {}, "smpl_gender", NEUTRAL)],
    "gender of the row": [(GENDERS, {}, "smpl_gender", ["male", "female", "neutral", "-1"])],
    "gender of the manifest": [(GENDERS, {"smpl_gender": "female"}, "smpl_gender", FEMALE)],
}


@pytest.mark.parametrize("name", READ)
def test_every_spelling_of_a_column(read, name):
    for changes, source, column, expected in READ[name]:
        arrays = {key: value for key, value in (LABELS | changes).items() if value is not None}
        found = getattr(read(arrays, **source), column)
        if expected is None:
            assert found is None
        else:
            np.testing.assert_array_equal(found, expected)


def test_names_as_bytes_or_objects(read):
    arrays = label_arrays(4)
    expected = arrays["imgname"].tolist()
    arrays["imgname"] = np.char.encode(arrays["imgname"])
    assert read(arrays).imgname.tolist() == expected
    arrays["imgname"] = np.array([*expected[:2], b"\xff\xfe", 7], object)
    assert read(arrays, allow_pickle=True).imgname.tolist() == [*expected[:2], b"\xff\xfe", 7]
    with pytest.raises(UserError, match="'imgname' has Python objects"):
        read(arrays)


def test_more_betas_only_where_the_manifest_admits_them(read):
    arrays = label_arrays(5)
    ten = arrays["shape"]
    arrays["shape"] = np.concatenate([ten, ten[:, :6]], axis=1)
    with pytest.raises(UserError, match=r"has shape \(5, 16\)\. Expected \(N, 10\)\..*num_betas = 16"):
        read(arrays)
    np.testing.assert_array_equal(read(arrays, num_betas=16).smpl_betas, ten)
    with pytest.raises(UserError, match=r"has shape \(5, 9\)"):
        read(arrays | {"shape": ten[:, :9]}, num_betas=16)


def test_keypoints_3d_get_confidence(read):
    points = np.random.default_rng(0).normal(size=(5, 44, 3)).astype(np.float32)
    points[2, 7] = np.nan
    got = read(label_arrays(5) | {"keypoints3d": points}).keypoints_3d
    np.testing.assert_array_equal(got[..., :3], points)
    assert got[2, 7, 3] == 0
    assert got[..., 3].sum() == 5 * 44 - 1
    with_confidence = np.concatenate([points, points[..., :1]], axis=-1)
    np.testing.assert_array_equal(
        read(label_arrays(5) | {"keypoints3d": with_confidence}).keypoints_3d, with_confidence
    )


def test_hsmr_rows_pass_through(read):
    arrays = hsmr_arrays(6)
    rows = read(arrays, format="hsmr")
    np.testing.assert_array_equal(rows.skel_q, arrays["orig_poses"])
    np.testing.assert_array_equal(rows.skel_betas, arrays["orig_betas"])
    np.testing.assert_array_equal(rows.keypoints_3d, arrays["keypoints_3d"])
    assert set(rows.skel_gender) == {"male"}
    assert rows.imgname[0] == "S1_000000"
    for column in ("skel_transl", "cam_int", "smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender"):
        assert getattr(rows, column) is None, column


def test_skel_cf_release_is_read_as_hsmr(read):
    """*-release-skel.npz: skel_* win over orig_*, and SMPL keys beside them are not mixed in."""
    arrays = hsmr_arrays(6)
    release = label_arrays(6) | {
        "skel_poses": arrays["orig_poses"] + 1,
        "skel_betas": arrays["orig_betas"],
        "skel_trans": np.ones((6, 3), np.float32),
        "orig_poses": arrays["orig_poses"],
    }
    rows = read(release, format="hsmr")
    np.testing.assert_array_equal(rows.skel_q, arrays["orig_poses"] + 1)
    assert (rows.skel_transl == 1).all()
    assert rows.cam_int is not None
    assert rows.smpl_pose is None


def test_fields_of_the_manifest(read):
    arrays = label_arrays(5)
    arrays["betas_v2"] = arrays.pop("shape")
    with pytest.raises(UserError, match=r"has no key 'shape' \(smpl_betas\).*It has: betas_v2, cam_int.*smpl_betas = "):
        read(arrays)
    assert read(arrays, fields={"smpl_betas": ["shape", "betas_v2"]}).smpl_betas.shape == (5, 10)
    assert read(arrays, fields={"smpl_betas": "betas_v2"}).smpl_betas.shape == (5, 10)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cam_int", None, "has no key 'cam_int'"),
        ("pose_cam", None, "has no key 'pose_cam' or 'pose'"),
        ("pose_cam", np.zeros((5, 69)), r"\(smpl_pose\) has shape \(5, 69\)\. Expected \(N, 72\) or \(N, 24, 3\)"),
        ("scale", np.zeros((5, 3)), r"'scale' \(scale\) has shape \(5, 3\)\. Expected \(N\) or \(N, 1\) or \(N, 2\)"),
        ("gtkps", np.zeros((5, 43, 3)), r"Expected \(N, 44, 3\)"),
        ("center", np.zeros((4, 2)), "different numbers of rows: .*'center' 4"),
        ("center", np.float32(1), r"'center' .* has shape \(\)"),
        ("imgname", np.arange(5), "'imgname' .* holds int64. Expected texts"),
        ("center", np.full((5, 2), "x"), "'center' .* holds <U1. Expected numbers"),
    ],
)
def test_missing_and_misshapen_keys(read, key, value, words):
    arrays = label_arrays(5)
    del arrays[key]
    if value is not None:
        arrays[key] = value
    with pytest.raises(UserError, match=words) as caught:
        read(arrays)
    assert "labels.npz" in str(caught.value)


def test_empty_file_and_unexpected_row_count(read):
    with pytest.raises(UserError, match="holds no rows"):
        read({key: values[:0] for key, values in label_arrays(5).items()})
    with pytest.raises(UserError, match="holds 5 rows, but the manifest expects 6 of source 'aic'"):
        read(label_arrays(5), rows=6)


def test_content_id_is_of_the_content(tmp_path):
    def content_id(name: str, arrays: dict, save=np.savez) -> str:
        save(tmp_path / name, **arrays)
        return plan_source(make_source(tmp_path / name), tmp_path / "cache").open().content_id

    arrays = label_arrays(5)
    base = content_id("a.npz", arrays)
    assert content_id("b.npz", arrays, np.savez_compressed) == base
    assert content_id("c.npz", arrays | {"not_read": np.zeros(5)}) == base
    changed = arrays["shape"].copy()
    changed[4, 9] += 1e-6
    assert content_id("d.npz", arrays | {"shape": changed}) != base
    assert content_id("e.npz", arrays | {"has_smpl": np.ones(5)}) != base  # built before the flags were read: outdated


def test_rows_that_the_file_says_are_not_annotated(read):
    flags = {"has_smpl": np.array([1, 0, 1, 1, 1], bool), "has_betas": np.array([[1], [1], [1], [0], [1]], np.float32)}
    arrays = label_arrays(5)
    arrays["shape"][1] = np.nan  # of a row that holds nothing, the flag is the reason
    kept, rejects = check_rows(read(arrays | flags))
    assert kept.source_row.tolist() == [0, 2, 4]
    assert [(reject.source_row, reject.reason) for reject in rejects] == [(1, "not annotated"), (3, "not annotated")]
    rows = read(hsmr_arrays(5) | {"orig_has_poses": np.array([1, 1, 0, 1, np.nan])}, format="hsmr")
    assert [reject.source_row for reject in check_rows(rows)[1]] == [2, 4]
    for flag in (np.ones(4), np.ones((5, 2)), np.array(["yes"] * 5)):
        with pytest.raises(UserError, match="has_smpl"):
            read(label_arrays(5) | {"has_smpl": flag})


def test_expected_hash(read, tmp_path):
    np.savez(tmp_path / "labels.npz", **label_arrays(5))
    sha256 = file_sha256(tmp_path / "labels.npz")
    assert len(read(label_arrays(5), sha256=sha256)) == 5
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{64}, but the manifest expects 0000"):
        read(label_arrays(5), sha256="0" * 64)
