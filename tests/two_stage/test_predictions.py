"""Files of SMPL predictions, row for row what a benchmark's label file has."""

import pickle

import numpy as np
import pytest

from hmr_skel.errors import UserError
from hmr_skel.two_stage import read_predictions


@pytest.fixture
def arrays(stand_in) -> dict[str, np.ndarray]:
    labels = stand_in.labels
    return {"pose": labels["pose_cam"], "betas": labels["shape"]}


def test_rows_in_order(opened, arrays, tmp_path):
    _, rows, _ = opened("3dpw")
    np.savez(tmp_path / "p.npz", **arrays)
    clip = read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    np.testing.assert_array_equal(clip.pose.reshape(6, 72), arrays["pose"])
    assert set(clip.gender) == {"neutral"}  # what predictions are, where nothing is said
    assert not clip.moving
    some = rows.take(np.array([4, 1]))
    clip = read_predictions(tmp_path / "p.npz", some, rows.imgname, "male")
    assert clip.number.tolist() == [4, 1]
    np.testing.assert_array_equal(clip.pose.reshape(2, 72), arrays["pose"][[4, 1]])
    assert set(clip.gender) == {"male"}


def test_rows_by_image_names(opened, arrays, tmp_path):
    _, rows, _ = opened("emdb")
    backwards = {key: values[::-1] for key, values in arrays.items()}
    np.savez(tmp_path / "p.npz", **backwards, imgname=rows.imgname[::-1].astype(str))
    clip = read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    np.testing.assert_array_equal(clip.pose.reshape(6, 72), arrays["pose"])
    np.savez(tmp_path / "some.npz", **arrays, imgname=np.array([f"other/{i}.jpg" for i in range(6)]))
    with pytest.raises(UserError, match=r"no prediction for 6 of 6 rows, the first being the image 'P0/00_outdoor"):
        read_predictions(tmp_path / "some.npz", rows, rows.imgname, None)


def test_names_that_do_not_tell_rows_apart_are_compared(opened, arrays, tmp_path):
    _, rows, _ = opened("3dpw")
    shared = np.array(["a.jpg"] * 3 + ["b.jpg"] * 3)
    rows.imgname[:] = shared
    np.savez(tmp_path / "p.npz", **arrays, imgname=shared)
    assert len(read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)) == 6
    np.savez(tmp_path / "p.npz", **arrays, imgname=shared[::-1])
    with pytest.raises(UserError, match=r"row 0 is of 'b\.jpg', in the label file of 'a\.jpg'"):
        read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)


def test_some_rows_are_matched_as_all_are(opened, arrays, tmp_path):
    """Two people in each image: names tell nobody apart, though those of the chosen rows happen to."""
    _, rows, _ = opened("3dpw")
    rows.imgname[:] = [f"{i // 2}.jpg" for i in range(6)]
    some = rows.take(np.array([1, 3, 5]))
    np.savez(tmp_path / "p.npz", **arrays, imgname=rows.imgname.astype(str))
    clip = read_predictions(tmp_path / "p.npz", some, rows.imgname, None)
    np.testing.assert_array_equal(clip.pose.reshape(3, 72), arrays["pose"][1::2])
    # One prediction for each image is whose?
    np.savez(tmp_path / "p.npz", **{k: v[::2] for k, v in arrays.items()}, imgname=rows.imgname[::2].astype(str))
    with pytest.raises(UserError, match=r"has 3 rows, the label file 6"):
        read_predictions(tmp_path / "p.npz", some, rows.imgname, None)


@pytest.mark.parametrize("named", [True, False])
def test_only_an_unsaid_gender_is_neutral(opened, arrays, tmp_path, named):
    _, rows, _ = opened("3dpw")
    arrays |= {"imgname": rows.imgname.astype(str)} if named else {}
    np.savez(tmp_path / "p.npz", **arrays, gender=np.array(["m", "x", "f", "m", "f", "m"]))
    with pytest.raises(UserError, match=r"'gender' is \['male', 'x', 'female'\]"):
        read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    clip = read_predictions(tmp_path / "p.npz", rows, rows.imgname, "neutral")
    assert set(clip.gender) == {"neutral"}


def test_what_does_not_match(opened, arrays, tmp_path):
    _, rows, _ = opened("3dpw")
    np.savez(tmp_path / "p.npz", **{key: values[:5] for key, values in arrays.items()})
    with pytest.raises(UserError, match=r"has 5 rows, the label file 6"):
        read_predictions(tmp_path / "p.npz", rows, rows.imgname, None)
    people = {i: {key: values[:3] for key, values in arrays.items()} | {"gender": "male"} for i in range(2)}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(people))
    with pytest.raises(UserError, match=r"holds 2 people's tracks"):
        read_predictions(tmp_path / "p.pkl", rows, rows.imgname, None)
    with pytest.raises(UserError, match="no file"):
        read_predictions(tmp_path / "none.npz", rows, rows.imgname, None)
