"""Read the outputs of detectors, in common layouts of ONNX files, as boxes in pixels of the detector's input.

end-to-end    one output [1 N 6]: x1, y1, x2, y2 (px), score, class (YOLOv10, YOLO26, exports with built-in NMS)
yolo          one output [1 4+C N] or [1 N 4+C]: centre x, y, width, height (px), a score per class (YOLOv8, v9, 11)
yolov5        one output [1 N 5+C]: the same with an objectness before the classes (YOLOv5, v7, YOLOX decoded)
detr          two outputs, logits [1 N C+1] and boxes [1 N 4]: centre and size as shares of the input (DETR); softmax
              over classes, of which the last means nobody
detr-sigmoid  the same with an independent score per class (Deformable DETR, RT-DETR as Hugging Face exports it); its
              shapes are those of detr, so it must be named
boxes         three outputs, boxes [N 4] (x1, y1, x2, y2, px), scores [N], labels [N], with or without a batch axis, in
              any order (torchvision, RT-DETR with its post-processing); or two, dets [N 5] (x1, y1, x2, y2, score) and
              labels (MMDeploy)
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from hmr_skel.errors import UserError

LAYOUTS = ("end-to-end", "yolo", "yolov5", "detr", "detr-sigmoid", "boxes")
Outputs = Mapping[str, np.ndarray]
"""Arrays by name."""
Detections = tuple[Float[np.ndarray, "N 4"], Float[np.ndarray, "N"]]
"""Corners x1, y1, x2, y2, px of the detector's input, and scores."""
MOST_KEPT = 1000
"""The most boxes of a detector that chooses among its candidates; grids give more (8,400 or 25,200 at 640 px)."""
_PER_VALUE = 5
"""The least ratio of candidates to values per candidate in a grid: YOLOv8 at 160 px has 525 and 84."""
_UNIT = 1.5
"""If all corners are below this, px, they are shares of the input instead."""
_HIGHEST_SCORE = 2.0
"""Scores above this are not shares: a sigmoid is missing, or they are something else."""
OVERLAP = 0.6
"""The intersection over union above which two boxes count as one person, in layouts without NMS."""


def guess_layout(shapes: Mapping[str, tuple[int, ...]], classes: int | None) -> str | None:
    """The layout of outputs with these shapes; None if none fits, or if several detectors have such shapes.

    Args:
        shapes: the shapes of all computed outputs, by name.
        classes: the number of classes, if the file says it.
    """
    names = {name.lower(): shape for name, shape in shapes.items()}
    if len(names) == 1:
        (shape,) = names.values()
        if len(shape) == 2:
            shape = (1, *shape)
        if len(shape) != 3 or shape[0] != 1:
            return None
        candidates, values = shape[1:]
        if values == 6 and candidates <= MOST_KEPT:
            return "end-to-end"
        if candidates < values:
            candidates, values = values, candidates
        elif candidates <= MOST_KEPT or (classes is None and values in (6, 7)):
            return None  # RT-DETR of Ultralytics; YOLOv5 with one class or another with two; YOLOv7 with NMS inside
        if values == 5 + (classes if classes is not None else 80):
            return "yolov5"
        return "yolo" if values >= 5 and candidates >= _PER_VALUE * values else None
    if any("logits" in name for name in names) and any("boxes" in name for name in names):
        return "detr"
    words = ("dets", "labels") if len(names) == 2 else ("boxes", "scores", "labels")
    if all(any(word in name for name in names) for word in words):
        return "boxes"
    return None


def read_detections(
    outputs: Outputs, layout: str, person: int, threshold: float, width: int, height: int
) -> Detections:
    """The persons (class number `person`, scores from `threshold`) in a detector's outputs, best first.

    `width` and `height` are those of the detector's input, px. Raises `UserError` if the outputs do not fit.
    """
    try:
        corners, scores = _READERS[layout](outputs, person, width, height)
    except (ValueError, IndexError, KeyError) as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise UserError(f"the detector's outputs ({shapes}) do not have the layout {layout!r}: {error}.") from error
    sound = np.isfinite(corners).all(1) & (corners[:, 2:] > corners[:, :2]).all(1)
    kept = np.flatnonzero((scores >= threshold) & sound)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    if layout in ("yolo", "yolov5"):
        kept = kept[_distinct(corners[kept].astype(float))]
    return corners[kept].astype(float), scores[kept].astype(float)


def doubt_layout(outputs: Outputs, layout: str, found: Detections) -> str | None:
    """A reason to doubt a layout that was guessed from names and shapes, given the persons that it found; or None."""
    corners, scores = found
    if layout == "end-to-end":
        classes = _only(outputs)[:, 5]
        if not (np.equal(classes, np.round(classes)) & (classes >= -1)).all():  # -1 is padding
            return "the last of six values is not a class number"
    if len(scores) and scores[0] > _HIGHEST_SCORE:
        return f"the best score is {scores[0]:.1f}, expected 1 at most"
    if len(scores) and corners.max() <= _UNIT:
        return "all persons are within a pixel or two of its corner, as if their boxes were shares of the input"
    return None


def _end_to_end(outputs: Outputs, person: int, width: int, height: int) -> Detections:
    table = _only(outputs)
    if table.shape[1] != 6:
        raise ValueError(f"{table.shape[1]} values per box, expected 6")
    own = table[np.round(table[:, 5]) == person]
    return own[:, :4], own[:, 4]


def _yolo(outputs: Outputs, person: int, width: int, height: int, first_class: int = 4) -> Detections:
    table = _only(outputs)
    if table.shape[0] < table.shape[1]:
        table = table.T
    if not 0 <= person < table.shape[1] - first_class:
        raise IndexError(f"it has {table.shape[1] - first_class} classes, and the class of persons is {person}")
    scores = table[:, first_class + person]
    return _from_center(table[:, :4]), scores * table[:, 4] if first_class == 5 else scores


def _yolov5(outputs: Outputs, person: int, width: int, height: int) -> Detections:
    return _yolo(outputs, person, width, height, first_class=5)


def _detr(outputs: Outputs, person: int, width: int, height: int) -> Detections:
    logits = _batchless(_named(outputs, "logits"), 2)
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return _of_shares(outputs, width, height), exponents[:, person] / exponents.sum(1)


def _detr_sigmoid(outputs: Outputs, person: int, width: int, height: int) -> Detections:
    logits = _batchless(_named(outputs, "logits"), 2)
    return _of_shares(outputs, width, height), 1 / (1 + np.exp(-logits[:, person]))


def _boxes(outputs: Outputs, person: int, width: int, height: int) -> Detections:
    labels = _batchless(_named(outputs, "labels"), 1)
    if len(outputs) == 2:
        table = _batchless(_named(outputs, "dets"), 2)
        corners, scores = table[:, :4], table[:, 4]
    else:
        corners, scores = _batchless(_named(outputs, "boxes"), 2), _batchless(_named(outputs, "scores"), 1)
    own = labels == person
    return corners[own], scores[own]


_READERS = dict(zip(LAYOUTS, (_end_to_end, _yolo, _yolov5, _detr, _detr_sigmoid, _boxes), strict=True))


def _only(outputs: Outputs) -> np.ndarray:
    (table,) = outputs.values()
    return _batchless(table, 2)


def _named(outputs: Outputs, word: str) -> np.ndarray:
    found = [value for name, value in outputs.items() if word in name.lower()]
    if not found:
        raise KeyError(f"no output is named ...{word}...")
    return found[0]


def _batchless(array: np.ndarray, axes: int) -> np.ndarray:
    if array.ndim == axes + 1 and len(array) == 1:
        array = array[0]
    if array.ndim != axes:
        raise ValueError(f"an output is {list(array.shape)}")
    return array


def _of_shares(outputs: Outputs, width: int, height: int) -> Float[np.ndarray, "N 4"]:
    """The corners, px, of boxes given as shares of the input."""
    return _from_center(_batchless(_named(outputs, "boxes"), 2)) * np.array([width, height, width, height])


def _from_center(boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    half = boxes[:, 2:4] / 2
    return np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), 1)


def _distinct(corners: Float[np.ndarray, "N 4"]) -> list[int]:
    """Non-maximum suppression: indices of the boxes (best first) that do not overlap a better one much."""
    kept: list[int] = []
    area = (corners[:, 2:] - corners[:, :2]).prod(1)
    for i in range(len(corners)):
        low = np.maximum(corners[kept, :2], corners[i, :2])
        high = np.minimum(corners[kept, 2:], corners[i, 2:])
        common = (high - low).clip(0).prod(1)
        if not (common > OVERLAP * (area[kept] + area[i] - common)).any():
            kept.append(i)
    return kept
