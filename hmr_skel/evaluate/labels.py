"""Read the label files of benchmarks, in the formats of three projects, into `BenchmarkRows`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmr_skel.data.annotations import PX_PER_SCALE, check_column, check_rows, find_keys, make_rows
from hmr_skel.data.manifest import MAX_NUM_BETAS
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import Benchmark
from hmr_skel.rows import SmplParams

_ASPECT = 192 / 256  # width over height of the part of a crop that the network uses
_REFUSED = ("imgname", "gender", "non_finite")
"""The reasons of `check_rows` for which a label file is refused. Unlikely labels are kept, since they are the truth.

This module checks boxes (their longer side) and cameras (their focal lengths) itself.
"""

LabelColumns = dict[str, np.ndarray]
"""Arrays with the names of `AnnotationRows`."""


@dataclass(frozen=True)
class BenchmarkRows:
    """The rows of a benchmark, one person each. A label that its format does not have is None."""

    row: np.ndarray  # int64 [N] in the label file
    imgname: np.ndarray  # object (str) [N]
    center: np.ndarray  # float32 [N 2] of the square box, px
    side: np.ndarray  # float32 [N] of the box that the crop shows, px
    told_side: np.ndarray  # float32 [N] of the box that the network gets: `side`, except for --legacy moyo-box
    smpl_pose: np.ndarray | None = None  # float32 [N 72]
    smpl_betas: np.ndarray | None = None  # float32 [N 10]
    smpl_gender: np.ndarray | None = None  # object (str) [N] neutral, male or female
    cam_int: np.ndarray | None = None  # float32 [N 3 3] px
    keypoints_2d: np.ndarray | None = None  # float32 [N 44 3] px, px, confidence
    keypoints_3d: np.ndarray | None = None  # float32 [N 44 4] m, confidence

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: np.ndarray | slice) -> "BenchmarkRows":
        """The given rows, in the given order."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: None if array is None else array[rows] for name, array in arrays.items()})

    def smpl_params(self) -> SmplParams:
        """The annotated SMPL parameters, at the origin. The format must have them."""
        assert self.smpl_pose is not None
        assert self.smpl_betas is not None
        pose = torch.from_numpy(self.smpl_pose).reshape(-1, 24, 3)
        betas = torch.from_numpy(self.smpl_betas)
        return SmplParams(pose[:, 0], pose[:, 1:], betas, torch.zeros(len(betas), 3))


def load_rows(benchmark: Benchmark, path: Path, legacy: Sequence[str] = (), cam_int: bool = True) -> BenchmarkRows:
    """The rows of a label file; with `cam_int` also its cameras.

    Raises:
        UserError: the file is not in this benchmark's format, or contains numbers that are not finite.
    """
    file = LabelFile(path, allow_pickle=True)
    columns = {"camerahmr": _camerahmr, "hmr2": _hmr2, "moyo": _moyo}[benchmark.format](file, benchmark, cam_int)
    keypoints = {name: columns.pop(name) for name in ("keypoints_2d", "keypoints_3d") if name in columns}
    count = len(columns["imgname"])
    for name, column in columns.items():
        if name != "imgname" and column.dtype.kind != "U":
            columns[name] = column = column if name == "smpl_gender" else _numbers(column, f"{path}: {name}")
        if column.shape[:1] != (count,):
            raise UserError(f"{path}: {name} has shape {column.shape}. Expected {count} rows, as in imgname.")
        check_column(name, column.shape, column.dtype, f"{path}: {name}", MAX_NUM_BETAS)
    in_px = benchmark.format != "camerahmr"
    rows = make_rows(columns, benchmark.name, per_scale=PX_PER_SCALE if in_px else 1.0)
    for bad in check_rows(rows)[1]:
        if bad.reason in _REFUSED:
            raise UserError(f"{path}: row {bad.source_row}: {bad.detail}. Fetch the file again.")
    size = columns["scale"]  # of the box; in files of hmr2 and MOYO in px, with its margin
    size = size[:, None] if size.ndim == 1 else size
    told = side = size.max(1) if in_px else np.float32(PX_PER_SCALE) * size.max(1)
    for bad in np.flatnonzero(~((told >= 1) & (told < np.inf))):
        raise UserError(f"{path}: row {bad}: the box is {told[bad]:g} px. Expected 1 px or more. Fetch the file again.")
    if rows.cam_int is not None:
        focal = rows.cam_int[:, [0, 1], [0, 1]]
        for bad in np.flatnonzero((focal <= 0).any(1)):
            raise UserError(
                f"{path}: row {bad}: cam_int has focal lengths {focal[bad].tolist()} px. Expected more than 0. Fetch "
                "the file again."
            )
    if benchmark.format == "moyo":
        # Widened to the network's aspect, then to a square, so that the person fills the columns that it uses.
        side = np.maximum(size[:, 1], size[:, 0] / np.float32(_ASPECT))
    switches, gender = benchmark.legacy(legacy), rows.smpl_gender
    if "neutral-female" in switches and "gender" in file:
        gender = np.where(gender == "male", "male", "female").astype(object)
    return BenchmarkRows(
        row=rows.source_row,
        imgname=rows.imgname,
        center=rows.center,
        side=side,
        told_side=told if "moyo-box" in switches else side,
        smpl_pose=rows.smpl_pose,
        smpl_betas=rows.smpl_betas,
        smpl_gender=gender,
        cam_int=rows.cam_int,
        **keypoints,
    )


def _columns(file: LabelFile, benchmark: Benchmark, needed: dict[str, str], more: dict[str, str]) -> LabelColumns:
    """Arrays by our column names, from the format's keys `needed` and `more`; those of `more` may be missing."""
    fields = {column: (key,) for column, key in (needed | more).items()}
    hint = f"Expected the label file of {benchmark.title}, {benchmark.labels} of {benchmark.labels_from}."
    found = {column: file.array(key) for column, key in find_keys(file, fields, needed, hint).items()}
    for name in {"imgname", "smpl_gender"} & found.keys():
        if found[name].shape[:1] != (found[name].size,):
            raise UserError(f"{file.path}: {name} has shape {found[name].shape}. Expected (N,). Fetch the file again.")
        found[name] = found[name].ravel()  # some files have [N 1]
    return found


def _numbers(value: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{what} does not contain numbers of one shape. Fetch the file again.") from error


def _camerahmr(file: LabelFile, benchmark: Benchmark, cam_int: bool) -> LabelColumns:
    # Not `pose`, which some of these files also have: it is in the world's frame, not the camera's.
    needed = {
        "imgname": "imgname",
        "center": "center",
        "scale": "scale",
        "smpl_pose": "pose_cam",
        "smpl_betas": "shape",
    }
    found = _columns(file, benchmark, needed, {"smpl_gender": "gender"} | ({"cam_int": "cam_int"} if cam_int else {}))
    count, pose = len(found["imgname"]), found["smpl_pose"]
    if pose.shape[:1] == (count,) and pose.size == count * 72:
        found["smpl_pose"] = pose.reshape(count, 72)
    return {"smpl_gender": np.full(count, "neutral")} | found


def _hmr2(file: LabelFile, benchmark: Benchmark, cam_int: bool) -> LabelColumns:
    kind, width = ("2d", 3) if benchmark.truth == "keypoints_2d" else ("3d", 4)
    parts = {f"body_keypoints_{kind}": range(25), f"extra_keypoints_{kind}": range(25, 44)}
    if benchmark.truth == "keypoints_2d":  # PCK uses any number of labelled keypoints
        needed = () if any(name in file for name in parts) else parts
    else:
        needed = [name for name, slots in parts.items() if any(slot in slots for slot in benchmark.joints.scored)]
    box = {name: name for name in ("imgname", "center", "scale")}
    found = _columns(file, benchmark, box | {name: name for name in needed}, {name: name for name in parts})
    count = len(found["imgname"])
    points = np.zeros((count, 44, width), np.float32)  # as in 4D-Humans' loader, missing keypoints have confidence 0
    for name, slots in parts.items():
        if name in found:
            values = _numbers(found.pop(name), f"{file.path}: {name!r}")
            if values.shape != (count, len(slots), width) or not np.isfinite(values).all():
                raise UserError(
                    f"{file.path}: {name!r} has shape {values.shape}, expected finite numbers of shape "
                    f"{(count, len(slots), width)}. Fetch the file again."
                )
            points[:, slots] = values
    if kind == "3d":
        points[:, 1:15, 3] = 0  # as in 4D-Humans' loader: OpenPose's limbs and hips are other points in its 3D labels
    return found | {f"keypoints_{kind}": points}


def _moyo(file: LabelFile, benchmark: Benchmark, cam_int: bool) -> LabelColumns:
    needed = {"imgname": "img_paths", "center": "centers", "scale": "scales", "smpl": "smpl"}
    found = _columns(file, benchmark, needed, {})
    smpl, count = found.pop("smpl"), len(found["imgname"])
    smpl = smpl.item() if smpl.shape == () else None
    if not isinstance(smpl, dict) or not {"global_orient", "body_pose", "betas"} <= set(smpl):
        names = ", ".join(map(str, smpl)) if isinstance(smpl, dict) else type(smpl).__name__
        raise UserError(
            f"{file.path}: 'smpl' contains {names}, expected a dict with global_orient, body_pose and betas, as in "
            f"{benchmark.labels} of {benchmark.labels_from}."
        )
    if found["scale"].shape != (count, 2):
        raise UserError(f"{file.path}: 'scales' has shape {found['scale'].shape}, expected {(count, 2)}.")
    pose = {}
    for name, width in (("global_orient", 3), ("body_pose", 69)):
        pose[name] = _numbers(smpl[name], f"{file.path}: {name!r}")
        if len(pose[name].shape) < 2 or len(pose[name]) != count or pose[name].size != count * width:
            raise UserError(f"{file.path}: {name!r} has shape {pose[name].shape}, expected {(count, width)}.")
    parts = [pose[name].reshape(count, -1) for name in ("global_orient", "body_pose")]
    neutral = np.full(count, "neutral")
    return found | {
        "smpl_pose": np.concatenate(parts, 1),
        "smpl_betas": _numbers(smpl["betas"], f"{file.path}: 'betas'"),
        "smpl_gender": neutral,
    }
