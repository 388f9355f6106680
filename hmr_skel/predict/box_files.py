"""Files of boxes: JSON, CSV, .npz, and whatever holds a dataset's rows.

JSON    {"a.jpg": [[x1, y1, x2, y2], ...], ...}, or a list of {"image": ..., "box": [x1, y1, x2, y2]} with, where
        wanted, "frame" (of a video), "score" and "focal" (px)
CSV     a header and the columns image, x1, y1, x2, y2, and frame, score, focal where wanted
.npz    imgname [N] and boxes [N 4] (x1, y1, x2, y2); or imgname, center [N 2] and scale [N] or [N 2], as label files
        have them: the box's side is 200 * max(scale). Where wanted: frame [N], score [N], cam_int [N 3 3]
Parquet a dataset's folder or file, or what `predict` has written: imgname, center, scale, cam_int, and frame

Corners are pixels of the image as viewers show it and tight around the person: a margin is added. Centre and scale are
taken as they are, and belong to the image as it is stored, like everything in a label file.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.data.npz import LabelFile
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError
from hmr_skel.predict.boxes import GivenBoxes, Key, PersonBox, square

"""Of `scale`, everywhere in this field."""

_CORNERS = ("x1", "y1", "x2", "y2")


def load_boxes(path: Path, margin: float) -> GivenBoxes:
    """Read a file of boxes; which kind is told by its name.

    Args:
        path: .json, .csv, .npz, .parquet, or a dataset's folder.
        margin: side of the square over the longer side of boxes that are given by corners.

    Raises:
        UserError: no such file, or something in it is not as described above; the text says where.
    """
    kind = path.suffix.lower()
    if not path.exists():
        raise UserError(
            f"{path}: no such file. Expected boxes as .json, .csv, .npz or .parquet, or a dataset's folder."
        )
    if path.is_dir() or kind == ".parquet":
        shards = _open_shards(path)
        # What `predict` has written belongs to images as they are shown, labels to images as they are stored.
        return _given(path, _shard_rows(shards), as_stored="person" not in shards.columns)
    if kind == ".npz":
        arrays = _read_npz(path)
        as_stored = "boxes" not in arrays and "person" not in arrays
        return _given(path, _array_rows(path, arrays, margin), as_stored)
    if kind not in (".json", ".csv"):
        raise UserError(f"{path}: boxes come as .json, .csv, .npz or .parquet, or as a dataset's folder.")
    records = _json_records(path) if kind == ".json" else _csv_records(path)
    return _given(path, (_record(path, where, record, margin) for where, record in records))


def _given(path: Path, rows: Iterator[tuple[Key, PersonBox]], as_stored: bool = False) -> GivenBoxes:
    grouped: dict[Key, list[PersonBox]] = {}
    for key, box in rows:
        grouped.setdefault(key, []).append(box)
    if not grouped:
        raise UserError(f"{path}: holds no box. Expected at least one.")
    return GivenBoxes(path, grouped, as_stored)


def _json_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}).") from error
    if isinstance(content, dict):
        for image, boxes in content.items():
            if not isinstance(boxes, list) or (boxes and not isinstance(boxes[0], list)):
                raise UserError(f"{path}: {image!r} has {boxes!r}, expected a list of boxes [x1, y1, x2, y2].")
            for i, box in enumerate(boxes):
                yield f"box {i} of {image!r}", {"image": image, "box": box}
    elif isinstance(content, list):
        for i, record in enumerate(content):
            if not isinstance(record, dict):
                raise UserError(
                    f"{path}: entry {i} is a {type(record).__name__}, expected an object with image and box."
                )
            yield f"entry {i}", record
    else:
        raise UserError(f"{path}: expected an object or a list, found a {type(content).__name__}.")


def _csv_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = {"image", *_CORNERS} - set(reader.fieldnames or ())
            if missing:
                raise UserError(
                    f"{path}: no column {', '.join(sorted(missing))}. Expected a header with image, x1, y1, x2, y2 "
                    "and, where wanted, frame, score, focal."
                )
            for row in reader:
                corners = {"box": [row.pop(name) for name in _CORNERS]}
                yield f"line {reader.line_num}", corners | {name: text for name, text in row.items() if text}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}).") from error


def _record(path: Path, where: str, record: Mapping[str, Any], margin: float) -> tuple[Key, PersonBox]:
    try:
        corners = np.array([float(value) for value in record["box"]])
        frame = None if record.get("frame") is None else _whole(float(record["frame"]))
        score, focal = (None if record.get(name) is None else float(record[name]) for name in ("score", "focal"))
        image = str(record["image"])
        if len(corners) != 4:
            raise ValueError(f"the box has {len(corners)} numbers")
    except KeyError as error:
        raise UserError(f"{path}: {where} has no {error}. Expected image and box [x1, y1, x2, y2].") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: {where}: {error}. Expected image and box [x1, y1, x2, y2] in px.") from error
    _check_corners(path, where, corners)
    if focal is not None and not 0 < focal < np.inf:
        raise UserError(f"{path}: {where}: focal is {focal:g}, expected pixels.")
    return (image, frame), replace(square(corners, margin, score), focal=focal)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    file = LabelFile(path)
    names = {"imgname", "boxes", "center", "scale", "frame", "score", "cam_int", "person"} & set(file)
    arrays = {name: file.array(name) for name in names}
    if "imgname" not in arrays or not ("boxes" in arrays or {"center", "scale"} <= set(arrays)):
        raise UserError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'none of the arrays looked for'}. Expected imgname and boxes "
            "[N 4] (x1, y1, x2, y2), or imgname, center [N 2] and scale."
        )
    if flat := [name for name, array in arrays.items() if not array.shape]:
        raise UserError(f"{path}: {flat[0]} is one value, expected one for every box.")
    count = len(arrays["imgname"])
    shapes = {"imgname": [()], "boxes": [(4,)], "center": [(2,)], "scale": [(), (2,)], "frame": [()], "score": [()],
              "cam_int": [(3, 3)], "person": [()]}  # fmt: skip
    for name, array in arrays.items():
        if len(array) != count or array.shape[1:] not in shapes[name]:
            expected = " or ".join(str([count, *shape]) for shape in shapes[name])
            raise UserError(f"{path}: {name} is {list(array.shape)}, expected {expected}.")
        if name != "imgname" and array.dtype.kind not in "fiu":
            raise UserError(f"{path}: {name} holds {array.dtype}, expected numbers.")
    return {name: array if name == "imgname" else array.astype(float) for name, array in arrays.items()}


def _array_rows(path: Path, arrays: Mapping[str, np.ndarray], margin: float) -> Iterator[tuple[Key, PersonBox]]:
    for i, name in enumerate(arrays["imgname"].tolist()):
        frame, score, cam_int = (arrays[key][i] if key in arrays else None for key in ("frame", "score", "cam_int"))
        if "boxes" in arrays:
            _check_corners(path, f"row {i}", arrays["boxes"][i])
            box = square(arrays["boxes"][i], margin)
        else:
            box = _from_scale(path, i, arrays["center"][i], np.atleast_1d(arrays["scale"][i]))
        try:
            number = None if frame is None or np.isnan(frame) or frame < 0 else _whole(frame)
        except ValueError as error:
            raise UserError(
                f"{path}: row {i}: {error}. Expected a whole number from 0, or -1 for a photograph."
            ) from None
        yield (
            (name.decode(errors="replace") if isinstance(name, bytes) else str(name), number),
            replace(box, score=None if score is None else float(score), cam_int=_camera(path, i, cam_int)),
        )


def _open_shards(path: Path) -> Shards:
    shards = load_shards(path)
    missing = [name for name in ("imgname", "center", "scale", "cam_int") if name not in shards.columns]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}, which boxes are read from.")
    return shards


def _shard_rows(shards: Shards) -> Iterator[tuple[Key, PersonBox]]:
    for shard in shards.files():
        path = shard.paths[0]
        names, centers, scales, cameras = (shard[name] for name in ("imgname", "center", "scale", "cam_int"))
        frames = shard["frame"] if "frame" in shard.columns else np.full(len(shard), -1)
        for i in range(len(shard)):
            box = _from_scale(path, i, centers[i], scales[i])
            known = cameras[i] if np.isfinite(cameras[i]).all() else None
            yield (
                (str(names[i]), int(frames[i]) if frames[i] >= 0 else None),
                replace(box, cam_int=_camera(path, i, known)),
            )


def _from_scale(path: Place, row: int, center: np.ndarray, scale: np.ndarray) -> PersonBox:
    side = float(PX_PER_SCALE * np.max(scale))
    if not (np.isfinite(center).all() and 0 < side < np.inf):
        raise UserError(
            f"{path}: row {row} has a box of centre {center.tolist()} and scale {np.asarray(scale).tolist()}."
        )
    return PersonBox(np.asarray(center, float), side)


def _camera(path: Place, row: int, cam_int: np.ndarray | None) -> np.ndarray | None:
    if cam_int is None:
        return None
    if not (np.isfinite(cam_int).all() and cam_int[0, 0] > 0 and cam_int[1, 1] > 0):
        raise UserError(f"{path}: row {row} has no intrinsics that can be used: {np.asarray(cam_int).tolist()}.")
    return np.asarray(cam_int, float)


def _whole(frame: float) -> int:
    if not 0 <= frame < 2**53 or frame != int(frame):
        raise ValueError(f"frame {frame:g} is no number of a frame")
    return int(frame)


def _check_corners(path: Path, where: str, corners: np.ndarray) -> None:
    x1, y1, x2, y2 = corners.tolist()
    if not np.isfinite(corners).all() or x2 - x1 < 1 or y2 - y1 < 1:
        raise UserError(
            f"{path}: {where} has corners {[x1, y1, x2, y2]}. Expected x1, y1, x2, y2 in px, with x2 > x1 and y2 > y1 "
            "(not width and height)."
        )
