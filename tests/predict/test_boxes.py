"""Files of boxes in every form, and what is said of wrong ones."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hmr_skel import load_shards
from hmr_skel.errors import UserError
from hmr_skel.predict.box_files import load_boxes
from hmr_skel.predict.boxes import GivenBoxes, PersonBox, WholeImage
from hmr_skel.predict.frames import Frame, read_frames
from hmr_skel.predict.people import Body, Person
from hmr_skel.predict.table import npz_from_parquet, writing_table
from tests.data.sample_set import write_sample_set

MARGIN = 1.2
CAM_INT = 50 * np.eye(3, dtype=np.float32)
PERSON = Person(0, PersonBox(np.array([15.0, 40]), 30.0), CAM_INT, np.zeros((256, 256, 3), np.uint8))


def frame(name: str, number: int | None = None) -> Frame:
    return Frame(Path(name), number, None, np.zeros((100, 200, 3), np.uint8))


def written(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def only(boxes: GivenBoxes, name: str, number: int | None = None) -> PersonBox:
    (box,) = boxes.of(frame(name, number))
    return box


def test_the_whole_image_is_in_the_box_of_pixel_centres():
    (box,) = WholeImage().of(frame("a.jpg"))
    assert (box.center.tolist(), box.side) == ([99.5, 49.5], 200)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.json", {"x/a.jpg": [[10, 20, 50, 100]], "b.jpg": []}),
        ("b.json", [{"image": "x/a.jpg", "box": [10, 20, 50, 100]}]),
        ("b.csv", "image,x1,y1,x2,y2\nx/a.jpg,10,20,50,100\n"),
        ("b.csv", "score, x2, y2, image, x1, y1\n, 50, 100, x/a.jpg, 10, 20\n"),
    ],
)
def test_corners_as_text(tmp_path, name, content):
    boxes = load_boxes(written(tmp_path / name, content), MARGIN)
    box = only(boxes, "/photos/x/a.jpg")
    assert box.center.tolist() == [30, 60]
    assert box.side == pytest.approx(96)
    assert not boxes.as_stored
    assert boxes.count([Path("x/a.jpg")]) == (1, 1)
    assert boxes.of(frame("/photos/y/a.jpg")) == []
    assert boxes.of(frame("b.jpg")) == []


def test_what_is_optional(tmp_path):
    record = {"image": "walk.mp4", "frame": 3, "box": [10, 20, 50, 100], "score": 0.25, "focal": 800}
    as_csv = "image,frame,x1,y1,x2,y2,score,focal\nwalk.mp4,3,10,20,50,100,0.25,800\n"
    for path in (written(tmp_path / "b.json", [record]), written(tmp_path / "b.csv", as_csv)):
        boxes = load_boxes(path, MARGIN)
        box = only(boxes, "/videos/walk.mp4", 3)
        assert (box.score, box.focal) == (0.25, 800)
        assert boxes.count([Path("walk.mp4"), Path("b.jpg")]) == (1, 0)
        assert boxes.of(frame("/videos/walk.mp4", 4)) == []


def test_arrays(tmp_path):
    cam_int = np.tile(np.array([[500, 0, 100], [0, 500, 50], [0, 0, 1]], np.float32), (2, 1, 1))
    names = np.array(["a.jpg", "b.jpg"])
    as_bytes = names.astype("S")  # as the labels of some benchmarks have them
    np.savez(tmp_path / "corners.npz", imgname=as_bytes, boxes=[[10, 20, 50, 100], [0, 0, 10, 10]], score=[0.5, 0.75])
    boxes = load_boxes(tmp_path / "corners.npz", MARGIN)
    assert (only(boxes, "a.jpg").side, only(boxes, "b.jpg").score) == (pytest.approx(96), 0.75)
    np.savez(
        tmp_path / "labels.npz", imgname=names, center=[[30, 60], [5, 5]], scale=[[0.3, 0.4], [1, 1]], cam_int=cam_int
    )
    boxes = load_boxes(tmp_path / "labels.npz", MARGIN)
    box = only(boxes, "x/a.jpg")
    assert box.side == pytest.approx(80)  # 200 px times the larger; no margin
    np.testing.assert_array_equal(box.cam_int, cam_int[0])
    assert boxes.as_stored
    assert boxes.count([Path("b.jpg")]) == (1, 0)


def test_a_datasets_rows(tmp_path):
    sample_set = write_sample_set(tmp_path, with_images=False)
    boxes = load_boxes(sample_set.path, MARGIN)
    row = load_shards(sample_set.path)[0]
    box = only(boxes, f"/somewhere/{row['imgname']}")
    np.testing.assert_allclose(box.center, row["center"])
    assert box.side == pytest.approx(200 * row["scale"].max())
    np.testing.assert_allclose(box.cam_int, row["cam_int"])
    number, without = boxes.count([Path(name) for name, _ in boxes.by_image])
    assert 0 < without < number  # the source "far" has none
    assert boxes.count([Path(str(row["imgname"]))]) == (1, 0)
    assert boxes.as_stored


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("b.json", "{", "cannot be read as JSON"),
        ("b.json", {"a.jpg": [1, 2, 3, 4]}, r"'a.jpg' has \[1, 2, 3, 4\], expected a list of boxes"),
        ("b.json", {"a.jpg": [[1, 2, 3]]}, "box 0 of 'a.jpg': the box has 3 numbers"),
        ("b.json", [{"image": "a.jpg"}], "entry 0 has no 'box'"),
        ("b.json", {"a.jpg": [[50, 20, 40, 80]]}, "not width and height"),
        ("b.json", {"a.jpg": []}, "contains no box"),
        ("b.csv", "image,x1,y1,x2,y2,focal\na.jpg,1,2,3,4,nan\n", "focal is nan, expected pixels"),
        ("b.csv", "image,x,y,w,h\na.jpg,1,2,3,4\n", "no column x1, x2, y1, y2"),
        ("b.csv", "image,x1,y1,x2,y2\na.jpg,1,2,three,4\n", "line 2: could not convert string to float: 'three'"),
        ("b.txt", "a.jpg 1 2 3 4", "expected boxes as .json, .csv, .npz or .parquet"),
    ],
)
def test_wrong_files_get_one_line(tmp_path, name, content, says):
    with pytest.raises(UserError, match=says) as error:
        load_boxes(written(tmp_path / name, content), MARGIN)
    assert "\n" not in str(error.value)


def test_a_frame_that_is_no_number_gets_one_line(tmp_path):
    arrays = {"imgname": np.array(["a.mp4", "a.mp4", "b.jpg"]), "boxes": np.array([[0, 0, 9, 9.0]] * 3)}
    for frame in (np.inf, 1.5):
        np.savez(tmp_path / "b.npz", frame=[4.0, frame, -1], **arrays)
        with pytest.raises(UserError, match=rf"b\.npz: row 1: {frame:g} is not a frame number.*-1"):
            load_boxes(tmp_path / "b.npz", MARGIN)
    np.savez(tmp_path / "b.npz", frame=[4.0, 5.0, np.nan], **arrays)  # NaN is null, as everywhere
    assert load_boxes(tmp_path / "b.npz", MARGIN).by_image.keys() == {("a.mp4", 4), ("a.mp4", 5), ("b.jpg", None)}


def test_wrong_arrays_get_one_line(tmp_path):
    names, path = np.array(["a.jpg", "b.jpg"]), tmp_path / "b.npz"
    corners = np.tile([0, 0, 9, 9.0], (2, 1))
    for arrays, says in (
        ({"boxes": np.zeros((2, 4))}, "contains boxes. Expected imgname and boxes"),
        ({"imgname": names, "boxes": np.zeros((2, 5))}, r"boxes is \[2, 5\], expected \[2, 4\]"),
        ({"imgname": names, "center": np.zeros((2, 2)), "scale": np.zeros(2)}, "row 0 has a box of centre"),
        ({"imgname": names, "boxes": corners, "cam_int": [np.full((3, 3), np.nan), np.diag([9, 9, np.nan])]},
         "row 1 has unusable intrinsics"),
    ):  # fmt: skip
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=says):
            load_boxes(path, MARGIN)


def test_boxes_must_be_of_the_images_given_and_of_one_each(tmp_path):
    boxes = load_boxes(written(tmp_path / "b.json", {"a.jpg": [[0, 0, 9, 9]]}), MARGIN)
    boxes.check([Path("x/a.jpg"), Path("x/b.jpg")])
    with pytest.raises(UserError, match=r"boxes of 'a.jpg' may belong to x/a.jpg or y/a.jpg"):
        boxes.check([Path("x/a.jpg"), Path("y/a.jpg")])
    with pytest.raises(UserError, match=r"It names for example 'a.jpg', and the first given image is c.jpg"):
        boxes.check([Path("c.jpg")])


def test_boxes_that_never_match_a_frame_are_an_error(tmp_path):
    record = {"image": "a", "box": [0, 0, 9, 9]}
    for name, frame, says in (
        ("a.mp4", None, r"boxes of 'a.mp4' have no frame, and x/a.mp4 is a video"),
        ("a.jpg", 3, r"boxes of 'a.jpg' have frame numbers, and x/a.jpg is not a video"),
    ):
        boxes = load_boxes(written(tmp_path / "b.json", [record | {"image": name, "frame": frame}]), MARGIN)
        with pytest.raises(UserError, match=says):
            boxes.check([Path("x") / name])
    load_boxes(written(tmp_path / "b.json", [record | {"image": "a.mp4", "frame": 3}]), MARGIN).check([Path("a.mp4")])


def test_what_predict_wrote_belongs_to_images_as_they_are_shown(tmp_path):
    """Both of its files: of a photograph that its tag turns, the same pixels are read again."""
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path, exif=exif)
    values = (np.zeros((1, n), np.float32) for n in (46, 10, 3, 3))
    with writing_table(tmp_path / "p.parquet", 1, "male") as table:
        table.add(next(read_frames([path], pytest.fail)), PERSON, Body(*values))
    npz_from_parquet(tmp_path / "p.parquet", tmp_path / "p.npz")
    for name in ("p.parquet", "p.npz"):
        boxes = load_boxes(tmp_path / name, MARGIN)
        (picture,) = read_frames([path], pytest.fail, as_stored=boxes.as_stored)
        assert picture.rgb.shape == (60, 40, 3)
        assert boxes.of(picture)[0].center.tolist() == [15, 40]
    (stored,) = read_frames([path], pytest.fail, as_stored=True)  # as labels of datasets have them
    assert stored.rgb.shape == (40, 60, 3)


def test_the_npz_is_written_group_by_group(tmp_path, monkeypatch):
    """A whole column of a long video does not fit into memory."""
    monkeypatch.setattr("hmr_skel.predict.table.ROWS_PER_GROUP", 2)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("a whole column is read"))
    names = ["a.mp4", "longer.mp4", "b.mp4", "c.mp4", "the longest of all.mp4"]
    with writing_table(tmp_path / "p.parquet", 2, "male") as table:
        for i, name in enumerate(names):
            body = Body(*(np.full((2, n), i, np.float32) for n in (46, 10, 3, 3)))
            table.add(frame(name, i), PERSON, body)
    npz_from_parquet(tmp_path / "p.parquet", tmp_path / "p.npz")
    arrays = np.load(tmp_path / "p.npz")
    assert arrays["imgname"].tolist() == names
    assert (arrays["frame"].dtype, arrays["frame"].tolist()) == (np.int64, list(range(5)))
    assert np.isnan(arrays["score"]).all()
    np.testing.assert_array_equal(arrays["stage_q"], np.arange(5, dtype=np.float32)[:, None, None] * np.ones((2, 46)))
