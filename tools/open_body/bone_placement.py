"""Fits the bones into one gender's mean skin in T-pose, then takes them back into their own frames.

Skin frame: y up, facing +z, x to the left, metres. Every bone starts where SKEL's rest transform of Rajagopal's mesh
puts it; ribcage, neck, head and hands are then fitted to the skin. `push_inside` moves in what still sticks out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS
from tools.open_body.bone_segments import FINGERS, Bone
from tools.open_body.posing import rotation_between
from tools.open_body.rajagopal_meshes import Mesh
from tools.open_body.skeleton import HEAD_IN_TORSO, HUMERUS_IN_TORSO, MIRROR_SKIN, THORAX_IN_TORSO, Chain

SHOULDERS_BELOW_RIBS = 0.012
"""The ribcage is lowered until its own shoulders would lie no higher than this above the skin's."""
NECK_BEND = (0.31, 0.50)
"""Heights in the torso frame (T6, atlas) between which the spine goes over from the ribcage's place to the skull's."""


@dataclass(frozen=True)
class PlacedBones:
    """All bones of a body, right, middle and mirrored left."""

    local: np.ndarray
    """[K 3] each in its segment's bone frame, before SKEL's scaling."""
    faces: np.ndarray
    """[L 3]."""
    joint: np.ndarray
    """[K] segment."""
    weights: np.ndarray
    """[K 24] posing weights."""
    mirrors: np.ndarray
    """[K] the vertex that each one mirrors: a left one the right one, every other itself."""
    part: np.ndarray
    """[K] name of the bones that it stays together with."""


@dataclass(frozen=True)
class HandLandmarks:
    """Points of the mean body's right hand that the finger bones are fitted to."""

    wrist: np.ndarray
    knuckles: np.ndarray
    """[5 3 3]: finger (thumb first), joint from the palm out."""
    tips: np.ndarray
    """[5 3]."""


def place_bones(
    bones: list[Bone], chain: Chain, joints: np.ndarray, skin: np.ndarray, marks: HandLandmarks
) -> PlacedBones:
    """Place `bones` in the mean body with SKEL joints [24 3] and `skin` [V 3]."""
    scale = rest_scales(chain, joints)
    at = {name: index for index, name in enumerate(SKEL_JOINTS)}
    # Rajagopal's shoulders sit higher above the ribs' lowest vertebra than this body's do.
    rise = joints[at["humerus_r"], 1] + SHOULDERS_BELOW_RIBS - joints[at["thorax"], 1]
    lowered = scale.copy()
    lowered[at["thorax"], 1] = min(lowered[at["thorax"], 1], rise / (HUMERUS_IN_TORSO - THORAX_IN_TORSO)[1])

    def rest(segment: str, points: np.ndarray) -> np.ndarray:
        joint = at[segment]
        return lowered[joint] * points @ chain.orientations[joint].T + joints[joint]

    placed = []
    for bone in bones:
        start = rest(bone.segment, bone.mesh.vertices)
        if bone.name == "clavicle" and bone.share_up and bone.torso is not None:
            # From the ribcage's place at the breastbone to the scapula's at the shoulder.
            share = np.asarray(bone.share_up[1])[:, None]
            start = (1 - share) * start + share * rest("thorax", bone.torso - THORAX_IN_TORSO)
        placed.append(replace(bone, mesh=Mesh(start, bone.mesh.faces)))
    placed = fit_head(
        placed,
        skin,
        lambda torso: rest("thorax", torso - THORAX_IN_TORSO),
        lambda torso: rest("head", torso - HEAD_IN_TORSO),
    )
    placed = fit_hand(placed, bones, chain.orientations[SKEL_JOINTS.index("hand_r")], marks)

    local, all_faces, joint_of, weights, mirrors, parts, count = [], [], [], [], [], [], 0
    for bone in placed:
        sides = [(bone.mesh, bone.segment, bone.share_up)]
        if bone.segment.endswith("_r") or bone.name.endswith("_r"):
            mirrored = Mesh(bone.mesh.vertices @ MIRROR_SKIN, bone.mesh.faces[:, ::-1])
            segment = bone.segment.removesuffix("_r") + "_l" * bone.segment.endswith("_r")
            shared = bone.share_up and (bone.share_up[0].replace("_r", "_l"), bone.share_up[1])
            sides.append((mirrored, segment, shared))
        for mesh, segment, shared in sides:
            joint = SKEL_JOINTS.index(segment)
            local.append((mesh.vertices - joints[joint]) @ chain.orientations[joint] / scale[joint])
            all_faces.append(mesh.faces + count)
            joint_of.append(np.full(len(mesh.vertices), joint))
            rows = np.tile(np.eye(24)[joint], (len(mesh.vertices), 1))
            if shared is not None:
                share = np.broadcast_to(shared[1], len(rows))[:, None]
                rows = (1 - share) * rows + share * np.eye(24)[SKEL_JOINTS.index(shared[0])]
            weights.append(rows)
            mirrors.append(np.arange(len(rows)) + (count if mesh is bone.mesh else count - len(rows)))
            parts.append(np.full(len(rows), _part(bone)))
            count += len(rows)
    return PlacedBones(*map(np.concatenate, (local, all_faces, joint_of, weights, mirrors, parts)))


def _part(bone: Bone) -> str:
    """What stays together when bones are moved: pelvis, head, hand, foot, ribs and spine; else each bone by itself."""
    if bone.torso is None and bone.segment in ("pelvis", "head", "hand_r", "calcn_r", "toes_r"):
        return bone.segment
    return bone.name.rstrip("0123456789")


def rest_scales(chain: Chain, joints: np.ndarray) -> np.ndarray:
    """SKEL's bone scales [24] at the mean body, where every ratio of skin distances is 1."""
    parents = np.array(SKEL_PARENTS)
    offsets = joints - np.where(parents[:, None] >= 0, joints[parents], 0)
    ratio = np.linalg.norm(offsets, axis=1) / np.linalg.norm(chain.offsets, axis=1)
    scale = np.ones(24)
    for joint in range(24):
        children = np.flatnonzero(parents == joint)
        if len(children):
            scale[joint] = ratio[children[0]]
    at = {name: index for index, name in enumerate(SKEL_JOINTS)}
    scale[at["ulna_r"]], scale[at["ulna_l"]] = scale[at["radius_r"]], scale[at["radius_l"]]
    lumbar = at["lumbar_body"]
    scale[at["thorax"]] = scale[lumbar]
    scale[lumbar] = abs(offsets[lumbar, 1]) / abs(chain.offsets[lumbar, 1])
    # Two axes of the thorax and lumbar scales are replaced: along x both take the skin's ratio, 1 at the mean body.
    result = np.tile(scale[:, None], (1, 3))
    result[[lumbar, at["thorax"]], 0] = 1.0
    for name, axes in (("head", (0, 1, 2)), ("hand_r", (0, 1)), ("hand_l", (0, 1))):
        result[at[name], list(axes)] = 1.0
    return result


def fit_head(placed: list[Bone], skin: np.ndarray, to_thorax: Callable, to_head: Callable) -> list[Bone]:
    """Scale skull and jaw to the cranium, 7 mm below the skin, and bend the neck so that it meets them.

    `to_thorax` and `to_head` take points of Rajagopal's torso frame to the skin frame as the thorax and head do.
    """
    skull = next(bone for bone in placed if bone.name == "skull").mesh.vertices
    top = skin[:, 1].max()

    def box(points: np.ndarray, high: float) -> tuple[float, float, float]:
        band = points[(points[:, 1] < high - 0.04) & (points[:, 1] > high - 0.075)]
        return float(band[:, 2].min()), float(band[:, 2].max()), float(abs(band[:, 0]).max())

    back, front, half_width = box(skin[abs(skin[:, 0]) < 0.15], top)
    bone_back, bone_front, bone_width = box(skull, skull[:, 1].max())
    depth = (front - back - 0.014) / (bone_front - bone_back)
    width = (half_width - 0.007) / bone_width
    scale = np.array([width, (depth + width) / 2, depth])
    origin = np.array([0.0, skull[:, 1].max(), (bone_back + bone_front) / 2])
    target = np.array([0.0, top - 0.007, (back + front) / 2])

    def fitted(bone: Bone) -> np.ndarray:
        if bone.segment == "head" and bone.torso is None:
            return (bone.mesh.vertices - origin) * scale + target
        if bone.torso is None or bone.segment in ("lumbar_body", "scapula_r"):
            return bone.mesh.vertices
        share = np.clip((bone.torso[:, 1:2] - NECK_BEND[0]) / (NECK_BEND[1] - NECK_BEND[0]), 0, 1)
        share = share * share * (3 - 2 * share)
        with_skull = (to_head(bone.torso) - origin) * scale + target
        return (1 - share) * to_thorax(bone.torso) + share * with_skull

    return [replace(bone, mesh=Mesh(fitted(bone), bone.mesh.faces)) for bone in placed]


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
