"""Read files of boxes: JSON, CSV, .npz, and Parquet of hmr-skel.

JSON    {"a.jpg": [[x1, y1, x2, y2], ...], ...}, or a list of {"image": ..., "box": [x1, y1, x2, y2]}, optionally with
        "frame" (of a video), "score" and "focal" (px)
CSV     a header and the columns image, x1, y1, x2, y2, optionally frame, score, focal
.npz    imgname [N] and boxes [N 4] (x1, y1, x2, y2); or imgname, center [N 2] and scale [N] or [N 2], as in label
        files, with a side of 200 * max(scale); optionally frame [N], score [N], cam_int [N 3 3]
Parquet the folder or a file of a dataset, or a file of `predict`: imgname, center, scale, cam_int, and frame

Corners are pixels of the image as viewers show it. They are tight around the person, and a margin is added. Centre and
scale get no margin, and belong to the image as it is stored, as in label files.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.predict.boxes import GivenBoxes, Key, PersonBox, square

_CORNERS = ("x1", "y1", "x2", "y2")
_SHAPES = {
    "imgname": [()], "boxes": [(4,)], "center": [(2,)], "scale": [(), (2,)], "frame": [()], "score": [()],
    "cam_int": [(3, 3)], "person": [()],
}  # fmt: skip
"""The shapes of a row's values in an .npz."""

Record = tuple[Any, str, Mapping[str, Any]]
"""A file, the place in it, and the values there: image, box or center and scale, and any of frame, score, focal,
cam_int."""


def load_boxes(path: Path, margin: float) -> GivenBoxes:
    """Read a file of boxes, whose name decides its format.

    Args:
        path: .json, .csv, .npz, .parquet, or the folder of a dataset.
        margin: side of the square over the longer side of boxes with corners.

    Raises:
        UserError: the file is missing, or something in it is not as described above; the text says where.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such file. Expected boxes as .json, .csv, .npz or .parquet, or a dataset's folder."
        )
    kind = "parquet" if path.is_dir() else path.suffix.lower().removeprefix(".")
    as_stored = False
    # Boxes of `predict` (with `person`) belong to images as they are shown, labels to images as they are stored.
    if kind == "parquet":
        shards = load_shards(path)
        as_stored, records = "person" not in shards.columns, _shard_records(path, shards)
    elif kind == "npz":
        arrays = _read_npz(path)
        as_stored, records = not {"boxes", "person"} & set(arrays), _array_records(path, arrays)
    elif kind in ("json", "csv"):
        records = _json_records(path) if kind == "json" else _csv_records(path)
    else:
        raise UserError(f"{path}: expected boxes as .json, .csv, .npz or .parquet, or a dataset's folder.")
    grouped: dict[Key, list[PersonBox]] = {}
    for source, where, record in records:
        key, box = _box(f"{source}: {where}", record, margin)
        grouped.setdefault(key, []).append(box)
    if not grouped:
        raise UserError(f"{path}: contains no box. Expected at least one.")
    return GivenBoxes(path, grouped, as_stored)


def _json_records(path: Path) -> Iterator[Record]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}).") from error
    if isinstance(content, dict):
        for image, boxes in content.items():
            if not isinstance(boxes, list) or (boxes and not isinstance(boxes[0], list)):
                raise UserError(f"{path}: {image!r} has {boxes!r}, expected a list of boxes [x1, y1, x2, y2].")
            yield from ((path, f"box {i} of {image!r}", {"image": image, "box": box}) for i, box in enumerate(boxes))
    elif isinstance(content, list):
        for i, record in enumerate(content):
            if not isinstance(record, dict):
                raise UserError(
                    f"{path}: entry {i} is a {type(record).__name__}, expected an object with image and box."
                )
            keys = ("image", "box", "frame", "score", "focal")
            yield path, f"entry {i}", {key: record[key] for key in keys if record.get(key) is not None}
    else:
        raise UserError(f"{path}: expected an object or a list, found a {type(content).__name__}.")


def _csv_records(path: Path) -> Iterator[Record]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = {"image", *_CORNERS} - set(reader.fieldnames or ())
            if missing:
                raise UserError(
                    f"{path}: no column {', '.join(sorted(missing))}. Expected a header with image, x1, y1, x2, y2 "
                    "and optionally frame, score, focal."
                )
            for row in reader:
                given = {name: row[name] for name in ("image", "frame", "score", "focal") if row.get(name)}
                yield path, f"line {reader.line_num}", given | {"box": [row[name] for name in _CORNERS]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}).") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    file = LabelFile(path)
    arrays = {name: file.array(name) for name in _SHAPES if name in file}
    if "imgname" not in arrays or not ("boxes" in arrays or {"center", "scale"} <= set(arrays)):
        raise UserError(
            f"{path}: contains {', '.join(sorted(arrays)) or 'none of the needed arrays'}. Expected imgname and boxes "
            "[N 4] (x1, y1, x2, y2), or imgname, center [N 2] and scale."
        )
    count = arrays["imgname"].size
    for name, array in arrays.items():
        if array.shape not in [(count, *shape) for shape in _SHAPES[name]]:
            expected = " or ".join(str([count, *shape]) for shape in _SHAPES[name])
            raise UserError(f"{path}: {name} is {list(array.shape)}, expected {expected}.")
        if name != "imgname" and array.dtype.kind not in "fiu":
            raise UserError(f"{path}: {name} is {array.dtype}, expected numbers.")
    return arrays


def _array_records(path: Any, arrays: Mapping[str, np.ndarray]) -> Iterator[Record]:
    names = {"imgname": "image", "boxes": "box"}
    if "boxes" in arrays:
        arrays = {name: array for name, array in arrays.items() if name not in ("center", "scale")}
    for i in range(len(arrays["imgname"])):
        yield path, f"row {i}", {names.get(name, name): array[i] for name, array in arrays.items()}


def _shard_records(path: Path, shards: Shards) -> Iterable[Record]:
    needed = ("imgname", "center", "scale", "cam_int")
    if missing := [name for name in needed if name not in shards.columns]:
        raise UserError(f"{path}: has no column {', '.join(missing)}, which boxes need.")
    columns = (*needed, "frame") if "frame" in shards.columns else needed
    for shard in shards.files():
        yield from _array_records(shard.paths[0], {name: shard[name] for name in columns})


def _box(where: str, record: Mapping[str, Any], margin: float) -> tuple[Key, PersonBox]:
    """The image and box of a record. A NaN score, frame or camera means unknown; frame -1 means a photograph."""
    try:
        image, number, score, focal = (record.get(name) for name in ("image", "frame", "score", "focal"))
        score = None if score is None or np.isnan(float(score)) else float(score)
        focal = None if focal is None else float(focal)
        number = None if number is None else _frame(float(number))
        if image is None:
            raise KeyError("image")
        if "scale" in record:
            center, side = np.asarray(record["center"], float), float(PX_PER_SCALE * np.max(record["scale"]))
            if not (np.isfinite(center).all() and 0 < side < np.inf):
                raise UserError(f"{where} has a box of centre {center.tolist()} and side {side:g} px.")
            box = PersonBox(center, side)
        else:
            box = square(_corners(where, [float(value) for value in record["box"]]), margin)
    except KeyError as error:
        raise UserError(f"{where} has no {error}. Expected image and box [x1, y1, x2, y2].") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{where}: {error}. Expected image, box [x1, y1, x2, y2] in px, and for a video the frame number from 0 "
            "(-1 or none for a photograph)."
        ) from error
    if focal is not None and not 0 < focal < np.inf:
        raise UserError(f"{where}: focal is {focal:g}, expected pixels.")
    cam_int = record.get("cam_int")
    if cam_int is not None:
        cam_int = None if np.isnan(cam_int).all() else np.asarray(cam_int, float)
    if cam_int is not None and not (np.isfinite(cam_int).all() and cam_int[0, 0] > 0 and cam_int[1, 1] > 0):
        raise UserError(f"{where} has unusable intrinsics: {cam_int.tolist()}.")
    name = image.decode(errors="replace") if isinstance(image, bytes) else str(image)
    return (name, number), replace(box, score=score, cam_int=cam_int, focal=focal)


def _frame(number: float) -> int | None:
    if np.isnan(number) or number == -1:
        return None
    if not 0 <= number < 2**53 or number != int(number):
        raise ValueError(f"{number:g} is not a frame number")
    return int(number)


def _corners(where: str, corners: list[float]) -> np.ndarray:
    if len(corners) != 4:
        raise ValueError(f"the box has {len(corners)} numbers")
    x1, y1, x2, y2 = corners
    if not np.isfinite(corners).all() or x2 - x1 < 1 or y2 - y1 < 1:
        raise UserError(
            f"{where} has corners {corners}. Expected x1, y1, x2, y2 in px, with x2 > x1 and y2 > y1 (not width and "
            "height)."
        )
    return np.array(corners)
