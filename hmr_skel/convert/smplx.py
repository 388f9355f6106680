"""SMPL-X's (and STAR's) parameters: read from a file, posed by their own model, mapped to SMPL's topology.

They are other bodies: their betas are of other shape spaces and their joints sit elsewhere, so they never become SMPL's
parameters by name.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hmr_skel.body.other import NAMES
from hmr_skel.convert.parameters import Fields, Parameters, Units, numbers, plain, radians, read_parameters, whole_pose
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.convert.fit import Bodies

FACE_KEYS = ("jaw_pose", "pose_jaw", "expression", "leye_pose")
_PARTS = {
    "jaw": ("jaw_pose", "pose_jaw"), "eyes": ("pose_eye",), "left eye": ("leye_pose",), "right eye": ("reye_pose",),
    "hands": ("pose_hand",), "left hand": ("left_hand_pose",), "right hand": ("right_hand_pose",),
    "expression": ("expression",),
}  # fmt: skip
_HANDS, _HAND = ("left hand", "right hand"), 45  # numbers of a hand's axis-angles; fewer are components
_FACE = {"jaw": [22], "left eye": [23], "right eye": [24], "eyes": [23, 24]}  # and their joints
_MATTERS = 0.1  # of a beta
_BODY, _JOINTS = 22, {"smplx": 55, "star": 24}


@dataclass(frozen=True)
class PosedMeshes:
    """Meshes of another body's parameters. A source of `MeshRows`."""

    model: str
    source: str
    gender: str
    pose: np.ndarray  # float32 [T J 3]; hands are in `hands`
    hands: tuple[np.ndarray | None, np.ndarray | None]  # left, right [T n] axis-angles or components; None: at rest
    betas: np.ndarray  # float32 [T n]
    expression: np.ndarray  # float32 [T n]
    transl: np.ndarray  # float32 [T 3] m

    def read(self, rows: np.ndarray, bodies: "Bodies") -> Tensor:
        """Vertices [B V 3] of that body. Raises `UserError` where its model file is not there."""
        body = bodies.other(self.model, self.gender, self.source)
        pose = self.pose[rows]
        if self.model == "smplx":
            given = [None if hand is None else hand[rows] for hand in self.hands]
            hands = [body.hand_pose(hand, side, len(rows)) for side, hand in enumerate(given)]
            pose = np.concatenate((pose[:, :25], np.concatenate(hands, 1).reshape(len(rows), 30, 3)), 1)
        arrays = (pose, self.betas[rows], self.expression[rows], self.transl[rows])
        tensors = [torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(bodies.device) for array in arrays]
        more, known = np.abs(self.betas[:, len(body.shapedirs) :]).max(initial=0), len(body.shapedirs)
        if more > _MATTERS:
            raise UserError(
                f"{self.source}: the {NAMES[self.model]} file has {known} betas, and those after reach {more:.2g} of "
                f"{self.betas.shape[1]}. Fetch the model file with all of them."
            )
        return body(*tensors)


def other_model(found: Mapping, fields: Fields, said: str | None, who: str, where: str) -> tuple[str, str] | None:
    """Which other body the numbers are of, and what says so; None for SMPL and SMPL-H. Raises `UserError` where the
    keys speak against what is `said`, by `who` in words."""
    shape = np.shape(fields["pose"][1]) if "pose" in fields else ()
    bare = shape[-1:] == (72,) or shape[-2:] == (24, 3)  # SMPL's joints, beside which zeros of EasyMocap say nothing
    still = bare and "expression" in found and not np.any(plain(found["expression"]))
    face = next((key for key in FACE_KEYS if key in found and not (still and key == "expression")), None)
    wide = shape[-1:] in ((165,), (495,)) or shape[-2:] == (55, 3) or shape[-3:] == (55, 3, 3)
    if said in _JOINTS:
        return said, f"{who} {said}"
    has = f"it has {face!r}" if face is not None else "its poses have 55 joints" if wide else None
    if has and said is not None:
        raise UserError(
            f"{where}: {who} {said}, but {has}, as SMPL-X's files do. Expected one: leave the wrong one out."
        )
    return ("smplx", has) if has else None


def read_other(
    model: str, fields: Fields, found: Mapping, where: str, units: Units, zero_betas: bool
) -> tuple[Parameters, dict[str, Any], set[str]]:
    """Parameters of another body.

    Returns:
        Those that have SMPL's names, of which only the translation holds, and the pose only roughly; what `PosedMeshes`
        takes besides; and the keys that were read.

    Raises:
        UserError: something is missing or has a shape that is not read.
    """
    joints = _JOINTS[model]
    pair = {"orient", "body"} <= fields.keys()
    if not pair and "pose" not in fields:
        raise UserError(f"{where} has no pose of {NAMES[model]}. Expected 'poses', or 'global_orient' and 'body_pose'.")
    pose, _ = whole_pose(fields, where, (55, 22, 24, 52), units)
    count, given = len(pose), pose.shape[1]
    used = {fields[meaning][0] for meaning in (("orient", "body") if pair else ("pose",))}

    def part(name: str, widths: Collection[int] = ()) -> np.ndarray | None:
        key = next((key for key in _PARTS[name] if key in found), None)
        if key is None:
            return None
        array = numbers(found[key], f"{where}: {key!r}").astype(np.float32)
        width = array.size // count
        rows = array.shape[:1] in ((count,), (width,)) and (array.ndim < 3 or array.shape[-1] == 3)
        if array.size != width * count or not rows or (widths and width not in widths):
            raise UserError(f"{where}: {key!r} has shape {array.shape} for {count} rows of pose.")
        used.add(key)
        array = array.reshape(count, width)
        if name == "expression" or width % 3 or (name in _HANDS and width < _HAND):  # these are no angles
            return array
        return radians(array.reshape(count, -1, 3), f"{where}: {key!r}", units).reshape(count, width)

    hands: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    whole = np.zeros((count, joints, 3), np.float32)
    own = min(given, joints if model == "star" else _BODY)
    whole[:, :own] = pose[:, :own]
    if model == "smplx":
        if given == 55:
            whole[:, _BODY:25] = pose[:, _BODY:25]
        for name, places in _FACE.items() if given != 55 else ():
            if (value := part(name, (3 * len(places),))) is not None:
                whole[:, places] = value.reshape(count, len(places), 3)
        both = pose[:, -30:].reshape(count, 2 * _HAND) if given > 24 else part("hands", (2 * _HAND,))
        left, right = (part(name, range(1, _HAND + 1)) if both is None else None for name in _HANDS)
        hands = (left, right) if both is None else (both[:, :_HAND], both[:, _HAND:])
    expression = part("expression")
    if "turn" in fields:
        raise UserError(
            f"{where}: {fields['turn'][0]!r} is not read of {NAMES[model]}, which this is by its keys or by --model. "
            f"Expected the root in the pose; of SMPL, none of {', '.join(FACE_KEYS)}."
        )
    if "betas" not in fields and not zero_betas:
        raise UserError(f"{where} has no betas of {NAMES[model]}. Expected 'betas': say --betas zero without them.")
    key, value = fields.get("betas", ("", np.zeros((1, 10))))
    betas = numbers(value, f"{where}: {key!r}").astype(np.float32)
    betas = betas.reshape(-1, betas.shape[-1]) if betas.ndim else betas.reshape(1, 1)
    if len(betas) not in (1, count):
        raise UserError(f"{where}: {key!r} has shape {betas.shape} for {count} rows of pose.")
    if betas.shape[1] == 11:  # the last one is a child's share, as in BEDLAM
        if np.abs(betas[:, 10]).max() > _MATTERS:
            raise UserError(f"{where}: {key!r} has a child's share (11 wide), which is not read of {NAMES[model]}.")
        betas = betas[:, :10]
    used.add(key)
    smpl = np.zeros((count, 24, 3), np.float32)
    smpl[:, :_BODY] = whole[:, :_BODY]
    others = {name: field for name, field in fields.items() if name in ("transl", "extrinsics")}
    units = Units(units.lengths, units.angles and "rad")  # these are radians by now
    read = read_parameters({"pose": ("", smpl), "betas": ("", np.zeros(10)), **others}, where, units)
    if (hands[0] is None) != (hands[1] is None):
        read = replace(read, notes=(*read.notes, f"{where}: one of the hands has no pose: it is at rest"))
    values = {
        "pose": whole,
        "hands": hands,
        "betas": np.broadcast_to(betas, (count, betas.shape[1])),
        "expression": np.zeros((count, 0), np.float32) if expression is None else expression,
    }
    return read, values, used
