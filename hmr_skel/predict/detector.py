"""Find people with the user's detector, an ONNX file, by onnxruntime (the extra `predict`)."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from hmr_skel.errors import UserError
from hmr_skel.model.network import IMAGE_MEAN, IMAGE_STD
from hmr_skel.predict.boxes import PersonBox, square
from hmr_skel.predict.detections import LAYOUTS, doubt_layout, guess_layout, read_detections
from hmr_skel.predict.frames import Frame

PERSON = {"end-to-end": 0, "yolo": 0, "yolov5": 0, "detr": 1, "detr-sigmoid": 0, "boxes": 1}
"""The class of persons by layout, if the file does not name its classes: COCO counted from 0 or 1. For `boxes` it is
torchvision's; MMDeploy (two outputs) and RT-DETR (an input for sizes) count from 0."""
DYNAMIC_SIDE = 640
"""The longer side of the input, px, for detectors that take any size."""
_STRIDE = 32  # their sides are multiples of this, as feature pyramids need
_GREY = 114  # around the image, as in YOLO's training
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """How to read a detector's outputs, and which persons to use."""

    threshold: float = 0.5
    """Lowest score."""
    most: int = 10
    """The most persons per picture, those with the highest scores."""
    layout: str | None = None
    """Layout of the outputs; None: guess it from their names and shapes."""
    person: int | None = None
    """The class of persons; None: by the names in the file, else by the layout."""
    pixels: str | None = None
    """`unit` (RGB 0..1), `imagenet` (minus the mean, over the deviation), `bytes` (0..255); None: by the layout."""


class Detector:
    """Finds persons. Its input is one RGB picture, [1 3 H W] or [3 H W], letterboxed if the size is fixed."""

    def __init__(self, path: Path, margin: float, settings: DetectorSettings, device: str = "cpu") -> None:
        """Read the file. Raises `UserError` if onnxruntime is missing, or the file is not a known kind of detector."""
        self.path, self.margin, self.settings = path, margin, settings
        self._session = _open(path, device)
        inputs = self._session.get_inputs()
        pictures = [one for one in inputs if len(one.shape) in (3, 4)]
        if len(pictures) != 1 or pictures[0].type not in _TYPES:
            found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise UserError(
                f"{path}: its inputs are {found}. Expected one picture [1 3 H W] or [3 H W] of float32, float16 or "
                "uint8."
            )
        self._input = pictures[0]
        self._sizes = [one for one in inputs if one is not self._input]
        unknown = [one.name for one in self._sizes if "size" not in one.name and "mask" not in one.name]
        if unknown or self._input.shape[-3] != 3:
            raise UserError(
                f"{path}: input {(unknown or [self._input.name])[0]!r} is not understood (the picture is "
                f"{self._input.shape}). Expected one picture with channels first, and besides only a size "
                "(`...size...`) or a mask (`...mask...`)."
            )
        meta = self._session.get_modelmeta().custom_metadata_map
        self._classes = _class_names(meta.get("names", ""))
        names = [one.name.lower() for one in self._session.get_outputs()]
        self._is_detr = settings.layout == "detr" or any("logits" in name for name in names)
        self.layout = settings.layout

    def of(self, frame: Frame) -> Sequence[PersonBox]:
        """The persons in a picture, best first, at most `most`. Raises `UserError` if the outputs have no known layout,
        or the detector fails."""
        height, width = self._input_size(frame.rgb)
        picture, scale = letterboxed(frame.rgb, width, height)
        outputs = self._run(picture)
        if self.layout is None:
            shapes = {name: value.shape for name, value in outputs.items()}
            self.layout = guess_layout(shapes, len(self._classes) or None)
        if self.layout is None:
            found = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
            raise UserError(
                f"{self.path}: the layout of outputs {found} is not known. Name it with --detector-layout "
                f"({', '.join(LAYOUTS)}; `hmr-skel predict --help` describes them)."
            )
        found = read_detections(outputs, self.layout, self.person, self.settings.threshold, width, height)
        if self.settings.layout is None and (doubt := doubt_layout(outputs, self.layout, found)) is not None:
            raise UserError(
                f"{self.path}: its outputs look like layout {self.layout!r}, but {doubt}. Name their layout "
                "with --detector-layout (`hmr-skel predict --help` describes them)."
            )
        # Pixel x of the picture covers the input from x * scale to (x + 1) * scale.
        corners = found[0][: self.settings.most] / scale - 0.5
        return [square(box, self.margin, score) for box, score in zip(corners, found[1].tolist(), strict=False)]

    @property
    def person(self) -> int:
        """The class number of persons."""
        if self.settings.person is not None:
            return self.settings.person
        named = [number for number, name in self._classes.items() if name.lower() in ("person", "human", "pedestrian")]
        assert self.layout is not None
        if named:
            return named[0]
        from_zero = self._sizes or len(self._session.get_outputs()) == 2
        return 0 if self.layout == "boxes" and from_zero else PERSON[self.layout]

    def _input_size(self, image: UInt8[np.ndarray, "H W 3"]) -> tuple[int, int]:
        """Height and width of the input for this picture."""
        fixed = self._input.shape[-2:]
        scale = DYNAMIC_SIDE / max(image.shape[:2])
        natural = [max(_STRIDE, -(-round(side * scale) // _STRIDE) * _STRIDE) for side in image.shape[:2]]
        height, width = (side if isinstance(side, int) else free for side, free in zip(fixed, natural, strict=True))
        return height, width

    def _run(self, picture: UInt8[np.ndarray, "H W 3"]) -> dict[str, np.ndarray]:
        kind = _TYPES[self._input.type]
        pixels = self.settings.pixels or ("bytes" if kind is np.uint8 else "imagenet" if self._is_detr else "unit")
        values = _channels_first(picture, pixels).astype(kind)
        if len(self._input.shape) == 4:
            values = values[None]
        height, width = picture.shape[:2]
        feed = {self._input.name: values}
        for one in self._sizes:
            if "mask" in one.name:
                feed[one.name] = np.ones((1, height, width), np.int64 if "int64" in one.type else np.bool_)
            else:  # RT-DETR takes width, height
                feed[one.name] = np.array([[width, height]], np.float32 if "float" in one.type else np.int64)
        try:
            results = self._session.run(None, feed)
        except Exception as error:  # onnxruntime's exceptions have no other common base
            raise UserError(f"{self.path}: the detector failed ({str(error).splitlines()[0]}).") from error
        names = [one.name for one in self._session.get_outputs()]
        return {name: np.asarray(value) for name, value in zip(names, results, strict=True)}


def letterboxed(image: UInt8[np.ndarray, "H W 3"], width: int, height: int) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """The picture, scaled into the upper left of a grey picture of this size, and the scale."""
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    canvas = np.full((height, width, 3), _GREY, np.uint8)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[: inner[1], : inner[0]] = cv2.resize(image, inner, interpolation=interpolation)
    return canvas, scale


def _channels_first(picture: UInt8[np.ndarray, "H W 3"], pixels: str) -> Shaped[np.ndarray, "3 H W"]:
    values = np.ascontiguousarray(picture.transpose(2, 0, 1))
    if pixels == "bytes":
        return values
    unit = values.astype(np.float32) / 255
    if pixels == "unit":
        return unit
    mean, deviation = (np.array(numbers, np.float32)[:, None, None] for numbers in (IMAGE_MEAN, IMAGE_STD))
    return (unit - mean) / deviation


def _open(path: Path, device: str) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Expected a person detector as an ONNX file; nothing is downloaded.")
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "--detector needs onnxruntime: make setup EXTRAS=predict; without make, pip install onnxruntime. Or give "
            "boxes with --boxes."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    there = onnxruntime.get_available_providers()
    cuda = ["CUDAExecutionProvider"] if device.startswith("cuda") and "CUDAExecutionProvider" in there else []
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*cuda, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no other common base
        raise UserError(f"{path}: onnxruntime cannot read it ({str(error).splitlines()[0]}).") from error


def _class_names(text: str) -> dict[int, str]:
    """Ultralytics writes {0: 'person', ...} into its files."""
    try:
        return {int(number): str(name) for number, name in ast.literal_eval(text).items()}
    except (ValueError, SyntaxError, AttributeError):
        return {}
