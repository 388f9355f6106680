"""Images and videos as they come."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from hmr_skel.errors import UserError
from hmr_skel.predict.frames import find_files, read_frames
from hmr_skel.predict.output import output_names
from tests.predict.conftest import HEIGHT, WIDTH


def test_folders_are_read_in_the_order_of_their_numbers(photos, tmp_path):
    folder = photos[0].file.parent
    assert [file.name for file in find_files([folder])] == ["1.png", "2.png", "10.png"]
    assert find_files([photos[1].file, folder])[0].name == "2.png"  # and is not read twice
    assert len(find_files([photos[1].file, folder])) == 3
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").touch()
    (tmp_path / "c.png").touch()
    assert find_files([tmp_path], but=tmp_path / "out") == [tmp_path / "c.png"]
    assert find_files([tmp_path], but=tmp_path / "out" / ".." / "out") == [tmp_path / "c.png"]
    assert len(find_files([tmp_path / "c.png", tmp_path / "out" / ".." / "c.png"])) == 1
    with pytest.raises(UserError, match="no file in"):
        find_files([tmp_path / "empty"])


def test_a_broken_image_a_text_and_an_empty_file_are_named_and_passed_over(photos, tmp_path):
    data = cv2.imencode(".jpg", photos[0].rgb)[1].tobytes()
    for name, content in {"a.png": b"", "b.txt": b"hello", "c.jpg": data, "d.jpg": data[: len(data) // 2]}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "e.mp4").write_bytes(b"")
    (tmp_path / "f.mp4").write_bytes(b"no video")
    said: dict[str, str] = {}
    frames = list(read_frames(find_files([tmp_path]), lambda name, why: said.update({Path(name).name: why})))
    assert [frame.file.name for frame in frames] == ["c.jpg"]
    assert said == {
        "a.png": "the file is empty",
        "b.txt": "is not an image, or is damaged",
        "d.jpg": "is not an image, or is damaged",
        "e.mp4": "the file is empty",
        "f.mp4": "is not a video that can be read, or is damaged",
    }


def test_a_video_is_streamed(video, photos):
    frames = list(read_frames([video], pytest.fail))
    assert [frame.number for frame in frames] == list(range(12))
    assert frames[5].time_s == pytest.approx(5 / 20)
    assert frames[0].rgb.shape == (HEIGHT, WIDTH, 3)
    for i, photo in enumerate(photos):  # the colours are in order, and so are the frames
        seen = frames[4 * i + 1].rgb[photo.mask]
        assert np.abs(seen.astype(int) - photo.rgb[photo.mask]).mean() < 8
    assert [frame.number for frame in read_frames([video], pytest.fail, every=5)] == [0, 5, 10]
    assert frames[5].name == f"{video}, frame 5"


def test_results_are_named_after_their_files():
    names = output_names([Path("a/x/1.jpg"), Path("a/y/1.jpg"), Path("a/y/2.png"), Path("a/y/2.jpg")])
    assert list(names.values()) == ["x/1", "y/1", "y/2.png", "y/2.jpg"]
    assert output_names([Path("a/walk.mp4")]) == {Path("a/walk.mp4"): "walk"}
    above = output_names([Path("1.jpg"), Path("../1.jpg"), Path("../b/../2.jpg")])
    assert list(above.values()) == [f"{Path.cwd().name}/1", "1", "2"]
