"""Poses that are hard to fit: such as people who do yoga and gymnastics take, and such as no human takes.

SMPL's joints turn by rotation vectors in degrees, in the frame of the T-pose: x to the body's left, y up, z forwards.
Several vectors for one joint are rotations one after the other, each in the frame that the ones before have turned.
"""

from collections.abc import Callable
from math import radians
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from bench.floor import floor_fit
from fitting.fit import Status
from fitting.many import fit_many
from fitting.model import FitModel
from hmr_skel.body.joints import SMPL_JOINTS
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams

BODIES = 8
"""How many bodies take each pose."""

_Turns = dict[str, tuple]
_ARMS: _Turns = {"shoulder": (0, 0, -70)}  # hanging


def _both(**left: tuple) -> _Turns:
    """A pose in which the right side mirrors the left one: in x, rotations about y and z change their sign."""

    def mirrored(turns: tuple) -> tuple:
        if isinstance(turns[0], tuple):
            return tuple(mirrored(turn) for turn in turns)
        return (turns[0], -turns[1], -turns[2])

    return {f"left_{j}": turns for j, turns in left.items()} | {
        f"right_{j}": mirrored(turns) for j, turns in left.items()
    }


HARD: dict[str, _Turns] = {
    "deep squat": {
        **_both(hip=(-115, 0, 10), knee=(150, 0, 0), ankle=(-35, 0, 0), shoulder=(0, -80, 0)),
        "spine1": (15, 0, 0), "spine2": (10, 0, 0),
    },
    "kneeling": _both(knee=(150, 0, 0), ankle=(40, 0, 0), **_ARMS),
    "side splits": _both(hip=(0, 0, 85)),
    "front splits": _both(**_ARMS) | {"left_hip": (-95, 0, 0), "right_hip": (65, 0, 0), "spine1": (-20, 0, 0)},
    "pancake": {
        **_both(hip=(-100, 0, 55), shoulder=(0, -60, 30)),
        "spine1": (25, 0, 0), "spine2": (20, 0, 0), "spine3": (15, 0, 0),
    },
    "handstand": {
        **_both(shoulder=(0, 0, 85), collar=(0, 0, 15), wrist=(0, 0, -80)), "pelvis": (180, 0, 0), "neck": (-30, 0, 0),
    },
    "arms overhead": _both(shoulder=(0, 0, 80), collar=(0, 0, 15)),
    "arms behind the back": _both(shoulder=((0, 60, 0), (0, 0, -70)), elbow=(0, -20, -60)),
    "hands clasped behind": {
        "left_shoulder": ((40, 0, 0), (0, 0, -75)), "right_shoulder": ((40, 0, 0), (0, 0, 75)),
        "left_elbow": (0, -80, 0), "right_elbow": (0, 80, 0),
    },
    "bridge": {
        **_both(hip=(25, 0, 0), knee=(95, 0, 0), shoulder=(0, 0, 95), wrist=(0, 0, -60)),
        "pelvis": (-90, 0, 0), "spine1": (-30, 0, 0), "spine2": (-30, 0, 0), "spine3": (-20, 0, 0), "neck": (-40, 0, 0),
    },
    "forward fold": {
        **_both(hip=(-70, 0, 0), shoulder=(0, -80, -20)),
        "spine1": (35, 0, 0), "spine2": (30, 0, 0), "spine3": (25, 0, 0), "neck": (20, 0, 0),
    },
    "crossed sit": _both(
        hip=((-90, 0, 0), (0, 40, 0), (0, 0, 40)), knee=((110, 0, 0), (0, 25, 0)), ankle=(20, 0, -20), **_ARMS
    ),
    "lotus": _both(hip=((-85, 0, 0), (0, 60, 0), (0, 0, 45)), knee=(135, 0, 0), ankle=(30, 0, 0), **_ARMS),
    "leg behind the head": {
        **_both(**_ARMS), "left_hip": ((-140, 0, 0), (0, 50, 0), (0, 0, 30)), "left_knee": (100, 0, 0),
        "spine1": (20, 0, 0), "spine2": (15, 0, 0), "neck": (30, 0, 0),
    },
    "legs crossed, standing": _both(**_ARMS) | {"left_hip": (-5, 0, -25), "right_hip": (5, 0, 25)},
    "spine turned": {
        **_both(**_ARMS), "spine1": (0, 30, 0), "spine2": (0, 30, 0), "spine3": (0, 30, 0), "neck": (0, 20, 0),
        "head": (0, 30, 0),
    },
    "side bend": {
        "spine1": (0, 0, 20), "spine2": (0, 0, 20), "spine3": (0, 0, 20), "left_shoulder": (0, 0, -70),
        "right_shoulder": (0, 0, -80),
    },
    "head back": _both(**_ARMS) | {"neck": (-40, 0, 0), "head": (-30, 0, 0)},
    "arms folded": _both(shoulder=((0, -55, 0), (0, 0, -50)), elbow=(0, -110, 0)),
    "split leap": {
        "left_hip": (-100, 0, 10), "right_hip": (70, 0, -20), "left_knee": (10, 0, 0), "right_knee": (60, 0, 0),
        "spine1": (-20, 0, 0), "spine2": (-15, 0, 0), "left_shoulder": (0, -60, 50), "right_shoulder": (0, -50, -40),
    },
    "on toes": _both(ankle=(50, 0, 0), foot=(-40, 0, 0), **_ARMS),
}  # fmt: skip

IMPOSSIBLE: dict[str, _Turns] = {
    "knees 30 back": _both(knee=(-30, 0, 0), **_ARMS),
    "knees 60 back": _both(knee=(-60, 0, 0), **_ARMS),
    "knees 30 sideways": _both(knee=(0, 0, 30), **_ARMS),
    "knees twisted by 60": _both(knee=(0, 60, 0), **_ARMS),
    "elbows twisted by 60": _both(elbow=(60, 0, 0), **_ARMS),
    "elbows twisted by -60": _both(elbow=(-60, 0, 0), **_ARMS),
    "elbows twisted by 120": _both(elbow=(120, 0, 0), **_ARMS),
    "elbows 60 back": _both(elbow=(0, 60, 0), **_ARMS),
    "elbows 60 sideways": _both(elbow=(0, 0, 60), **_ARMS),
    "wrists twisted by 60": _both(wrist=(60, 0, 0), **_ARMS),
    "wrists twisted by 150": _both(wrist=(150, 0, 0), **_ARMS),
    "head turned by 150": _both(**_ARMS) | {"neck": (0, 90, 0), "head": (0, 60, 0)},
    "spine 120 back": _both(**_ARMS) | {f"spine{n}": (-40, 0, 0) for n in (1, 2, 3)},
    "hips 90 back": _both(hip=(90, 0, 0), **_ARMS),
    "ankles twisted by 90": _both(**_ARMS) | {"left_ankle": (0, 90, 0), "right_ankle": (0, 90, 0)},
    "feet 90 back and forth": _both(**_ARMS) | {"left_ankle": (90, 0, 0), "right_ankle": (-90, 0, 0)},
}


def hard_rows(poses: dict[str, _Turns], shapes: int = BODIES) -> SmplParams:
    """Every pose in the first of the `BODIES` bodies, shape by shape: row s * len(poses) + p."""
    pose = torch.stack([_axis_angles(turns) for turns in poses.values()]).repeat(shapes, 1, 1)
    betas = torch.randn(BODIES, 10, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)[:shapes]
    return SmplParams(pose[:, 0], pose[:, 1:], betas.repeat_interleave(len(poses), 0), torch.zeros(len(pose), 3))


def _axis_angles(turns: _Turns) -> Tensor:
    """[24 3] rad."""
    pose = torch.zeros(24, 3)
    for joint, vectors in turns.items():
        rotation = Rotation.identity()
        for vector in vectors if isinstance(vectors[0], tuple) else (vectors,):
            rotation = rotation * Rotation.from_rotvec(np.array(vector) * radians(1))
        pose[SMPL_JOINTS.index(joint)] = torch.from_numpy(rotation.as_rotvec())
    return pose


def hard_table(
    smpl: Smpl, model: FitModel, shapes: int, progress: Callable[[int, int], object] = lambda done, total: None
) -> tuple[list[dict[str, Any]], Tensor]:
    """How poses are fitted, a row for each and two for all, and the least E found for `HARD` ones [shapes, poses], m^2.

    The gap is that of E to the floor, in %, of the worst body: some 37 starts a row, 24 of them drawn at random. Told
    are rows whose status is `far` or `implausible`.
    """
    table, floors = [], []
    for kind, poses in (("hard", HARD), ("impossible", IMPOSSIBLE)):
        rows = hard_rows(poses, shapes)
        fitted = fit_many(rows, model)
        gap = torch.full((shapes, len(poses)), torch.nan)
        for shape in range(shapes) if poses is HARD else ():
            part = slice(shape * len(poses), (shape + 1) * len(poses))
            floors.append(floor_fit(rows[part], fitted.skel[part], smpl, model, random_starts=24))
            gap[shape] = floors[-1].energy_gap_percent
            progress(shape + 1, shapes)
        told = torch.isin(fitted.status, torch.tensor([Status.far, Status.implausible])).view(shapes, -1)
        v2v = fitted.v2v_mm.view(shapes, -1)
        columns = {name: slice(index, index + 1) for index, name in enumerate(poses)} | {f"all {kind}": slice(None)}
        for name, column in columns.items():
            values = {"v2v mean": v2v[:, column].mean(), "max": v2v[:, column].max(), "gap %": gap[:, column].max()}
            values |= {"told %": 100 * told[:, column].double().mean()}
            numbers = {key: round(float(value), 2) for key, value in values.items() if not value.isnan()}
            table.append({"pose": name} | dict.fromkeys(values) | numbers)
    return table, torch.stack([floor.energy for floor in floors])
