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

from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.rotations import rotmat_to_rotvec
from hmr_skel.convert.files import NoMotion
from hmr_skel.errors import UserError

NUM_BETAS = 10
LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
ANGLES = {"rad": 1.0, "deg": np.pi / 180}

Fields = Mapping[str, tuple[str, Any]]
"""A meaning (see `known.ANY_KEYS`) -> its key in the file, and what is there."""

# Joints per frame, the root included, and how many of the first are SMPL's body: SMPL-H has 22 and 30 of the hands.
_WHOLE = {24: 24, 22: 22, 52: 22}
_BETAS = (NUM_BETAS, 11, 16, 20, 100, 300, 400)
"""How many betas SMPL's and SMPL-H's files have; 11 with a child's share, which BEV and BEDLAM put last."""
_FASTEST = 12.5  # m/s
_SLOWEST_RATE = 12.5  # frames a second, where the rate is not known
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
    joints: int  # in the file's poses, the root included
    notes: tuple[str, ...]


@np.errstate(over="ignore", invalid="ignore")  # what overflows is infinite, and its row is left out later
def read_parameters(fields: Fields, where: str, units: Units) -> Parameters:
    """Pose, betas and translation.

    Args:
        fields: a meaning (`known.ANY_KEYS`) -> its key in the file and what is there. Poses are axis-angles or rotation
            matrices, one array or root and body apart; betas are one row for all or a row each, and zero where
            there are none; without a translation the body stays at the origin.
        where: the file, for errors.
        units: of the file, as far as the user says.

    Raises:
        UserError: something is missing, a shape cannot be read, or the numbers are positions, or look like
            centimetres or degrees.
    """
    pose, joints, notes = _pose(fields, where, units)
    count = len(pose)
    betas, more = _betas(fields, where, count)
    transl, last = _transl(fields, where, count, units)
    return Parameters(pose, betas, transl, joints, (*notes, *more, *last))


def _pose(fields: Fields, where: str, units: Units) -> tuple[np.ndarray, int, list[str]]:
    """Axis-angles [T 24 3], the number of joints in the file, and notes."""
    notes: list[str] = []
    joints = (*_WHOLE, *((23,) if "turn" in fields else ()))
    pose, matrices = whole_pose(fields, where, joints, units)
    if pose.shape[1] == 23:  # EasyMocap's, whose root is in `turn`
        pose = np.concatenate((np.zeros_like(pose[:, :1]), pose), 1)
    joints = pose.shape[1]
    body_joints = _WHOLE[joints]
    if joints == 52:
        dropped = "SMPL-H: the 30 finger joints are dropped, SMPL's two hand joints are zero"
        notes.append(f"{dropped}; it is read as SMPL and needs no model file of its own")
    elif joints == 22:
        notes.append("poses have 22 joints: SMPL's two hand joints are zero")
    pose = np.concatenate((pose[:, :body_joints], np.zeros((len(pose), 24 - body_joints, 3), np.float32)), 1)
    if not matrices and units.angles is None:
        _refuse_degrees(pose, where)
        if _are_positions(pose[:, :22]):
            raise NoMotion(
                f"{where}: these are positions, not angles: the distances from joint to joint are those of a body's "
                "bones. Expected axis-angles or rotation matrices: fit SMPL to the positions first (or say --angles "
                "rad, if they are angles)."
            )
    return pose, joints, notes


def whole_pose(fields: Fields, where: str, joints: tuple[int, ...], units: Units) -> tuple[np.ndarray, bool]:
    """Axis-angles [T J 3], J one of `joints`, of the whole pose or of root and body apart; and whether all came as
    matrices."""
    if not {"orient", "body"} <= fields.keys():
        key, whole = fields["pose"]
        return rotvecs(whole, f"{where}: {key!r}", joints, units)
    (root_key, root), (body_key, body) = fields["orient"], fields["body"]
    rest, rest_turned = rotvecs(body, f"{where}: {body_key!r}", tuple(count - 1 for count in joints), units)
    array = np.asarray(plain(root))
    if array.dtype.kind in "fiu" and array.shape[-1:] == (3,) and array.size == 3 * len(rest):
        root = array.reshape(-1, 3)  # three rows of axis-angles look like one matrix
    first, root_turned = rotvecs(root, f"{where}: {root_key!r}", (1,), units)
    if len(first) != len(rest):
        found = f"{root_key!r} has {len(first)} rows but {body_key!r} has {len(rest)}"
        raise UserError(f"{where}: {found}. Expected the same number.")
    return np.concatenate((first, rest), 1), root_turned and rest_turned


def _are_positions(pose: np.ndarray) -> bool:
    """Whether rows [T 22 3] are places of joints in metres: far apart in all, but near along the bones, which keep
    their lengths."""
    pose = pose[np.isfinite(pose).all((1, 2))].astype(np.float64)
    if not len(pose):
        return False
    bones = np.linalg.norm(pose[:, 1:] - pose[:, SMPL_PARENTS[1:22]], axis=-1)
    extent = np.linalg.norm(pose.max(1) - pose.min(1), axis=-1)
    longest = bones.max(1)
    return bool(
        np.median(extent) > 0.8
        and np.median(longest) < 0.7
        and np.median(extent / longest) > 2.2
        and np.median(bones.std(0)) < 0.02
    )


def rotvecs(value: Any, what: str, joints: tuple[int, ...], units: Units) -> tuple[np.ndarray, bool]:
    """Axis-angles [T J 3], J one of `joints`, and whether they came as matrices."""
    array = numbers(value, what)
    single = joints == (1,)
    if array.ndim and array.shape[-1] in tuple(9 * count for count in joints):  # matrices, flat
        array = array.reshape(*array.shape[:-1], -1, 3, 3)
    if array.ndim >= 2 and array.shape[-2:] == (3, 3):
        if _are_rotations(array):
            count = 1 if single else (array.shape[-3] if array.ndim >= 3 else 0)
            if count in joints:
                rotvec = rotmat_to_rotvec(torch.tensor(array, dtype=torch.float64)).float().numpy()
                return rotvec.reshape(-1, count, 3), True
        elif not (single and array.ndim == 2):  # three rows of axis-angles
            raise NoMotion(
                f"{what} has shape {array.shape}, but its 3x3 blocks are no rotation matrices. Expected matrices, or "
                "axis-angles."
            )
    elif not single and array.ndim >= 2 and array.shape[-1] == 3 and array.shape[-2] in joints:
        return _scaled(array, array.shape[-2], units), False
    if array.ndim and array.shape[-1] in tuple(3 * count for count in joints):
        return _scaled(array, array.shape[-1] // 3, units), False
    if array.ndim and array.shape[-1] in (263, 251):
        raise NoMotion(f"{what} has shape {array.shape}: HumanML3D's features, no angles. Fit SMPL to them first.")
    if array.ndim and array.shape[-1] == 32:
        raise NoMotion(f"{what} has shape {array.shape}: VPoser's code, no angles. Decode it with VPoser first.")
    widths = " or ".join(f"(T, {3 * count}) or (T, {count}, 3, 3)" for count in joints if count < 54)
    raise NoMotion(
        f"{what} has shape {array.shape}. Expected axis-angles or rotation matrices, {widths}, or one such row. "
        "Quaternions and 6D rotations are not read, since tools order their numbers differently: turn them into "
        "matrices with the tool that wrote them."
    )


def _scaled(array: np.ndarray, joints: int, units: Units) -> np.ndarray:
    return np.array(array * ANGLES[units.angles or "rad"], np.float32).reshape(-1, joints, 3)


def _are_rotations(array: np.ndarray) -> bool:
    array = array[np.isfinite(array).all((-1, -2))].astype(np.float64)
    apart = array @ array.swapaxes(-1, -2) - np.eye(3)
    return len(array) > 0 and bool(np.abs(apart).max() < _NOT_ROTATIONS) and bool((np.linalg.det(array) > 0).all())


def radians(angles: np.ndarray, where: str, units: Units) -> np.ndarray:
    """Axis-angles [T J 3] in radians. Raises `UserError` where they are larger than turns, and no unit is said."""
    if units.angles is None:
        _refuse_degrees(angles, where)
    return (angles * ANGLES[units.angles or "rad"]).astype(np.float32)


def _refuse_degrees(pose: np.ndarray, where: str) -> None:
    angle = np.linalg.norm(pose, axis=-1).max(1)
    angle = angle[np.isfinite(angle)]
    # A turn is 6.3 rad. One row of many may be wound up; it is looked at on its own later.
    if len(angle) and (angle > 2 * np.pi + 0.1).mean() > 0.05:
        raise UserError(
            f"{where}: rotation angles reach {angle.max():.0f}, which looks like degrees. Expected radians: say "
            "--angles deg (or --angles rad, if they are)."
        )


def _betas(fields: Fields, where: str, count: int) -> tuple[np.ndarray, list[str]]:
    if "betas" not in fields:
        return np.zeros((count, NUM_BETAS), np.float32), ["no betas: the average body is taken"]
    key, value = fields["betas"]
    array = numbers(value, f"{where}: {key!r}")
    width = array.shape[-1] if array.ndim else 0
    if width not in _BETAS or array.size % width or array.size // width not in (1, count):
        raise UserError(
            f"{where}: {key!r} has shape {array.shape} for {count} rows of pose. Expected ({NUM_BETAS},), "
            f"(1, {NUM_BETAS}) or ({count}, {NUM_BETAS}), or {', '.join(map(str, _BETAS[1:]))} wide: the first "
            f"{NUM_BETAS} are used."
        )
    array = array.reshape(-1, width)
    notes = []
    if width > NUM_BETAS:
        left = float(np.sqrt(np.mean(np.square(np.nan_to_num(array[:, NUM_BETAS:]).astype(np.float64)))))
        notes.append(f"betas: the first {NUM_BETAS} of {width} are used (rms of the others {left:.2g})")
    if width == 11 and (child := float(np.abs(np.nan_to_num(array[:, 10])).max())) > 0.1:
        notes.append(f"{where}: NOT USED, a child's share of the shape (up to {child:.2g}): an adult's body comes out")
    betas = np.broadcast_to(array[:, :NUM_BETAS], (count, NUM_BETAS))
    return np.array(betas, np.float32), notes


def _transl(fields: Fields, where: str, count: int, units: Units) -> tuple[np.ndarray, list[str]]:
    if "transl" not in fields:
        return np.zeros((count, 3), np.float32), ["no translation in the file: the body stays at the origin"]
    metres = vectors(fields["transl"], where, count) * LENGTHS[units.lengths or "m"]
    notes = [] if metres.any() else [f"{fields['transl'][0]!r} is zero, no translation: the body stays at the origin"]
    if "extrinsics" in fields:  # as CameraHMR's loader: labels of synthetic scenes are relative to a moving camera
        extrinsics = numbers(fields["extrinsics"][1], f"{where}: 'cam_ext'")
        if extrinsics.shape != (count, 4, 4):
            raise UserError(f"{where}: 'cam_ext' has shape {extrinsics.shape}. Expected ({count}, 4, 4).")
        metres = metres + extrinsics[:, :3, 3]
        notes += [f"{where}: the translations of 'cam_ext' are added to {fields['transl'][0]!r}"]
    return metres.astype(np.float32), notes


def vectors(field: tuple[str, Any], where: str, count: int) -> np.ndarray:
    """A vector for every row, float64 [T 3]. Raises `UserError` for other shapes."""
    key, value = field
    array = numbers(value, f"{where}: {key!r}")
    if array.ndim == 0 or array.shape[-1] != 3 or array.size != 3 * count:
        raise UserError(f"{where}: {key!r} has shape {array.shape}. Expected ({count}, 3): one for every row of pose.")
    return array.reshape(-1, 3).astype(np.float64)


def check_metres(
    transl: np.ndarray, where: str, frame: str | None, frame_rate: float | int | None, moving: bool, sure: bool
) -> list[str]:
    """Raise where a translation [T 3] can hardly be in metres: far from a room's origin, or faster than people run.

    Returns a note where people are far away. People who move may walk far: they are far only if they are in all frames.
    With `sure`, the unit is known, or depths follow from a conventional focal length (4D-Humans) and mean little:
    nothing is refused.
    """
    transl = transl[np.isfinite(transl).all(1)]
    if not len(transl):
        return []
    far = 100.0 if frame == "camera" else 30.0
    distances = np.linalg.norm(transl, axis=1)
    distance = float(np.median(distances))
    most = float(distances.max())
    text = f"{where}: rows are up to {most:.0f} m from the origin, and the median is {distance:.1f} m"
    outliers = [text] if most > max(far, 10 * distance) else []
    if not sure:
        why = f"people are {distance:.0f} from the origin"
        why = why if (distances.min() if moving else distance) > far else None
        # In a camera's frame the depth of one frame says little of the next one's.
        if why is None and moving and frame != "camera" and len(transl) > 10:
            speed = float(np.median(np.linalg.norm(np.diff(transl, axis=0), axis=1))) * (frame_rate or _SLOWEST_RATE)
            why = f"people move by {speed:.0f} a second" if speed > _FASTEST else None
        if why is not None:
            raise UserError(
                f"{where}: {why}, which looks like centimetres or millimetres. Expected metres: say --lengths cm or "
                "--lengths mm (or --lengths m, if they are)."
            )
    if distance <= (far if sure else 30):
        return outliers
    return [f"{where}: people are {distance:.0f} m from the origin, if these are metres (or say --lengths cm or mm)"]


def plain(value: Any) -> Any:
    """A tensor as an array, float32 where numpy has no such type; anything else as it is."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return value


def numbers(value: Any, what: str) -> np.ndarray:
    """A float array of numbers, lists of numbers, or tensors. Raises `UserError` for anything else."""
    try:
        array = np.asarray(plain(value))
        if array.dtype == object:  # an object array of equal rows
            array = np.array([plain(item) for item in array.tolist()] if array.ndim else array.tolist())
    except (ValueError, TypeError) as error:  # lists of unequal lengths
        raise UserError(f"{what} is no array of numbers: {error}.") from None
    if array.dtype.kind not in "fiu":
        raise UserError(f"{what} holds {array.dtype} of shape {array.shape}. Expected an array of numbers.")
    if prod(array.shape) == 0:
        raise UserError(f"{what} is empty: its shape is {array.shape}. Expected a frame at least.")
    return array
