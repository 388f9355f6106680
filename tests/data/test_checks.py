import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hmr_skel.data.annotations import check_rows, plan_source
from tests.data.conftest import hsmr_arrays, label_arrays, make_source


@pytest.fixture
def rows(tmp_path):
    np.savez(tmp_path / "a.npz", **label_arrays(12))
    return plan_source(make_source(tmp_path / "a.npz"), tmp_path).open().read(0, 12)


@pytest.fixture
def skel_rows(tmp_path):
    np.savez(tmp_path / "h.npz", **hsmr_arrays(12))
    return plan_source(make_source(tmp_path / "h.npz", format="hsmr"), tmp_path).open().read(0, 12)


def set_value(column: str, index: tuple, value):
    def salt(rows, row: int) -> None:
        getattr(rows, column)[(row, *index)] = value

    return salt


SALTS = {
    "NaN pose": (set_value("smpl_pose", (7,), np.nan), "non_finite", "smpl_pose[7] is nan (1 of 72"),
    "infinite betas": (set_value("smpl_betas", (2,), np.inf), "non_finite", "smpl_betas[2] is inf"),
    "absurd betas": (set_value("smpl_betas", (3,), -10.5), "betas", "|smpl_betas[3]| is 10.5; expected 10 at most"),
    "zero box": (set_value("scale", (), 0), "box", "box of 0 x 0 px; expected 1 px"),
    "huge box": (set_value("scale", (0,), 1e6), "box", "expected 1e+06 px at most"),
    "zero focal length": (set_value("cam_int", (0, 0), 0), "camera", "focal lengths [0.0, 1000.0]"),
    "no intrinsics": (set_value("cam_int", (), 1), "camera", "last row [1.0, 1.0, 1.0]"),
    "pose beyond float32's squares": (set_value("smpl_pose", (5,), 1e30), "pose", "joint[1]| is inf rad"),
    "box beyond float32": (set_value("scale", (), 3e38), "box", "box of inf x inf px"),
    "degrees": (set_value("smpl_pose", (5,), 90), "pose", "joint[1]| is 90"),
    "far away": (set_value("smpl_transl", (2,), 1e5), "transl", "is 100000 m"),
    "empty name": (set_value("imgname", (), " "), "imgname", "' '"),
    "number as name": (set_value("imgname", (), 17), "imgname", "imgname is 17"),
    "gender": (set_value("smpl_gender", (), "-1"), "gender", "smpl_gender is '-1'; expected neutral, male, female"),
    "confidence without keypoint": (set_value("keypoints_2d", (4, 0), np.nan), "non_finite", "keypoints_2d[4] is [nan"),
    "keypoint without confidence": (set_value("keypoints_2d", (5, 2), np.nan), "non_finite", "keypoints_2d[5]"),
}


@pytest.mark.parametrize("name", SALTS)
def test_a_bad_row_is_rejected_with_its_reason_and_harms_no_other(rows, name):
    salt, reason, words = SALTS[name]
    whole = rows.take(np.arange(12))
    salt(rows, 5)
    kept, (reject,) = check_rows(rows)
    assert (reject.source_row, reject.row_id, reject.reason) == (5, "aic/00000005", reason)
    assert words in reject.detail
    assert isinstance(reject.imgname, str)
    others = np.delete(np.arange(12), 5)
    for column in ("source_row", "imgname", "smpl_pose", "smpl_betas", "keypoints_2d", "scale"):
        np.testing.assert_array_equal(getattr(kept, column), getattr(whole, column)[others])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(sorted(SALTS))), max_size=12))
def test_kept_and_rejected_are_all_rows(rows, salts):
    rows = rows.take(np.arange(12))  # a copy
    for row, name in salts:
        SALTS[name][0](rows, row)
    kept, rejects = check_rows(rows)
    rejected = [reject.source_row for reject in rejects]
    assert sorted([*kept.source_row.tolist(), *rejected]) == list(range(12))
    assert rejected == sorted({row for row, _ in salts})


def test_skel_rows(skel_rows):
    skel_rows.skel_q[1, 3] = np.nan
    skel_rows.skel_q[2, 3] = 90
    skel_rows.skel_betas[3, 0] = 11
    skel_rows.skel_gender[4] = "neutral"
    skel_rows.keypoints_3d[5, 0, 0] = np.nan
    _, rejects = check_rows(skel_rows)
    assert [r.source_row for r in rejects] == [1, 2, 3, 4, 5]
    assert [r.reason for r in rejects] == ["non_finite", "pose", "betas", "gender", "non_finite"]


def test_gaps_in_keypoints_are_no_reason(rows):
    rows.keypoints_2d[1, 4] = (np.nan, np.nan, 0)
    rows.keypoints_2d[2, 4] = np.nan
    rows.keypoints_2d[3] = np.nan
    rows.keypoints_2d[4] = 0
    kept, rejects = check_rows(rows)
    assert rejects == []
    assert np.isnan(kept.keypoints_2d[2, 4]).all()  # and nothing is put in their place


def test_excluded_images(rows):
    rows.imgname[3] = "0a047f01"
    rows.imgname[4] = "x/0a047f01.jpg"
    rows.imgname[5] = "0a047f01/other.jpg"
    _, rejects = check_rows(rows, exclude=("0a047f01",))
    assert [(r.source_row, r.reason) for r in rejects] == [(3, "excluded"), (4, "excluded")]
