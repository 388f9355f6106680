"""Fits Rajagopal's hand bones into the skin's right hand: every phalanx between two finger joints.

Skin frame: y up, facing +z, x to the left, metres.
"""

from dataclasses import dataclass, replace

import numpy as np

from tools.open_body.bone_segments import FINGERS, Bone
from tools.open_body.posing import rotation_between
from tools.open_body.rajagopal_meshes import Mesh


@dataclass(frozen=True)
class HandLandmarks:
    """Points of the mean body's right hand that the finger bones are fitted to."""

    wrist: np.ndarray
    knuckles: np.ndarray
    """[5 3 3]: finger (thumb first), joint from the palm out."""
    tips: np.ndarray
    """[5 3]."""


def fit_hand(placed: list[Bone], original: list[Bone], turn: np.ndarray, marks: HandLandmarks) -> list[Bone]:
    """Lay every finger bone between the skin's finger joints, the palm's bones by one similarity."""
    raw = {bone.name: bone.mesh.vertices for bone in original if bone.segment == "hand_r"}
    chains: list[tuple[str, ...]] = [("metacarpal1", "thumb_proximal", "thumb_distal")]
    chains += [
        (f"metacarpal{number}", *(f"{finger}_{part}" for part in ("proximal", "medial", "distal")))
        for number, finger in enumerate(FINGERS, start=2)
    ]
    ends = {name: _ends(raw[name]) for names in chains for name in names}
    # Palm: wrist and knuckles of Rajagopal's hand onto the skin's.
    source = np.stack([np.zeros(3), *(ends[names[0]][1] for names in chains[1:])])
    target = np.stack([marks.wrist, *marks.knuckles[1:, 0]])
    rotation, scale, shift = similarity(source, target)
    moved = {name: scale * points @ rotation.T + shift for name, points in raw.items()}
    for finger, names in enumerate(chains):
        joints = [*marks.knuckles[finger], marks.tips[finger]]
        if finger == 0:
            segments = list(zip(names, joints[:-1], joints[1:], strict=True))
        else:
            base = scale * ends[names[0]][0] @ rotation.T + shift
            segments = list(zip(names, [base, *joints[:-1]], joints, strict=True))
        for name, start, end in segments:
            moved[name] = _between(raw[name], *ends[name], start, end, rotation)
    return [
        replace(bone, mesh=Mesh(moved[bone.name], bone.mesh.faces)) if bone.name in moved else bone for bone in placed
    ]


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Rotation, scale and shift that take points [N 3] to points [N 3] best (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    fix = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ fix @ vt
    scale = float((s * np.diag(fix)).sum() / (a**2).sum())
    return rotation, scale, target.mean(0) - scale * rotation @ source.mean(0)


def _ends(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Near and far end of a finger bone: centres of its outer tenths along its long axis, counted from the wrist."""
    centred = points - points.mean(0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    axis = axis * np.sign(axis @ points.mean(0))
    along = centred @ axis
    low, high = np.quantile(along, [0.1, 0.9])
    # The outermost points themselves give the length, the tenths the place across it.
    near, far = points[along <= low].mean(0), points[along >= high].mean(0)
    near = near + axis * (along.min() - (near - points.mean(0)) @ axis)
    far = far + axis * (along.max() - (far - points.mean(0)) @ axis)
    return near, far


def _between(
    points: np.ndarray, near: np.ndarray, far: np.ndarray, start: np.ndarray, end: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """The bone laid from `start` to `end`, with a small gap at both joints."""
    length = 0.96 * np.linalg.norm(end - start) / np.linalg.norm(far - near)
    rotation = rotation_between(turn @ (far - near), end - start) @ turn
    across = np.clip(length, 0.8, 1.1)
    axis = (far - near) / np.linalg.norm(far - near)
    offset = points - near
    along = (offset @ axis)[:, None] * axis
    return start + 0.02 * (end - start) + (length * along + across * (offset - along)) @ rotation.T
