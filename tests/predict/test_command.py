"""`hmr-skel predict` as people type it."""

import json
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from hmr_skel import load_shards
from hmr_skel.body.skel import Skel
from hmr_skel.cli import main
from hmr_skel.errors import UserError
from hmr_skel.model.checkpoint import NetworkInfo, save_network
from hmr_skel.model.config import NetworkConfig, VitConfig
from hmr_skel.model.network import Network
from hmr_skel.predict.box_files import load_boxes
from hmr_skel.predict.boxes import WholeImage
from hmr_skel.predict.frames import Frame
from hmr_skel.predict.output import PredictionWriter, _Videos
from tests.model.conftest import SMALL_DECODER
from tests.predict.conftest import HEIGHT, WIDTH
from tests.predict.test_detector import LAYOUTS, graph

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # as users run the commands


@pytest.fixture
def typed(photos, network_file, open_body_dir, tmp_path, monkeypatch):
    """The command with a network and body models, in a folder of its own, where boxes.json has everybody's box."""
    monkeypatch.chdir(tmp_path)
    boxes = [{"image": p.file.name, "box": p.corners.tolist(), "focal": 420} for p in photos]
    Path("boxes.json").write_text(json.dumps(boxes))
    fixed = ["--network", str(network_file.parent), "--body-models", str(open_body_dir), "--device", "cpu", "-o", "out"]
    return lambda *words: main(["predict", *fixed, *map(str, words)])


def test_a_folder_with_what_is_no_image_in_it(photos, typed, capsys):
    folder = Path("mixed")
    folder.mkdir()
    for photo in photos:
        (folder / photo.file.name).write_bytes(photo.file.read_bytes())
    (folder / "notes.txt").write_text("hello")
    (folder / "empty.png").touch()
    (folder / "broken.png").write_bytes(photos[0].file.read_bytes()[:5000])
    assert typed(folder, "--boxes", "boxes.json", "--json") == 0
    out, err = capsys.readouterr()
    assert re.findall(r"skipped mixed/(\S+): ", err) == ["broken.png", "empty.png", "notes.txt"]
    assert "trained for 7 steps, fewer than 1,000" in err
    text, last = out.strip().splitlines()
    assert re.fullmatch(r"3 images, 3 people, 3 files skipped; .* recipe test, step 7; in out", text)
    report = json.loads(last)
    assert (report["images"], report["people"], report["skipped"], report["without_people"]) == (3, 3, 3, 0)
    assert sorted(path.name for path in Path("out").iterdir()) == ["overlays", "predictions.npz", "predictions.parquet"]
    for photo in photos:
        picture = cv2.imread(f"out/overlays/{photo.file.stem}.jpg")
        assert picture.shape == (HEIGHT, 2 * WIDTH, 3)
    assert typed(folder, "--boxes", "boxes.json", "--no-overlays", "-q") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3  # what is passed over is said all the same


def test_parquet_and_npz_have_the_same_columns(photos, typed):
    """And a camera that is told goes before that of the boxes."""
    files, words = [photo.file for photo in photos], ["--focal", "500", "--no-overlays", "-q"]
    assert typed(*files, "--boxes", "boxes.json", *words) == 0
    rows, arrays = load_shards("out/predictions.parquet"), np.load("out/predictions.npz")
    assert set(arrays.files) == {*rows.columns, "dof_names"}
    for name in rows.columns:
        np.testing.assert_array_equal(rows[name], arrays[name] if name != "score" else np.full(3, np.nan))
    assert arrays["imgname"].tolist() == [str(photo.file) for photo in photos]
    assert arrays["stage_q"].shape == (3, 4, 46)
    np.testing.assert_array_equal(arrays["stage_q"][:, -1], arrays["skel_q"])
    np.testing.assert_array_equal(arrays["stage_transl"][:, -1], arrays["skel_transl"])
    np.testing.assert_allclose(arrays["cam_int"][0], [[500, 0, WIDTH / 2], [0, 500, HEIGHT / 2], [0, 0, 1]])
    assert (arrays["frame"].tolist(), set(arrays["skel_gender"].tolist())) == ([-1] * 3, {"male"})
    # The box comes back out of centre and scale, and predictions are boxes for a further run, with the same answers.
    longer = np.ptp(photos[0].corners.reshape(2, 2), 0).max()
    np.testing.assert_allclose(200 * arrays["scale"][0], 1.1 * longer, rtol=1e-6)
    Path("out/predictions.parquet").rename("first.parquet")
    assert not load_boxes(Path("first.parquet"), 1.0).as_stored
    assert typed(photos[1].file.parent, "--boxes", "first.parquet", "--no-overlays", "-q") == 0
    np.testing.assert_allclose(np.load("out/predictions.npz")["skel_q"], arrays["skel_q"], atol=1e-3)


def test_meshes_refinement_and_attention(photos, typed, open_body_dir):
    more = ["--meshes", "glb", "--refinement", "--attention", "--no-overlays", "-q"]
    assert typed(photos[0].file, "--boxes", "boxes.json", *more) == 0
    scene = trimesh.load(f"out/meshes/{photos[0].file.stem}-0.glb")
    row = load_shards("out/predictions.parquet")[0]
    skel = Skel.load(open_body_dir / "skel_male.pkl", gender="male")
    q, betas, transl = (torch.from_numpy(row[name]) for name in ("skel_q", "skel_betas", "skel_transl"))
    skin = skel(q, betas, transl).vertices.numpy() * (1, -1, -1)  # y up
    np.testing.assert_allclose(scene.geometry["skin"].vertices, skin, atol=1e-4)
    assert len(scene.geometry["skeleton"].vertices) > 10_000
    with Image.open("out/refinement/1-0.gif") as animation:
        assert animation.n_frames == 4
    with Image.open("out/attention/1-0.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("none.jpg --whole-image --vfov 50 --network none.safetensors", "none.jpg: no such file or folder"),
        (
            "a.jpg --boxes none.csv --network none.safetensors",
            "`hmr-skel images` (make images) makes those of the default dataset. Also: none.safetensors: no such file. "
            "Train a network first (hmr-skel train), or name another file. Also: --boxes none.csv: no such file.",
        ),
        ("PHOTO --whole-image", "the camera is not known. Give --focal PX or --vfov DEG"),
        ("PHOTO --whole-image --vfov 500", "--vfov 500: expected degrees from 1 to 170"),
        ("PHOTO --boxes boxes.json --margin 20", "--margin 20: expected a factor from 0.5 to 3"),
        ("boxes.json --boxes boxes.json", "has no boxes for the given images"),
        ("PHOTO --detector none.onnx --focal 9", "none.onnx: no such file"),
        ("boxes.json --whole-image --vfov 50", "none of 1 files could be read"),
    ],
)
def test_wrong_inputs_get_one_line(photos, typed, capsys, words, says):
    assert typed(*words.replace("PHOTO", str(photos[0].file)).split()) == 2
    assert re.match(f"error: .*{re.escape(says)}", capsys.readouterr().err.strip().splitlines()[-1])


def test_a_network_whose_tokens_have_no_place_has_no_attention_maps(photos, typed, capsys, monkeypatch):
    vit = VitConfig(width=32, depth=1, heads=2, stem_tokens=2)
    network = Network(NetworkConfig(vit=vit, decoder=SMALL_DECODER, head_hidden=8))
    save_network(Path("stem.safetensors"), network, NetworkInfo(skel_gender="male", recipe="r"))
    words = [str(photos[0].file), "--whole-image", "--focal", "9", "--attention", "--network", "stem.safetensors"]
    monkeypatch.setattr("hmr_skel.predict.run.run", None)  # it is said before a picture is read
    assert main(["predict", *words]) == 2
    assert "2 image tokens of this network have no place in the image" in capsys.readouterr().err


def test_a_video(video, typed, photos, tmp_path, capsys):
    boxes = [{"image": "walk.mp4", "frame": i, "box": photos[i // 4].corners.tolist()} for i in range(12) if i % 4 < 3]
    Path("video.json").write_text(json.dumps(boxes))
    assert typed(video, "--boxes", "video.json", "--vfov", "50", "--batch-size", "4", "--meshes", "obj") == 0
    assert "12 images, 9 people, 3 without a box;" in capsys.readouterr().out
    arrays = np.load("out/predictions.npz")
    assert arrays["frame"].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    np.testing.assert_allclose(arrays["time_s"], arrays["frame"] / 20)
    capture = cv2.VideoCapture("out/overlays/walk.mp4")
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (12, 20)
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 2 * WIDTH
    assert len(list(Path("out/meshes").glob("walk-0000*-0.obj"))) == 9
    assert not list(Path("out").rglob(".*"))


def test_only_boxes_of_the_images_given_need_a_camera(photos, typed, capsys):
    boxes = [{"image": photo.file.name, "box": photo.corners.tolist()} for photo in photos[:2]]
    Path("boxes.json").write_text(json.dumps([boxes[0] | {"focal": 420}, boxes[1]]))
    assert typed(photos[0].file, "--boxes", "boxes.json", "--no-overlays", "-q") == 0
    assert typed(*(photo.file for photo in photos), "--boxes", "boxes.json", "--no-overlays", "-q") == 2
    assert "the camera is not known (1 of 2 boxes of these images come without one)" in capsys.readouterr().err


def test_a_detector_finds_them(photos, typed, capsys):
    detector = graph(Path("d.onnx"), LAYOUTS["boxes"])
    assert typed(photos[0].file, "--detector", detector, "--focal", "420", "-q", "--score", "0.8") == 0
    arrays = np.load("out/predictions.npz")
    assert arrays["score"].tolist() == pytest.approx([0.9])
    corners = LAYOUTS["boxes"]["boxes"][0].reshape(2, 2) * WIDTH / 64 - 0.5
    np.testing.assert_allclose(arrays["center"][0], corners.mean(0), rtol=1e-5)
    assert typed(photos[0].file, "--detector", detector, "--focal", "420", "--score", "1") == 0
    assert "1 image, 0 people, 1 without a box" in capsys.readouterr().out
    assert len(np.load("out/predictions.npz")["skel_q"]) == 0


@pytest.fixture
def red_fov(monkeypatch, tmp_path):
    """In place of HumanFoV, whose own tests are elsewhere: the focal length is how red the picture is."""

    class Model:
        def intrinsics(self, image):
            return np.diag([image[..., 0].mean(), image[..., 0].mean(), 1]).astype(np.float32)

    (tmp_path / "fov.ckpt").touch()
    monkeypatch.setattr("hmr_skel.model.fov.HumanFov.load", lambda path, device: {Path("fov.ckpt"): Model()}[path])


@pytest.mark.usefixtures("red_fov")
def test_each_photograph_has_its_own_camera_and_a_video_has_one(photos, video, typed):
    files = [photos[0].file, video, photos[1].file]
    assert typed(*files, "--whole-image", "--humanfov", "fov.ckpt", "--every", "5", "--no-overlays", "-q") == 0
    focal = np.load("out/predictions.npz")["cam_int"][:, 0, 0]
    red = [photo.rgb[..., 0].mean() for photo in photos]
    np.testing.assert_allclose(focal[[0, 4]], red[:2], rtol=1e-5)
    assert (focal[1:4] == focal[1]).all()  # of pictures that differ


@pytest.mark.usefixtures("red_fov")
def test_humanfov_sees_rgb_and_crops_are_smoothed_unless_legacy(photos, typed, capsys):
    words, found = ["--whole-image", "--humanfov", "fov.ckpt", "--no-overlays"], {}
    for legacy in ("", "bgr-focal", "aliased-crop", "all"):
        assert typed(photos[0].file, *words, "--legacy", legacy) == 0
        said = re.search("step 7 with --legacy ([^;]*); in out", capsys.readouterr().out)
        assert (said and said[1]) == ("aliased-crop,bgr-focal" if legacy == "all" else legacy or None)
        found[legacy] = np.load("out/predictions.npz")
        channel = 2 if legacy in ("bgr-focal", "all") else 0
        assert found[legacy]["cam_int"][0, 0, 0] == pytest.approx(photos[0].rgb[..., channel].mean(), rel=1e-5)
    assert not np.array_equal(found["aliased-crop"]["skel_q"], found[""]["skel_q"])
    assert typed(photos[0].file, "--whole-image", "--vfov", "50", "--no-overlays", "--legacy", "all") == 0
    assert "with --legacy aliased-crop;" in capsys.readouterr().out  # nothing looked at colours
    assert typed(photos[0].file, "--whole-image", "--vfov", "50", "--legacy", "moyo-box") == 2
    assert "--legacy moyo-box: there is no such switch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "done"), [(KeyboardInterrupt(), 130, 8), (UserError("the detector failed (at 9)."), 2, 9)]
)
def test_what_is_done_before_a_stop_is_kept(video, typed, monkeypatch, capsys, error, status, done):
    """An error at a picture comes after those before it; an interrupt takes what the network has not seen."""
    original = WholeImage.of

    def stops(self, frame):
        if frame.number == 9:
            raise error
        return original(self, frame)

    monkeypatch.setattr(WholeImage, "of", stops)
    words = [video, "--whole-image", "--vfov", "50", "--batch-size", "4"]
    assert typed(*words) == status
    out, err = capsys.readouterr()
    assert out.startswith(f"stopped early; {done} images, {done} people;")
    assert status == 130 or err.strip().splitlines()[-1] == "error: the detector failed (at 9)."
    assert len(load_shards("out/predictions.parquet")) == len(np.load("out/predictions.npz")["skel_q"]) == done
    assert cv2.VideoCapture("out/overlays/walk.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == done
    # At the first picture, there is nothing to keep: predictions of before stay as they are.
    monkeypatch.setattr(WholeImage, "of", lambda self, frame: stops(self, replace(frame, number=9)))
    assert typed(*words) == status
    assert len(load_shards("out/predictions.parquet")) == done


def test_a_video_that_breaks_off_does_not_get_its_name(video, typed, monkeypatch):
    """A bug, say, or a disk that is full: the table and the video of an earlier run stay as they are."""
    words = [video, "--whole-image", "--vfov", "50", "--batch-size", "4", "-q"]
    assert typed(*words, "--every", "5") == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert {path.name for path in before} == {"walk.mp4", "predictions.npz", "predictions.parquet"}
    original = PredictionWriter.write

    def fails(self, frame, people):
        if frame.number == 6:
            raise RuntimeError("a bug")
        original(self, frame, people)

    monkeypatch.setattr(PredictionWriter, "write", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        typed(*words)
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_a_video_that_the_disk_has_no_room_for_does_not_get_its_name(video, typed, capsys):
    """OpenCV says nothing when a frame cannot be written."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))  # bytes of a file: the tables have room
    try:
        assert typed(video, "--whole-image", "--vfov", "50") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot write the video out/overlays/walk.mp4" in capsys.readouterr().err.strip().splitlines()[-1]
    assert list(Path("out/overlays").iterdir()) == []
    assert len(load_shards("out/predictions.parquet")) == 12


def test_a_video_whose_frames_change_their_size(tmp_path, photos):
    """A recording that is turned on the way: every frame is there."""
    videos = _Videos()
    with videos:
        for number, shape in enumerate([(40, 60, 3), (60, 40, 3), (40, 60, 3)]):
            frame = Frame(Path("a.mp4"), number, 20.0, np.zeros(shape, np.uint8))
            videos.write(tmp_path / "a.mp4", frame, frame.rgb, every=1)
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_nothing_is_written_outside_the_folder(photos, typed, monkeypatch):
    Path("sub/in").mkdir(parents=True)
    for place in ("sub/1.png", "1.jpg", "sub/in/1.png"):
        Path(place).write_bytes(photos[0].file.read_bytes())
    monkeypatch.chdir("sub")
    before = {path: path.read_bytes() for path in Path("..").rglob("*") if path.is_file()}
    assert typed("1.png", "../1.jpg", "in/../in/1.png", "--whole-image", "--vfov", "50", "-q") == 0
    after = {path for path in Path("..").rglob("*") if path.is_file()}
    written = after - set(before)
    assert len([path for path in written if path.suffix == ".jpg"]) == 3
    assert all(path.resolve().is_relative_to(Path("out").resolve()) for path in written)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_published_weights_need_the_licensed_body(photos, open_body_dir, small_config, tmp_path, monkeypatch, capsys):
    """The file is read elsewhere (tests/model/test_published.py); here a small network stands for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hmr_skel.model.checkpoint.load_skel_cf", lambda path: (Network(small_config()), True))
    monkeypatch.delenv("HMR_SKEL_BODY_MODELS", raising=False)
    Path("best.pth").touch()
    words = ["predict", str(photos[0].file), "--whole-image", "--vfov", "50", "--network", "best.pth", "--no-overlays"]
    assert main([*words, "-o", "out"]) == 2
    assert "no body models. Name the folder of the licensed" in capsys.readouterr().err
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", str(open_body_dir))
    assert main([*words, "-o", "out"]) == 0
    assert "published SKEL-CF; in out" in capsys.readouterr().out
    assert np.load("out/predictions.npz")["skel_gender"].tolist() == ["male"]
