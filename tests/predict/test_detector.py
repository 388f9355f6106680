"""Small ONNX detectors of every layout: what they answer is constant, but for scores that show what they were given."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from hmr_skel.errors import UserError
from hmr_skel.predict.detections import guess_layout, read_detections
from hmr_skel.predict.detector import Detector, DetectorSettings
from hmr_skel.predict.frames import Frame

SIDE = 64
RED = Frame(Path("red.png"), None, None, np.full((50, 100, 3), (255, 0, 0), np.uint8))
# In the input of 64 x 64 the image fills the upper 32 rows: 0.64 input px are one of the image.
CORNERS = np.array([[6.4, 3.2, 38.4, 28.8], [0, 0, 20, 20]], np.float32)
IN_IMAGE = np.array([[10, 5, 60, 45], [0, 0, 31.25, 31.25]]) - 0.5


def centered(corners: np.ndarray) -> np.ndarray:
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate(((low + high) / 2, high - low), 1)


def graph(path: Path, outputs: dict[str, np.ndarray], shape=(1, 3, SIDE, SIDE), kind=TensorProto.FLOAT) -> Path:
    """A file whose outputs are constant, and whose picture goes nowhere."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in outputs.items()
    ]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in outputs.items()
    ]
    made = helper.make_graph(nodes, "detector", [helper.make_tensor_value_info("images", kind, shape)], infos)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def written(path: Path, text: str, names: str = "") -> Path:
    """A file out of ONNX's own text form."""
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    if names:
        helper.set_model_props(made, {"names": names})
    onnx.save(made, path)
    return path


SCORES = np.array([0.9, 0.7], np.float32)


def yolo_table() -> np.ndarray:
    """[60 4+2]: two persons, one of them twice, another class, and nothing."""
    table = np.zeros((60, 6), np.float32)
    table[:2, :4], table[:2, 4] = centered(CORNERS), SCORES
    table[2, :4], table[2, 4] = centered(CORNERS[:1] + 1), 0.8
    table[3, :4], table[3, 5] = centered(CORNERS[1:] + 30), 0.99
    return table


LAYOUTS = {
    "end-to-end": {
        "output0": np.concatenate((CORNERS[[1, 0, 0]], [[0.7, 0], [0.9, 0], [0.99, 5]]), 1, dtype=np.float32)[None]
    },
    "yolo": {"output0": np.ascontiguousarray(yolo_table().T)[None]},
    "yolov5": {
        "output": np.concatenate(
            (yolo_table()[:, :4], np.full((60, 1), 1), yolo_table()[:, 4:], np.zeros((60, 78))), 1, dtype=np.float32
        )[None].repeat(20, 1)
    },
    "detr": {
        "pred_boxes": np.concatenate((centered(CORNERS) / SIDE, [[0.5, 0.5, 0.5, 0.5]]), dtype=np.float32)[None],
        "logits": np.log(np.array([[[0.05, 0.9, 0.05], [0.1, 0.7, 0.2], [0.05, 0.1, 0.85]]], np.float32)),
    },
    "boxes": {
        "labels": np.array([1, 1, 3]),
        "boxes": np.concatenate((CORNERS, [[1, 1, 60, 60]]), dtype=np.float32),
        "scores": np.array([0.9, 0.7, 0.99], np.float32),
    },
}
DETS = {
    "dets": np.concatenate((CORNERS[[1, 0, 0]], [[0.7], [0.9], [0.99]]), 1, dtype=np.float32)[None],
    "labels": np.array([[0, 0, 4]]),
}


def made(path: Path, **settings) -> Detector:
    return Detector(path, 1.0, DetectorSettings(**settings))


@pytest.mark.parametrize(("layout", "outputs"), [*LAYOUTS.items(), ("boxes", DETS)])
def test_every_layout_is_told_and_read(tmp_path, layout, outputs):
    detector = made(graph(tmp_path / "d.onnx", outputs))
    boxes = detector.of(RED)
    assert detector.layout == layout
    assert [round(box.score, 4) for box in boxes] == [0.9, 0.7]
    for box, corners in zip(boxes, IN_IMAGE, strict=True):
        np.testing.assert_allclose(box.center, (corners[:2] + corners[2:]) / 2, atol=1e-4)
        assert box.side == pytest.approx((corners[2:] - corners[:2]).max(), abs=1e-4)


def test_a_sigmoid_per_class(tmp_path):
    shares = np.array([[[0.9, 0.8], [0.7, 0.1], [0.2, 0.95]]], np.float32)
    outputs = LAYOUTS["detr"] | {"logits": np.log(shares / (1 - shares))}
    boxes = made(graph(tmp_path / "d.onnx", outputs), layout="detr-sigmoid").of(RED)
    assert [round(box.score, 4) for box in boxes] == [0.9, 0.7]


def test_threshold_and_number(tmp_path):
    path = graph(tmp_path / "d.onnx", LAYOUTS["boxes"])
    assert len(made(path, threshold=0.8).of(RED)) == 1
    assert len(made(path, most=1).of(RED)) == 1
    assert made(path, person=3).of(RED)[0].score == pytest.approx(0.99)
    assert made(path, person=7).of(RED) == []


def channel_means(path: Path, names: str = "", kind: str = "float") -> Path:
    """[1 4+3 40]: the first box, that of `CORNERS[0]`, is sure of class i by the mean of channel i."""
    text = f"""detector ({kind}[1, 3, 64, 64] images) => (float[1, 7, 40] output0) {{
        floats = Cast <to = 1> (images)
        means = ReduceMean <axes = [2, 3], keepdims = 0> (floats)
        box = Constant <value = float[1, 4] {{22.4, 16.0, 32.0, 25.6}}> ()
        row = Concat <axis = 1> (box, means)
        shape = Constant <value = int64[3] {{1, 7, 1}}> ()
        column = Reshape (row, shape)
        others = Constant <value = int64[6] {{0, 0, 0, 0, 0, 39}}> ()
        output0 = Pad (column, others)
    }}"""
    return written(path, text, names)


def test_the_picture_is_red_first_and_on_grey(tmp_path):
    """Half of the input is the red picture, half grey of 114."""
    path = channel_means(tmp_path / "d.onnx")

    def seen(channel: int, pixels: str | None = None) -> float:
        return made(path, person=channel, threshold=0.0, layout="yolo", pixels=pixels).of(RED)[0].score

    assert [seen(i) for i in range(3)] == pytest.approx([184.5 / 255, 57 / 255, 57 / 255], rel=1e-3)
    assert seen(0, "bytes") == pytest.approx(184.5, rel=1e-3)
    assert seen(0, "imagenet") == pytest.approx((184.5 / 255 - 0.485) / 0.229, rel=1e-3)


@pytest.mark.parametrize("kind", ["float16", "uint8"])
def test_other_types_of_input(tmp_path, kind):
    path = channel_means(tmp_path / "d.onnx", kind=kind)
    score = made(path, threshold=0.0, layout="yolo").of(RED)[0].score
    assert score == pytest.approx(184.5 if kind == "uint8" else 184.5 / 255, rel=2e-3)


def test_classes_by_the_names_in_the_file(tmp_path):
    path = channel_means(tmp_path / "d.onnx", names="{0: 'car', 1: 'dog', 2: 'person'}")
    detector = made(path, threshold=0.0)
    assert detector.of(RED)[0].score == pytest.approx(57 / 255, rel=1e-3)
    assert detector.person == 2


def test_inputs_of_any_size_keep_the_shape_of_the_picture(tmp_path):
    path = graph(tmp_path / "d.onnx", LAYOUTS["boxes"], shape=(3, "height", "width"))
    box = made(path).of(RED)[0]  # 640 x 320: 6.4 input px are one of the image
    np.testing.assert_allclose(box.center, CORNERS[0].reshape(2, 2).mean(0) / 6.4 - 0.5, atol=1e-4)


def test_a_second_input_for_sizes_is_fed(tmp_path):
    """As RT-DETR wants it: width, height."""
    text = """detector (float[1, 3, 32, 64] images, int64[1, 2] orig_target_sizes)
        => (float[1, 4] boxes, float[1] scores, int64[1] labels) {
        unit = Constant <value = float[1, 4] {0.0, 0.0, 1.0, 1.0}> ()
        size = Cast <to = 1> (orig_target_sizes)
        twice = Concat <axis = 1> (size, size)
        boxes = Mul (unit, twice)
        scores = Constant <value = float[1] {0.9}> ()
        labels = Constant <value = int64[1] {0}> ()
    }"""
    (box,) = made(written(tmp_path / "d.onnx", text)).of(RED)
    assert box.side == pytest.approx(100)


def test_layouts_are_told_by_shape():
    for shape, classes, layout in (
        ((300, 6), None, "end-to-end"),
        ((1, 525, 6), 2, "end-to-end"),
        ((1, 8400, 84), None, "yolo"),
        ((1, 5, 8400), None, "yolo"),
        ((1, 6, 8400), 2, "yolo"),
        ((1, 85, 8400), 81, "yolo"),
        ((1, 25200, 85), None, "yolov5"),
        ((1, 25200, 6), 1, "yolov5"),
        ((1, 25200, 6), None, None),  # one class of YOLOv5, or two of others
        ((1500, 7), None, None),  # YOLOv7 with its NMS inside
        ((1, 300, 84), 80, None),  # RT-DETR of Ultralytics
        ((1, 84, 300), None, None),
        ((2, 84, 8400), None, None),
    ):
        assert guess_layout({"output0": shape}, classes) == layout, shape
    assert guess_layout({"dets": (1, 10, 5), "masks": (1, 10)}, None) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table * (1, 1, 1, 1, 10, 1), "the best score is 9.0, expected 1 at most"),
        (lambda table: table / (SIDE, SIDE, SIDE, SIDE, 1, 1), "as if their boxes were shares of the input"),
    ],
)
def test_a_layout_that_only_shapes_speak_for_is_doubted(tmp_path, change, says):
    table = LAYOUTS["end-to-end"]["output0"]
    path = graph(tmp_path / "d.onnx", {"output0": change(table).astype(np.float32)})
    with pytest.raises(UserError, match=f"look like layout 'end-to-end', but .*{says}"):
        made(path).of(RED)
    made(path, layout="end-to-end").of(RED)  # who names it is believed


def test_wrong_detectors_get_one_line(tmp_path):
    some = LAYOUTS["boxes"]
    (tmp_path / "no.onnx").write_text("no model")
    for path, says in (
        (tmp_path / "none.onnx", "no such file. Expected a person detector"),
        (tmp_path / "no.onnx", "onnxruntime cannot read it"),
        (graph(tmp_path / "b.onnx", some, shape=(1, SIDE, SIDE, 3)), "with channels first"),
        (graph(tmp_path / "c.onnx", some, kind=TensorProto.DOUBLE), "of float32, float16 or uint8"),
    ):
        with pytest.raises(UserError, match=says) as error:
            made(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is not known"):
        made(graph(tmp_path / "d.onnx", {"heat": np.zeros((1, 17, 64, 48), np.float32)})).of(RED)
    with pytest.raises(UserError, match="do not have the layout 'detr'"):
        made(graph(tmp_path / "e.onnx", some), layout="detr").of(RED)
    with pytest.raises(UserError, match="the detector failed"):
        made(graph(tmp_path / "f.onnx", some, shape=(2, 3, SIDE, SIDE))).of(RED)


def test_what_is_no_number_is_no_person():
    table = np.array([[[0, 0, 10, 10, 0.9, 0], [np.nan, 0, 10, 10, 0.9, 0], [5, 5, 4, 9, 0.9, 0]]], np.float32)
    assert len(read_detections({"o": table}, "end-to-end", 0, 0.5, SIDE, SIDE)[1]) == 1
