"""Posing Anny by world rotations, one per bone, with dual quaternions; and the T-pose made that way.

Frame: y up, facing +z, x to the body's left; rotations are 3x3, column vectors, radians. A bone's world rotation takes
its rest (A-pose) orientation to the posed one, so bones that move together share one matrix.
"""

import numpy as np
from numpy.typing import ArrayLike

from tools.open_body.anny_source import AnnySource

COLLAR_RAISE = np.radians(6.0)
SHOULDER_RAISE = np.radians(7.0)
FOREARM_SHARE_OF_PRONATION = 0.6
"""Share of the turn from Anny's palm to palm down that the distal forearm already makes; the hand makes all of it."""
LEG_SLOPE = 0.035
"""Sideways over downwards, hip to ankle, of the T-pose's nearly parallel legs."""


def rotation_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shortest-arc rotation [... 3 3] that takes the direction of `a` [... 3] to that of `b` (never opposite here)."""
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    cross = skew(np.cross(a, b))
    return np.eye(3) + cross + cross @ cross / (1 + (a * b).sum(-1))[..., None, None]


def rotation_about(axis: ArrayLike, angle: ArrayLike) -> np.ndarray:
    """Rotation [... 3 3] by `angle` about unit `axis` [3]."""
    cross = skew(np.asarray(axis, dtype=float))
    turn = np.asarray(angle, dtype=float)[..., None, None]
    return np.eye(3) + np.sin(turn) * cross + (1 - np.cos(turn)) * (cross @ cross)


def skew(v: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(v[..., 0])
    rows = [zero, -v[..., 2], v[..., 1], v[..., 2], zero, -v[..., 0], -v[..., 1], v[..., 0], zero]
    return np.stack(rows, axis=-1).reshape(*v.shape[:-1], 3, 3)


def t_pose_rotations(source: AnnySource, heads: np.ndarray) -> np.ndarray:
    """World rotations [B 3 3] that bring one body with A-pose bone heads [B 3] into the T-pose."""
    rotations = np.tile(np.eye(3), (len(source.bones), 1, 1))

    def put(names: tuple[str, ...], rotation: np.ndarray) -> None:
        for name in names:
            rotations[source.bone(name)] = rotation

    for side, out in (("L", 1.0), ("R", -1.0)):
        at = {name: heads[source.bone(f"{name}.{side}")] for name in ARM_AND_LEG_BONES}
        outward = np.array([out, 0.0, 0.0])
        collar = rotation_about([0, 0, out], COLLAR_RAISE)
        put((f"clavicle.{side}",), collar)
        put((f"shoulder01.{side}",), rotation_about([0, 0, out], SHOULDER_RAISE) @ collar)

        arm = rotation_between(at["lowerarm01"] - at["upperarm01"], outward)
        # Turn the upper arm about itself until the elbow bends the forearm forwards, not up or down.
        bend = arm @ (at["wrist"] - at["lowerarm01"])
        arm = rotation_about(outward, out * np.arctan2(bend[1], bend[2])) @ arm
        forearm = rotation_between(arm @ (at["wrist"] - at["lowerarm01"]), outward) @ arm
        middle = (at["finger2-1"] + at["finger3-1"] + at["finger4-1"]) / 3
        hand = rotation_between(forearm @ (middle - at["wrist"]), outward) @ forearm
        across = hand @ (at["finger2-1"] - at["finger5-1"])  # little to index finger: forwards when the palm is down
        pronation = out * np.arctan2(across[1], across[2])
        put((f"upperarm01.{side}", f"upperarm02.{side}"), arm)
        half = FOREARM_SHARE_OF_PRONATION / 2
        put((f"lowerarm01.{side}",), rotation_about(outward, half * pronation) @ forearm)
        put((f"lowerarm02.{side}",), rotation_about(outward, 2 * half * pronation) @ forearm)
        hand = rotation_about(outward, pronation) @ hand
        for name in source.bones:
            if name == f"wrist.{side}" or (name.startswith(("finger", "metacarpal")) and name.endswith(side)):
                put((name,), hand)

        leg = at["foot"] - at["upperleg01"]
        down = np.array([out * LEG_SLOPE, -1.0, 0.0])
        turn = rotation_between(leg * [1, 1, 0], down)
        put(tuple(f"{name}.{side}" for name in ("upperleg01", "upperleg02", "lowerleg01", "lowerleg02")), turn)
    return rotations


ARM_AND_LEG_BONES = (
    "upperarm01", "lowerarm01", "wrist", "finger2-1", "finger3-1", "finger4-1", "finger5-1", "upperleg01", "foot",
)  # fmt: skip


def posed_heads(parents: tuple[int, ...], heads: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bone heads [B 3] after the world rotations [B 3 3], hung on their parents, and the bones' translations [B 3]."""
    posed = heads.copy()
    for bone, parent in enumerate(parents):
        if parent >= 0:
            posed[bone] = posed[parent] + rotations[parent] @ (heads[bone] - heads[parent])
    return posed, posed - np.einsum("bij,bj->bi", rotations, heads)


def blend_dual_quaternions(
    vertices: np.ndarray, weights: np.ndarray, parents: tuple[int, ...], rotations: np.ndarray, translation: np.ndarray
) -> np.ndarray:
    """`vertices` [V 3] moved by the blend (Kavan 2007), `weights` [V B], of maps x -> rotation x + translation."""
    real = _quaternions(rotations)
    for bone, parent in enumerate(parents):
        if parent >= 0 and real[bone] @ real[parent] < 0:
            real[bone] = -real[bone]
    dual = 0.5 * _product(np.concatenate([np.zeros((len(real), 1)), translation], axis=1), real)
    blended = weights @ np.concatenate([real, dual], axis=1)
    blended = blended / np.linalg.norm(blended[:, :4], axis=1, keepdims=True)
    w, u = blended[:, :1], blended[:, 1:4]
    dw, du = blended[:, 4:5], blended[:, 5:]
    turned = vertices + 2 * np.cross(u, np.cross(u, vertices) + w * vertices)
    return turned + 2 * (w * du - dw * u + np.cross(u, du))


def _quaternions(rotations: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return np.roll(Rotation.from_matrix(rotations).as_quat(), 1, axis=1)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    w = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(1, keepdims=True)
    return np.concatenate([w, a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + np.cross(a[:, 1:], b[:, 1:])], axis=1)
