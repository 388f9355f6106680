"""SMPL parameters in any of the spellings that files have, to axis-angle [T 24 3] rad, betas [T 10], transl [T 3] m.

Numbers that look like another unit are refused until the user says the unit: a person in centimetres or degrees would
be fitted without complaint, and wrongly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from hmr_skel.body.rotations import rotmat_to_rotvec
from hmr_skel.errors import UserError

NUM_BETAS = 10
LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
ANGLES = {"rad": 1.0, "deg": np.pi / 180}

ORIENT_KEYS = ("global_orient", "root_orient")
BODY_KEYS = ("body_pose", "pose_body")
POSE_KEYS = ("pose_cam", "smpl_pose", "poses", "pose", "full_pose")
BETAS_KEYS = ("betas", "shape", "smpl_betas")
TRANSL_KEYS = ("trans_cam", "transl", "trans", "smpl_transl", "cam_t", "pred_cam_t_full", "pred_cam_t", "camera")

# Joints per frame, the root included, and how many of the first are SMPL's body: SMPL-H has 22 and 30 of the hands.
_WHOLE = {24: 24, 22: 22, 52: 22}
_SMPLX_JOINTS = 55
_NOT_ROTATIONS = 5e-3  # largest deviation of R R^T from the identity that rounding explains


@dataclass(frozen=True)
class Units:
    """The units of lengths and angles. None: metres and radians, and an error where the numbers speak against it."""

    lengths: str | None = None
    angles: str | None = None


@dataclass(frozen=True)
class Parameters:
    """T rows: of one person, or of T people."""

    pose: np.ndarray  # float32 [T 24 3]
    betas: np.ndarray  # float32 [T 10]
    transl: np.ndarray  # float32 [T 3] m
    notes: tuple[str, ...]


def first_key(found: Mapping, keys: tuple[str, ...]) -> str | None:
    """The first of the keys that the mapping has."""
    return next((key for key in keys if key in found), None)


def has_pose(found: Mapping) -> bool:
    """Whether the mapping has a pose under a known key."""
    split = first_key(found, ORIENT_KEYS) and first_key(found, BODY_KEYS)
    return split is not None or first_key(found, POSE_KEYS) is not None


@np.errstate(over="ignore", invalid="ignore")  # what overflows is infinite, and its row is left out later
def read_parameters(found: Mapping, where: str, units: Units) -> Parameters:
    """Pose, betas and translation of a mapping from keys to arrays.

    Args:
        found: keys as in the file. Poses are axis-angles or rotation matrices, one array or root and body apart; betas
            are one row for all or a row each; without a translation the body stays at the origin.
        where: the file, for errors.
        units: of the file, as far as the user says.

    Raises:
        UserError: a key is missing, a shape cannot be read, or the numbers are SMPL-X's or look like centimetres or
            degrees.
    """
    _refuse_smplx(found, where)
    pose, notes = _pose(found, where, units)
    count = len(pose)
    betas, more = _betas(found, where, count)
    transl, last = _transl(found, where, count, units)
    return Parameters(pose, betas, transl, (*notes, *more, *last))


def _refuse_smplx(found: Mapping, where: str) -> None:
    kind = str(found["surface_model_type"]).lower() if "surface_model_type" in found else ""
    face = first_key(found, ("jaw_pose", "pose_jaw", "expression", "leye_pose"))
    if kind.startswith(("smplx", "smpl-x")) or face is not None:
        refuse_smplx(where, f"surface_model_type is {kind!r}" if kind else f"it has {face!r}")


def refuse_smplx(where: str, why: str) -> None:
    """Raise the error for SMPL-X parameters."""
    raise UserError(
        f"{where} holds SMPL-X ({why}). Expected SMPL or SMPL-H: SMPL-X's betas are of another shape space, and its "
        "joints sit elsewhere. Fit SMPL to it first (transfer_model in the smplx project does so), or fetch the "
        "SMPL-H version of the file (AMASS: the download 'SMPL+H G')."
    )


def _pose(found: Mapping, where: str, units: Units) -> tuple[np.ndarray, list[str]]:
    orient, body = first_key(found, ORIENT_KEYS), first_key(found, BODY_KEYS)
    notes: list[str] = []
    if orient is not None and body is not None:
        root, root_turned = _rotvecs(found[orient], f"{where}: {orient!r}", (1,), units)
        rest, rest_turned = _rotvecs(found[body], f"{where}: {body!r}", (23, 21, 51, 54), units)
        if len(root) != len(rest):
            raise UserError(
                f"{where}: {orient!r} has {len(root)} rows but {body!r} has {len(rest)}. Expected the same number."
            )
        pose = np.concatenate((root, rest), 1)
        matrices = root_turned and rest_turned
    elif (whole := first_key(found, POSE_KEYS)) is not None:
        pose, matrices = _rotvecs(found[whole], f"{where}: {whole!r}", (*_WHOLE, _SMPLX_JOINTS), units)
    else:
        raise UserError(
            f"{where} has no SMPL pose. Expected {', '.join(map(repr, POSE_KEYS))}, or {ORIENT_KEYS[0]!r} and "
            f"{BODY_KEYS[0]!r}. It has: {', '.join(sorted(map(str, found))) or 'nothing'}."
        )
    joints = pose.shape[1]
    if joints == _SMPLX_JOINTS:
        refuse_smplx(where, f"its poses have {joints} joints")
    body_joints = _WHOLE[joints]
    if joints == 52:
        notes.append("SMPL-H: the 30 finger joints are dropped, SMPL's two hand joints are zero")
    elif joints == 22:
        notes.append("poses have 22 joints: SMPL's two hand joints are zero")
    pose = np.concatenate((pose[:, :body_joints], np.zeros((len(pose), 24 - body_joints, 3), np.float32)), 1)
    if not matrices and units.angles is None:
        _refuse_degrees(pose, where)
    return pose, notes


def _rotvecs(value: Any, what: str, joints: tuple[int, ...], units: Units) -> tuple[np.ndarray, bool]:
    """Axis-angles [T J 3], J one of `joints`, and whether they came as matrices."""
    array = _numbers(value, what)
    single = joints == (1,)
    if array.ndim >= 2 and array.shape[-2:] == (3, 3):
        if _are_rotations(array):
            count = 1 if single else (array.shape[-3] if array.ndim >= 3 else 0)
            if count in joints:
                rotvec = rotmat_to_rotvec(torch.tensor(array, dtype=torch.float64)).float().numpy()
                return rotvec.reshape(-1, count, 3), True
        elif not (single and array.ndim == 2):  # three rows of axis-angles
            raise UserError(
                f"{what} has shape {array.shape}, but its 3x3 blocks are no rotation matrices. Expected matrices, or "
                "axis-angles."
            )
    elif not single and array.ndim >= 2 and array.shape[-1] == 3 and array.shape[-2] in joints:
        return _scaled(array, array.shape[-2], units), False
    if array.ndim and array.shape[-1] in tuple(3 * count for count in joints):
        return _scaled(array, array.shape[-1] // 3, units), False
    widths = " or ".join(f"(T, {3 * count}) or (T, {count}, 3, 3)" for count in joints if count < 54)
    raise UserError(
        f"{what} has shape {array.shape}. Expected axis-angles or rotation matrices, {widths}, or one such row. "
        "Quaternions and 6D rotations are not read."
    )


def _scaled(array: np.ndarray, joints: int, units: Units) -> np.ndarray:
    return np.array(array * ANGLES[units.angles or "rad"], np.float32).reshape(-1, joints, 3)


def _are_rotations(array: np.ndarray) -> bool:
    array = array[np.isfinite(array).all((-1, -2))].astype(np.float64)
    apart = array @ array.swapaxes(-1, -2) - np.eye(3)
    return len(array) > 0 and bool(np.abs(apart).max() < _NOT_ROTATIONS) and bool((np.linalg.det(array) > 0).all())


def _refuse_degrees(pose: np.ndarray, where: str) -> None:
    angle = np.linalg.norm(pose, axis=-1).max(1)
    angle = angle[np.isfinite(angle)]
    # A turn is 6.3 rad. One row of many may be wound up; it is looked at on its own later.
    if len(angle) and (angle > 2 * np.pi + 0.1).mean() > 0.05:
        raise UserError(
            f"{where}: rotation angles reach {angle.max():.0f}, which looks like degrees. Expected radians: say "
            "--angles deg (or --angles rad, if they are)."
        )


def _betas(found: Mapping, where: str, count: int) -> tuple[np.ndarray, list[str]]:
    key = first_key(found, BETAS_KEYS)
    if key is None:
        raise UserError(
            f"{where} has no betas. Expected {', '.join(map(repr, BETAS_KEYS))}. It has: "
            f"{', '.join(sorted(map(str, found)))}."
        )
    array = _numbers(found[key], f"{where}: {key!r}")
    width = array.shape[-1] if array.ndim else 0
    if width < NUM_BETAS or array.size % width or array.size // width not in (1, count):
        raise UserError(
            f"{where}: {key!r} has shape {array.shape} for {count} rows of pose. Expected ({NUM_BETAS},), "
            f"(1, {NUM_BETAS}) or ({count}, {NUM_BETAS}), or wider: the first {NUM_BETAS} coefficients are used."
        )
    array = array.reshape(-1, width)
    notes = []
    if width > NUM_BETAS:
        left = float(np.sqrt(np.nanmean(np.square(array[:, NUM_BETAS:].astype(np.float64)))))
        notes.append(f"betas: the first {NUM_BETAS} of {width} are used (rms of the others {left:.2g})")
    betas = np.broadcast_to(array[:, :NUM_BETAS], (count, NUM_BETAS))
    return np.array(betas, np.float32), notes


def _transl(found: Mapping, where: str, count: int, units: Units) -> tuple[np.ndarray, list[str]]:
    key = first_key(found, TRANSL_KEYS)
    if key is None:
        return np.zeros((count, 3), np.float32), ["no translation in the file: the body stays at the origin"]
    array = _numbers(found[key], f"{where}: {key!r}")
    if array.ndim == 0 or array.shape[-1] != 3 or array.size != 3 * count:
        raise UserError(
            f"{where}: {key!r} has shape {array.shape}. Expected ({count}, 3): a translation for every row of pose."
        )
    metres = array.reshape(-1, 3).astype(np.float64) * LENGTHS[units.lengths or "m"]
    if "cam_ext" in found:  # as CameraHMR's loader: labels of synthetic scenes are relative to a moving camera
        extrinsics = _numbers(found["cam_ext"], f"{where}: 'cam_ext'")
        if extrinsics.shape != (count, 4, 4):
            raise UserError(f"{where}: 'cam_ext' has shape {extrinsics.shape}. Expected ({count}, 4, 4).")
        metres = metres + extrinsics[:, :3, 3]
    return metres.astype(np.float32), []


def refuse_centimetres(
    transl: np.ndarray, where: str, frame: str | None, frame_rate: float | int | None, moving: bool
) -> None:
    """Raise where a translation [T 3] can hardly be in metres: far from a room's origin, or faster than people run.

    Do not call it for frames with a conventional focal length (4D-Humans): depth means little there.
    """
    transl = transl[np.isfinite(transl).all(1)]
    if not len(transl):
        return
    far = 100.0 if frame == "camera" else 30.0
    distance = float(np.median(np.linalg.norm(transl, axis=1)))
    why = f"people are {distance:.0f} from the origin" if distance > far else None
    # In a camera's frame the depth of one frame says little of the next one's.
    if why is None and moving and frame != "camera" and frame_rate is not None and len(transl) > 10:
        speed = float(np.median(np.linalg.norm(np.diff(transl, axis=0), axis=1))) * frame_rate
        why = f"people move by {speed:.0f} a second" if speed > 12.5 else None
    if why is not None:
        raise UserError(
            f"{where}: {why}, which looks like centimetres or millimetres. Expected metres: say --lengths cm or "
            "--lengths mm (or --lengths m, if they are)."
        )


def _numbers(value: Any, what: str) -> np.ndarray:
    """A float array of numbers, lists of numbers, or tensors."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise UserError(f"{what} is no array of numbers: {error}.") from None
    if array.dtype == object:  # an object array of equal rows
        try:
            array = np.array(array.tolist())
        except ValueError:
            array = np.array(None)
    if prod(array.shape) == 0:
        raise UserError(f"{what} is empty: its shape is {array.shape}. Expected a frame at least.")
    if array.dtype.kind not in "fiu":
        raise UserError(f"{what} holds {array.dtype} of shape {array.shape}. Expected an array of numbers.")
    return array
