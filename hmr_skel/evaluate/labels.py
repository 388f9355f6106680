"""The label files of the benchmarks, as three projects publish them, to one kind of rows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import Benchmark
from hmr_skel.rows import SmplParams

_GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female", "neutral": "neutral", "n": "neutral"}
_ASPECT = 192 / 256  # width over height that the network sees of a crop


@dataclass(frozen=True)
class BenchmarkRows:
    """People of a benchmark. None where its format has no such label."""

    row: np.ndarray  # int64 [N] in the label file
    imgname: np.ndarray  # object (str) [N]
    center: np.ndarray  # float32 [N 2] of the square box, px
    side: np.ndarray  # float32 [N] of the box that the crop shows, px
    told_side: np.ndarray  # float32 [N] of the box that the network is told of: `side`, but for --legacy moyo-box
    smpl_pose: np.ndarray | None = None  # float32 [N 72]
    smpl_betas: np.ndarray | None = None  # float32 [N 10]
    smpl_gender: np.ndarray | None = None  # object (str) [N] neutral, male or female
    cam_int: np.ndarray | None = None  # float32 [N 3 3] px
    keypoints_2d: np.ndarray | None = None  # float32 [N 44 3] px, px, confidence
    keypoints_3d: np.ndarray | None = None  # float32 [N 44 4] m, confidence

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: np.ndarray | slice) -> "BenchmarkRows":
        """Some rows, in the given order."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: None if array is None else array[rows] for name, array in arrays.items()})

    def smpl_params(self) -> SmplParams:
        """The annotated SMPL at the origin. The format must have one."""
        assert self.smpl_pose is not None
        assert self.smpl_betas is not None
        pose = torch.from_numpy(self.smpl_pose).reshape(-1, 24, 3)
        betas = torch.from_numpy(self.smpl_betas)
        return SmplParams(pose[:, 0], pose[:, 1:], betas, torch.zeros(len(betas), 3))


def load_rows(benchmark: Benchmark, path: Path, legacy: Sequence[str] = (), cam_int: bool = True) -> BenchmarkRows:
    """The rows of a label file; its cameras only where they are asked for.

    Raises:
        UserError: it is no file of this benchmark's format, or holds numbers that are not finite.
    """
    file = _File(path, LabelFile(path, allow_pickle=True), benchmark)
    if benchmark.format == "camerahmr":
        rows = _camerahmr(file, cam_int)
    else:
        rows = {"hmr2": _hmr2, "moyo": _moyo}[benchmark.format](file)
    if "moyo-box" in benchmark.legacy(legacy):
        return rows
    return replace(rows, told_side=rows.side)


def evenly(count: int, limit: int | None) -> np.ndarray:
    """At most `limit` of `count` rows, spread evenly."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // limit


class _File:
    """Arrays by key, with errors that say what is expected."""

    def __init__(self, path: Path, labels: LabelFile, benchmark: Benchmark) -> None:
        self.path, self.labels, self.benchmark = path, labels, benchmark

    def __contains__(self, key: str) -> bool:
        return key in self.labels

    def array(self, *keys: str) -> np.ndarray:
        """The first of the keys that is there, as an array of its own."""
        for key in keys:
            if key in self:
                return self.labels.array(key)
        raise UserError(
            f"{self.path} has no {' or '.join(map(repr, keys))}. Expected the label file of {self.benchmark.title}, "
            f"{self.benchmark.labels} of {self.benchmark.labels_from}. It has: {', '.join(self.labels)}."
        )

    def floats(self, value: Any, name: str, count: int, *shape: int) -> np.ndarray:
        """float32 [count *shape] of a value whose last axis may be longer."""
        array = self._numbers(value, name)
        fits = array.ndim == 1 + len(shape) and len(array) == count
        if not fits or any(have < want for have, want in zip(array.shape[1:], shape, strict=True)):
            wanted = ", ".join(map(str, (count, *shape)))
            raise UserError(f"{self.path}: {name!r} has shape {array.shape}, expected ({wanted}).")
        array = array[(slice(None), *(slice(size) for size in shape))]
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array.reshape(count, -1)).all(1))[0])
            raise UserError(f"{self.path}: {name!r} is not finite in row {row}. Fetch the file again.")
        return array

    def rows(self, name: str, value: Any, count: int, width: int) -> np.ndarray:
        """float32 [count width] of a value whose rows may have any shape."""
        array = self._numbers(value, name)
        if count and array.ndim and len(array) == count:
            array = array.reshape(count, -1)
        return self.floats(array, name, count, width)

    def _numbers(self, value: Any, name: str) -> np.ndarray:
        try:
            return np.asarray(value, np.float32)
        except (TypeError, ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"{self.path}: {name!r} holds no numbers of one shape. Fetch the file again.") from error

    def sides(self, key: str, count: int) -> np.ndarray:
        """float32 [count] the longer side of boxes that are given as one number or two."""
        scale = self.array(key)
        scale = scale[:, None] if scale.ndim == 1 else scale
        return self.floats(scale, key, count, 2 if scale.ndim == 2 and scale.shape[1] > 1 else 1).max(1)

    def names(self, *keys: str) -> np.ndarray:
        """Texts, which some of these files hold as bytes."""
        return np.array([_text(name) for name in self.array(*keys).ravel().tolist()], object)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _camerahmr(file: _File, cam_int: bool) -> BenchmarkRows:
    imgname = file.names("imgname")
    count = len(imgname)
    side = 200 * file.sides("scale", count)
    return BenchmarkRows(
        row=np.arange(count),
        imgname=imgname,
        center=file.floats(file.array("center"), "center", count, 2),
        side=_positive(side, file),
        told_side=side,
        # Not `pose`, which some files of this kind have beside it: it stands in the world, not in the camera.
        smpl_pose=file.rows("pose_cam", file.array("pose_cam"), count, 72),
        smpl_betas=file.floats(file.array("shape"), "shape", count, 10),
        smpl_gender=_genders(file, count),
        cam_int=file.floats(file.array("cam_int"), "cam_int", count, 3, 3) if cam_int and "cam_int" in file else None,
    )


def _genders(file: _File, count: int) -> np.ndarray:
    if "gender" not in file:
        return np.full(count, "neutral", object)
    texts = file.names("gender")
    # The published loader takes everything that is not 'm' or 'male' for female, bytes and 'neutral' too.
    unknown = sorted({text for text in texts.tolist() if text.strip().lower() not in _GENDERS})
    if unknown or len(texts) != count:
        found = f"is {unknown[:3]}" if unknown else f"has {len(texts)} rows"
        raise UserError(
            f"{file.path}: 'gender' {found}, expected m, f, male, female or neutral in each of {count} rows."
        )
    return np.array([_GENDERS[text.strip().lower()] for text in texts.tolist()], object)


def _hmr2(file: _File) -> BenchmarkRows:
    imgname = file.names("imgname")
    count = len(imgname)
    side = _positive(file.sides("scale", count), file)  # px, already with their margin
    kind, width = ("2d", 3) if file.benchmark.truth == "keypoints_2d" else ("3d", 4)
    scored = file.benchmark.joints.scored
    parts = {f"body_keypoints_{kind}": range(25), f"extra_keypoints_{kind}": range(25, 44)}
    if file.benchmark.truth == "keypoints_2d":  # PCK is of the keypoints that are labelled, be they few
        needed = [] if any(name in file for name in parts) else list(parts)
    else:
        needed = [name for name, slots in parts.items() if any(slot in slots for slot in scored)]
    points = [
        file.floats(file.array(name), name, count, len(slots), width)
        if name in file or name in needed
        else np.zeros((count, len(slots), width), np.float32)  # as 4D-Humans' loader: of confidence 0
        for name, slots in parts.items()
    ]
    if kind == "3d":
        points[0][:, 1:15, 3] = 0  # as 4D-Humans' loader: OpenPose's limbs and hips are other points in its 3D labels
    keypoints = np.concatenate(points, 1)
    return BenchmarkRows(
        row=np.arange(count),
        imgname=imgname,
        center=file.floats(file.array("center"), "center", count, 2),
        side=side,
        told_side=side,
        keypoints_2d=keypoints if kind == "2d" else None,
        keypoints_3d=keypoints if kind == "3d" else None,
    )


def _moyo(file: _File) -> BenchmarkRows:
    imgname = file.names("img_paths")
    count = len(imgname)
    smpl = file.array("smpl")
    smpl = smpl.item() if smpl.shape == () else None
    if not isinstance(smpl, dict) or not {"global_orient", "body_pose", "betas"} <= set(smpl):
        found = ", ".join(map(str, smpl)) if isinstance(smpl, dict) else type(smpl).__name__
        raise UserError(
            f"{file.path}: 'smpl' holds {found}, expected a dict with global_orient, body_pose and betas, as in "
            f"{file.benchmark.labels} of {file.benchmark.labels_from}."
        )
    pose = [file.rows(name, smpl[name], count, width) for name, width in (("global_orient", 3), ("body_pose", 69))]
    size = file.floats(file.array("scales"), "scales", count, 2)  # of the box, px, already with its margin
    told = _positive(size.max(1), file)
    # Widened to the network's aspect, then to a square: the person fills the columns that it sees. (HSMR then cuts the
    # corners to whole pixels, which moves the crop by less than one.)
    side = np.maximum(size[:, 1], size[:, 0] / np.float32(_ASPECT))
    return BenchmarkRows(
        row=np.arange(count),
        imgname=imgname,
        center=file.floats(file.array("centers"), "centers", count, 2),
        side=side,
        told_side=told,
        smpl_pose=np.concatenate(pose, 1),
        smpl_betas=file.floats(smpl["betas"], "betas", count, 10),
        smpl_gender=np.full(count, "neutral", object),
    )


def _positive(side: np.ndarray, file: _File) -> np.ndarray:
    if not (side >= 1).all():
        raise UserError(
            f"{file.path}: the box of row {int(np.argmin(side))} is {side.min():.3g} px, expected 1 or more."
        )
    return side
