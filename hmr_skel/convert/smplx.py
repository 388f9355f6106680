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

from hmr_skel.body.other import MAP_FILE, MAP_FROM, MHR_FILES, OTHER_FILES, WHERE
from hmr_skel.convert.parameters import (
    ANGLES,
    Fields,
    Parameters,
    Units,
    numbers,
    read_parameters,
    refuse_degrees,
    root_rows,
    rotvecs,
)
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.convert.fit import Bodies

NAMES = {"smplx": "SMPL-X", "star": "STAR"}
FACE_KEYS = ("jaw_pose", "pose_jaw", "expression", "leye_pose")
_PARTS = {
    "jaw": ("jaw_pose", "pose_jaw"), "eyes": ("pose_eye",), "left eye": ("leye_pose",), "right eye": ("reye_pose",),
    "hands": ("pose_hand",), "left hand": ("left_hand_pose",), "right hand": ("right_hand_pose",),
    "expression": ("expression",),
}  # fmt: skip
_HANDS, _HAND = ("left hand", "right hand"), 45  # numbers of a hand's axis-angles; fewer are components
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


def other_model(found: Mapping, fields: Fields, said: str | None) -> tuple[str, str] | None:
    """Which other body the numbers are of, and what says so; None for SMPL and SMPL-H."""
    kind = str(found["surface_model_type"]).lower() if "surface_model_type" in found else ""
    face = next((key for key in FACE_KEYS if key in found), None)
    shape = np.shape(fields["pose"][1]) if "pose" in fields else ()
    wide = shape[-1:] in ((165,), (495,)) or shape[-2:] == (55, 3) or shape[-3:] == (55, 3, 3)
    if said in _JOINTS:
        return said, f"{NAMES[said]} is said"
    if kind.startswith(("smplx", "smpl-x")):
        return "smplx", f"surface_model_type is {kind!r}"
    if face is not None:
        return "smplx", f"it has {face!r}"
    return ("smplx", "its poses have 55 joints") if wide else None


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
    if "orient" in fields and "body" in fields:
        names = [fields["orient"][0], fields["body"][0]]
        rest, _ = rotvecs(fields["body"][1], f"{where}: {names[1]!r}", (21, 23, 54), units)
        first, _ = rotvecs(root_rows(fields["orient"][1], len(rest)), f"{where}: {names[0]!r}", (1,), units)
        if len(first) != len(rest):
            raise UserError(f"{where}: {names[0]!r} has {len(first)} rows but {names[1]!r} has {len(rest)}.")
        pose = np.concatenate((first, rest), 1)
    elif "pose" in fields:
        names = [fields["pose"][0]]
        pose, _ = rotvecs(fields["pose"][1], f"{where}: {names[0]!r}", (55, 22, 24, 52), units)
    else:
        raise UserError(f"{where} has no pose of {NAMES[model]}. Expected 'poses', or 'global_orient' and 'body_pose'.")
    count, given = len(pose), pose.shape[1]
    used = set(names)

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
        if units.angles is None:
            refuse_degrees(array.reshape(count, -1, 3), f"{where}: {key!r}")
        return array * np.float32(ANGLES[units.angles or "rad"])

    hands: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    whole = np.zeros((count, joints, 3), np.float32)
    if model == "star":
        whole[:, : min(given, joints)] = pose[:, :joints]
    else:
        whole[:, :_BODY] = pose[:, :_BODY]
        if given == 55:
            whole[:, 22:25] = pose[:, 22:25]
            hands = pose[:, 25:40].reshape(count, 45), pose[:, 40:].reshape(count, 45)
        elif given == 52:
            hands = pose[:, 22:37].reshape(count, 45), pose[:, 37:].reshape(count, 45)
        for name, place in (("jaw", 22), ("left eye", 23), ("right eye", 24)):
            if given != 55 and (value := part(name, (3,))) is not None:
                whole[:, place] = value
        if given != 55 and (value := part("eyes", (6,))) is not None:
            whole[:, 23:25] = value.reshape(count, 2, 3)
        if given not in (52, 55):
            both = part("hands", (90,))
            left, right = (part(name, range(1, _HAND + 1)) for name in _HANDS)
            hands = (left, right) if both is None else (both[:, :_HAND], both[:, _HAND:])
    expression = part("expression")
    if "turn" in fields:
        raise UserError(f"{where}: {fields['turn'][0]!r} is not read of {NAMES[model]}. Expected the root in the pose.")
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


def lacking(model: str, source: str, folder: object, gender: str) -> UserError:
    """The error for a body whose model file is not there."""
    name = f"{OTHER_FILES[model]}_{gender.upper()}.npz"
    needed = f"{name} (or .pkl), from {WHERE[model]}"
    if model == "smplx":
        needed += f", and {MAP_FILE}, from {MAP_FROM}"
    return UserError(
        f"{source} holds {NAMES[model]}, another body than SMPL, whose own files are needed: {needed}. Put them into "
        f"the folder of body models, {folder}, which has no {name}."
    )


def no_map(count: int, source: str, folder: object, looked: list[str]) -> UserError:
    """The error for vertices that no map takes to SMPL's topology."""
    found = f"has only {', '.join(looked)}, of other numbers of vertices" if looked else "has none"
    known = {10475: f"For SMPL-X it is {MAP_FILE}, from {MAP_FROM}", 18439: f"For MHR it is {MHR_FILES}"}
    example = known.get(count, "It is a matrix [6890 V]")
    return UserError(
        f"{source}: meshes of {count:,} vertices need a map to SMPL's 6,890, a file *2smpl*.pkl, .npz, .npy or .pt in "
        f"the folder of body models, {folder}, which {found}. {example}."
    )
