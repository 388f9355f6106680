"""Clips turned upright and put on the floor, by what the user says or by an estimate from the feet.

A file's frame says which axis is up: a camera's is taken for level. Where the camera was tilted the whole world is, and
where its height is not known the floor is anywhere.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.lbs import bone_transforms, chain, relative, skin
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat, shortest_arc
from hmr_skel.convert.clips import UPRIGHT, SmplClip, looks_like, require_frame
from hmr_skel.convert.files import read_contents
from hmr_skel.convert.parameters import check_metres
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.convert.fit import Bodies

FEET = "feet"
_ANKLES = (7, 8)
_SOLES = (7, 8, 10, 11)
_STILL = 0.15  # m/s: slower ankles belong to feet that stand
_FLAT_DEG = 15.0  # feet that are further from the others' median do not stand flat
_ENOUGH = 10  # feet in frames
_ON_FLOOR = 5  # percent of the frames may be lower than the floor
_CHUNK = 256  # frames whose feet are in memory at once

LEVELLED = "z is up in the file, and y in what is written: (x, y, z) became (x, z, -y)"

SEEMS_Z_UP = (
    "these people stand as in a z-up frame, where the pelvis' angles jump: say --frame z-up (frame= in Python) to have "
    "them turned to y-up"
)


def level(clip: SmplClip) -> SmplClip:
    """A z-up clip of SMPL in a y-up frame, with a note; any other as it is.

    Where z is up, a person's heading is the second of the pelvis' three angles: facing along y or back it is 90
    degrees, where the first and the third turn about one axis and jump.
    """
    if clip.frame != "z-up" or clip.skel_q is not None:
        if clip.frame is None and clip.moving and looks_like(clip.pose) == "z-up" and clip.turn is None:
            return replace(clip, notes=(*clip.notes, f"{clip.source}: {SEEMS_Z_UP}"))
        return clip
    return _moved(clip, UPRIGHT["z-up"], np.zeros(3), LEVELLED)


def in_world(clip: SmplClip, file: Path, name: str) -> SmplClip:
    """A clip of a camera's frame in the y-up world of that camera's track, as TRAM's camera.npy has it.

    `world_cam_R` [frames 3 3] and `world_cam_T` [frames 3] m take points of a frame's camera to the world. The file of
    that `name` is looked for beside the clip's `file`, and a folder above. Raises `UserError` where it is not there, or
    does not fit the clip's frames.
    """
    found = next((folder / name for folder in file.parents[:2] if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{file}: --which global needs {name}, which leads to the world. Put it beside the file.")
    camera: Any = read_contents(found)
    try:
        turn, place = (np.asarray(camera[key], np.float64)[clip.number] for key in ("world_cam_R", "world_cam_T"))
        turn, place = turn.reshape(-1, 3, 3), place.reshape(len(clip), 3)
        turned = np.einsum("tij,tj->ti", turn, clip.transl) + place
    except (TypeError, KeyError, ValueError, IndexError):
        raise UserError(
            f"{found} does not fit {file}. Expected world_cam_R (frames, 3, 3) and world_cam_T (frames, 3), of all its "
            "frames."
        ) from None
    step = np.tile(np.eye(4), (len(clip), 1, 1))
    step[:, :3, :3], step[:, :3, 3] = turn, place
    rotvec = rotmat_to_rotvec(torch.from_numpy(turn)).float().numpy()
    notes = (*clip.notes, *check_metres(turned, str(found), "y-up", clip.frame_rate, clip.moving, True))
    transl = turned.astype(np.float32)
    return replace(clip, turn=rotvec, transl=transl, frame="y-up", from_input=step, notes=notes)


def upright(clip: SmplClip, bodies: "Bodies", up: str | None, floor: bool) -> SmplClip:
    """The clip in a y-up frame. A note says what was estimated.

    Args:
        clip: SMPL; one person's where `feet` or the floor are to be found.
        bodies: the body models; feet are those of SMPL.
        up: `X,Y,Z`, the direction that is up in the clip's frame; or `feet`, which takes the mean of what is up for
            feet that stand still, as SMPL's feet are flat in its T-pose; None: as the frame says.
        floor: whether to move the floor to height 0. It is estimated: the height that the lowest vertex of the feet is
            below in 5 % of the frames.

    Raises:
        UserError: the frame is not known, the rows are SKEL already or of several people, `feet` lacks a motion or its
            frame rate, too few feet stand still, or `up` is no direction.
    """
    if not len(clip):
        return clip
    if clip.skel_q is not None:
        raise UserError(f"--up and --floor turn SMPL, and {clip.source} is SKEL already. Leave them out.")
    turn = UPRIGHT[require_frame(clip, "--up or --floor")]
    direction = None if up in (None, FEET) else _direction(up)
    notes, body = [], _Posed(clip, bodies) if up == FEET or floor else None
    if body is not None and up == FEET:
        direction, count = body.up_of_feet()
        tilt = np.degrees(np.arccos(np.clip(turn[1] @ direction, -1, 1)))
        notes.append(
            f"{clip.source}: up is an estimate, from {count:,} standing feet: {tilt:.1f} degrees off the {clip.frame} "
            "frame's"
        )
    if direction is not None:
        level, y = torch.from_numpy(turn @ direction), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        turn = shortest_arc(level, y).numpy() @ turn
    shift = np.zeros(3)
    if body is not None and floor:
        height = float(np.percentile(body.lowest_of_feet(turn[1]), _ON_FLOOR))
        shift[1] = -height
        notes.append(f"{clip.source}: the floor is an estimate, from the feet: it was at a height of {height:.3f} m")
    return _moved(clip, turn, shift, *notes)


def _moved(clip: SmplClip, turn: np.ndarray, shift: np.ndarray, *notes: str) -> SmplClip:
    """The clip in the y-up frame where its point p is at turn @ p + shift."""
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = turn, shift
    return replace(
        clip,
        turn=rotmat_to_rotvec(torch.from_numpy(turn) @ _turn_of(clip)).float().numpy(),
        transl=(clip.transl @ turn.T + shift).astype(np.float32),
        frame="y-up",
        from_input=step @ np.broadcast_to(np.eye(4) if clip.from_input is None else clip.from_input, (len(clip), 4, 4)),
        notes=(*clip.notes, *notes),
    )


def _turn_of(clip: SmplClip) -> torch.Tensor:
    """The rotations [T 3 3] that the clip's meshes are turned by already."""
    none = np.zeros((len(clip), 3))
    return rotvec_to_rotmat(torch.from_numpy(none if clip.turn is None else clip.turn.astype(np.float64)))


class _Posed:
    """Where a clip's joints and feet are, in its own frame; frames that are not finite are left out."""

    def __init__(self, clip: SmplClip, bodies: "Bodies") -> None:
        if not clip.moving and len(clip) > 1:
            raise UserError(
                f"--up feet and --floor: the rows of {clip.source} are no frames of one person. Say --rows frames."
            )
        arrays = (clip.pose.reshape(-1, 72), clip.transl, clip.betas)
        rows = np.flatnonzero(np.all([np.isfinite(values).all(1) for values in arrays], 0))
        if not len(rows):
            raise UserError(f"--up and --floor: no frame of {clip.source} is finite. Expected SMPL parameters.")
        self.clip = clip.take(rows)
        smpl = bodies.smpl(clip.gender[0])
        shape = smpl.shaped(torch.from_numpy(self.clip.betas.mean(0)).to(smpl.template))
        rest, joints, weights = (values.double().cpu() for values in (*shape, smpl.weights))
        soles = torch.isin(weights.argmax(1), torch.tensor(_SOLES))
        local, turn = rotvec_to_rotmat(torch.from_numpy(self.clip.pose).double()), _turn_of(self.clip)
        rotmat, place = chain(local, relative(joints, SMPL_PARENTS), SMPL_PARENTS)
        rotmat, place = turn[:, None] @ rotmat, place @ turn.mT + torch.from_numpy(self.clip.transl)[:, None]
        self.rotmat, self.joints = rotmat.numpy(), place.numpy()
        self._soles = weights[soles], bone_transforms(rotmat, place, joints), rest[soles]

    def up_of_feet(self) -> tuple[np.ndarray, int]:
        """The mean direction [3] that is up for feet that stand still, and their number."""
        clip = self.clip
        if not clip.moving or clip.frame_rate is None:
            raise UserError(
                f"--up feet: {clip.source} holds no frames of one person at a known frame rate, which tell feet that "
                "stand still from those that move. Say --rows frames and --frame-rate, or --up X,Y,Z."
            )
        seconds = np.diff(clip.number) / clip.frame_rate
        moved = np.linalg.norm(np.diff(self.joints[:, _ANKLES], axis=0), axis=-1)
        still = (moved < _STILL * seconds[:, None]) & ~clip.starts()[1:, None]
        ups = self.rotmat[1:, _ANKLES][..., 1][still]
        if len(ups):
            middle = np.median(ups, axis=0)
            middle /= np.linalg.norm(middle) or 1.0
            ups = ups[ups @ middle > np.cos(np.radians(_FLAT_DEG))]
        if len(ups) < _ENOUGH:
            raise UserError(
                f"--up feet: {len(ups)} feet stand still in {clip.source}, expected {_ENOUGH} at least. Say --up X,Y,Z."
            )
        mean = ups.mean(0)
        return mean / np.linalg.norm(mean), len(ups)

    def lowest_of_feet(self, up: np.ndarray) -> np.ndarray:
        """How high the lowest vertex of the feet is in each frame, m along `up` [3]."""
        weights, transforms, rest = self._soles
        return np.concatenate([(skin(weights, rows, rest).numpy() @ up).min(1) for rows in transforms.split(_CHUNK)])


def _direction(text: str) -> np.ndarray:
    try:
        direction = np.array([float(word) for word in text.split(",")])
    except ValueError:
        direction = np.zeros(0)
    length = np.linalg.norm(direction)
    if direction.shape != (3,) or not 0 < length < np.inf:
        raise UserError(f"--up {text}: expected X,Y,Z, the direction that is up in the file's frame, or feet.")
    return direction / length
