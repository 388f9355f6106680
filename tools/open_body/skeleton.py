"""SKEL's joint chain: offsets, default-pose tilts and bone orientations in the T-pose.

Bone frames are OpenSim's: x forward, y up, z to the right of a standing person. Skin frame: y up, facing +z, x to the
left. Limb offsets are those of Rajagopal 2015 (MIT); the spine's joints were placed on its vertebrae. What the licensed
files hold is unknown to us and is not imitated.
"""

from dataclasses import dataclass

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS
from hmr_skel.body.skel_shape import CHILD
from tools.open_body.posing import rotation_about, rotation_between

BONE_TO_SKIN = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""Takes a standing bone's axes to the skin's: x forward to +z, y up to +y, z right to -x."""
MIRROR_SKIN, MIRROR_BONE = np.diag([-1.0, 1.0, 1.0]), np.diag([1.0, 1.0, -1.0])

PRONATION = np.radians(80.0)
"""Rajagopal's neutral has the palm forwards, the T-pose has it down: the radius turns this far, the hand 90 degrees."""

TORSO_IN_PELVIS = np.array([-0.1007, 0.0815, 0.0])
LUMBAR_IN_TORSO = np.array([-0.012, 0.022, 0.0])
"""Disc L4/L5; its place along x keeps lumbar, thorax and head nearly in line (see `joint_centres`)."""
THORAX_IN_TORSO = np.array([-0.018, 0.130, 0.0])
"""Disc T12/L1, below the lowest rib."""
HEAD_IN_TORSO = np.array([-0.014, 0.497, 0.0])
"""Atlas."""
SCAPULA_IN_TORSO = np.array([-0.0105, 0.3945, 0.131])
HUMERUS_IN_TORSO = np.array([0.003155, 0.3715, 0.17])

RIGHT_OFFSETS = {
    "femur": (-0.056276, -0.07849, 0.07726),
    "tibia": (0.0, -0.404425, -0.001265),
    "talus": (-0.01, -0.4, 0.0),
    "calcn": (-0.04877, -0.04195, 0.00792),
    "toes": (0.1788, -0.002, 0.00108),
    "scapula": tuple(SCAPULA_IN_TORSO - THORAX_IN_TORSO),
    "humerus": tuple(HUMERUS_IN_TORSO - SCAPULA_IN_TORSO),
    "ulna": (0.013144, -0.286273, -0.009595),
    "radius": (-0.006727, -0.013007, 0.026083),
    "hand": (-0.008797, -0.235841, 0.01361),
}
MIDDLE_OFFSETS = {
    "pelvis": (0.0, 0.95, 0.0),  # not zero: leaf joints take joint 0 for their child, and its length is divided by
    "lumbar_body": tuple(TORSO_IN_PELVIS + LUMBAR_IN_TORSO),
    "thorax": tuple(THORAX_IN_TORSO - LUMBAR_IN_TORSO),
    "head": tuple(HEAD_IN_TORSO - THORAX_IN_TORSO),
}

RIGHT_TILTS_DEG = {
    "femur": (2.0, -3.0, 1.5), "tibia": (1.0, 2.0, -3.0), "talus": (-2.0, 2.5, 3.0), "calcn": (2.0, -4.0, 1.0),
    "toes": (1.0, 3.0, -2.0), "scapula": (3.0, -6.0, 4.0), "humerus": (20.0, 5.0, 3.0), "ulna": (2.0, -5.0, 2.0),
    "radius": (3.0, -10.0, 3.0), "hand": (2.0, 87.0, 1.0),
}  # fmt: skip
"""Rotation vectors between the default pose's axes and the bone's. The hand's quarter turn about its long axis makes
the dof about x bend the palm; the others are small, enough to show a reader that forgets them."""
MIDDLE_TILTS_DEG = {"pelvis": (0, 0, 0), "lumbar_body": (0, 0, 6.0), "thorax": (0, 0, -5.0), "head": (0, 0, 3.0)}

ALIGNED_TO_NOTHING = ("pelvis", "toes_r", "toes_l", "head", "hand_r", "hand_l")
"""SKEL does not turn these with the shape."""
JITTER_DEG = (1.0, 3.0)
"""Bone orientations are this far off the bones' directions: without it the per-shape turn would do nothing at rest."""


@dataclass(frozen=True)
class Chain:
    """What `apose_rel_transfo` and `per_joint_rot` of a SKEL file hold."""

    offsets: np.ndarray
    """a [24 3]: joint in its parent's bone frame, metres."""
    tilts: np.ndarray
    """A [24 3 3]."""
    orientations: np.ndarray
    """C [24 3 3]: bone frame to skin frame in the T-pose."""


def build_chain(joints: np.ndarray) -> Chain:
    """The chain for a mean body with SKEL joints [24 3] in T-pose."""
    offsets, tilts = np.zeros((24, 3)), np.zeros((24, 3, 3))
    for index, name in enumerate(SKEL_JOINTS):
        side = name[-2:] if name[-2:] in ("_r", "_l") else ""
        bone = name.removesuffix(side)
        offset = np.array(RIGHT_OFFSETS[bone] if side else MIDDLE_OFFSETS[bone])
        tilt = np.radians(RIGHT_TILTS_DEG[bone] if side else MIDDLE_TILTS_DEG[bone])
        if side == "_l":
            offset, tilt = offset * [1, 1, -1], tilt * [-1, -1, 1]
        offsets[index], tilts[index] = offset, _from_rotvec(tilt)
    return Chain(offsets, tilts, _orientations(offsets, joints))


def _orientations(offsets: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """C: anatomical axes first, then each bone along its skin joints, then the jitter. Left mirrors right."""
    parents = np.array(SKEL_PARENTS)
    skin_offsets = joints - np.where(parents[:, None] >= 0, joints[parents], 0)
    along_bone, along_skin = offsets[list(CHILD)], skin_offsets[list(CHILD)]
    ulna, radius = SKEL_JOINTS.index("ulna_r"), SKEL_JOINTS.index("radius_r")
    along_bone[ulna] += along_bone[radius]
    along_skin[ulna] += along_skin[radius]
    thorax, lumbar = SKEL_JOINTS.index("thorax"), SKEL_JOINTS.index("lumbar_body")
    along_skin[thorax] = along_skin[lumbar]

    rng = np.random.default_rng(20150901)
    orientations = np.zeros((24, 3, 3))
    for joint, name in enumerate(SKEL_JOINTS):
        if name.endswith("_l"):
            continue
        turn = _standing_to_t_pose(name)
        if name not in ALIGNED_TO_NOTHING:
            turn = rotation_between(turn @ along_bone[joint], along_skin[joint]) @ turn
            axis = np.cross(along_skin[joint], rng.normal(size=3))
            if not name.endswith("_r"):
                axis = np.array([1.0, 0.0, 0.0])  # the trunk stays symmetric
            turn = rotation_about(axis / np.linalg.norm(axis), np.radians(rng.uniform(*JITTER_DEG))) @ turn
        orientations[joint] = turn
    for joint, name in enumerate(SKEL_JOINTS):
        if name.endswith("_l"):
            right = SKEL_JOINTS.index(name[:-1] + "r")
            orientations[joint] = MIRROR_SKIN @ orientations[right] @ MIRROR_BONE
    return orientations


def _standing_to_t_pose(name: str) -> np.ndarray:
    """Bone to skin frame for a middle or right bone before it is aligned: the arm goes up to -x, the palm down."""
    if name not in ("humerus_r", "ulna_r", "radius_r", "hand_r"):
        return BONE_TO_SKIN
    raised = rotation_about([0, 0, 1], -np.pi / 2) @ BONE_TO_SKIN
    turn = {"radius_r": PRONATION, "hand_r": np.pi / 2}.get(name, 0.0)
    return rotation_about([1, 0, 0], turn) @ raised


def _from_rotvec(rotvec: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(rotvec)
    return rotation_about(rotvec / angle, angle) if angle > 0 else np.eye(3)
