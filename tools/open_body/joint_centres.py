"""Where the joints of SMPL and of SKEL lie in a T-posed Anny, from its bone heads.

The two sets differ on purpose, as the licensed models' do: SMPL's are where its skinning needs them, SKEL's are
anatomical, with a pelvis origin between the front hip bones (5-6 cm before SMPL's) and wider hips. No number comes
from a licensed model file. Frame: y up, facing +z, x to the left, metres.
"""

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS, SMPL_JOINTS
from tools.open_body.anny_source import AnnySource

SMPL_HIP_WIDTH = 0.66
"""SMPL's hip centres, as a share of Anny's lateral offset."""
SKEL_HIP_WIDTH = 0.74
SCALE_LENGTH = 0.82
"""Hip to ankle of Rajagopal's generic skeleton, metres: what offsets given in its size are scaled by."""


class _Joints:
    """Joints [N J 3] that are put by name, by bone heads [N 3] of a name, and points between these."""

    def __init__(self, source: AnnySource, heads: np.ndarray, names: tuple[str, ...]):
        self._source, self._heads, self._names = source, heads, names
        self.joints = np.zeros((len(heads), len(names), 3))

    def put(self, name: str, position: np.ndarray) -> None:
        self.joints[:, self._names.index(name)] = position

    def __call__(self, name: str) -> np.ndarray:
        return self._heads[:, self._source.bone(name)]

    def between(self, a: str, b: str, share: float) -> np.ndarray:
        return (1 - share) * self(a) + share * self(b)

    def leg_scale(self) -> np.ndarray:
        """Size [N 1] of the body against Rajagopal's skeleton."""
        return np.linalg.norm(self("upperleg01.L") - self("foot.L"), axis=1, keepdims=True) / SCALE_LENGTH


def smpl_joints(source: AnnySource, heads: np.ndarray) -> np.ndarray:
    """SMPL's 24 joints [N 24 3] of people with T-pose bone heads [N B 3]."""
    at = _Joints(source, heads, SMPL_JOINTS)
    size, put = at.leg_scale(), at.put
    hip_height = at.between("upperleg01.L", "upperleg02.L", 0.12)
    put("pelvis", (hip_height + size * [0, 0.088, 0.024]) * [0, 1, 1])
    put("spine1", at.between("spine03", "spine02", 0.5))
    put("spine2", at.between("spine02", "spine01", 0.55))
    put("spine3", at.between("spine02", "spine01", 0.92))
    put("neck", at.between("neck01", "neck02", 0.8))
    put("head", at.between("neck03", "head", 0.55) + size * [0, 0, 0.01])
    for side, letter in (("left", "L"), ("right", "R")):
        hip = at.between(f"upperleg01.{letter}", f"upperleg02.{letter}", 0.12)
        put(f"{side}_hip", hip * [SMPL_HIP_WIDTH, 1, 1] + size * [0, 0, 0.012])
        # The thigh runs outwards from the narrow hip: the knee stays in the leg.
        put(f"{side}_knee", at(f"lowerleg01.{letter}") * [0.97, 1, 1])
        put(f"{side}_ankle", at(f"foot.{letter}"))
        ball = (at(f"toe1-1.{letter}") + at(f"toe2-1.{letter}") + at(f"toe3-1.{letter}")) / 3
        put(f"{side}_foot", ball + size * [0, 0.012, -0.008])
        put(f"{side}_collar", at.between(f"clavicle.{letter}", f"shoulder01.{letter}", 0.5) + size * [0, -0.01, -0.02])
        put(f"{side}_shoulder", at(f"upperarm01.{letter}"))
        put(f"{side}_elbow", at(f"lowerarm01.{letter}"))
        put(f"{side}_wrist", at(f"wrist.{letter}"))
        knuckles = (at(f"finger2-1.{letter}") + at(f"finger3-1.{letter}") + at(f"finger4-1.{letter}")) / 3
        put(f"{side}_hand", 0.05 * at(f"wrist.{letter}") + 0.95 * knuckles)
    return at.joints


def skel_joints(source: AnnySource, heads: np.ndarray) -> np.ndarray:
    """SKEL's 24 joints [N 24 3] of people with T-pose bone heads [N B 3]."""
    at = _Joints(source, heads, SKEL_JOINTS)
    size, put = at.leg_scale(), at.put
    forwards = size * [0, 0, 0.024]  # Anny's hip bones start behind the middle of the thigh
    hip_middle = at("upperleg01.L") * [0, 1, 1] + forwards
    put("pelvis", hip_middle + size * [0, 0.078, 0.056])  # Rajagopal: hips 56 mm behind, 78 mm below the origin
    lumbar = hip_middle + size * [0, 0.180, -0.028]
    put("lumbar_body", lumbar)
    # Straight above the lumbar joint: SKEL turns the ribcage by lumbar-to-thorax against thorax-to-head.
    thorax = 0.7 * (lumbar + size * [0, 0.108, 0]) + 0.3 * at.between("spine02", "spine01", 0.5) * [0, 1, 0]
    put("thorax", thorax * [1, 1, 0] + lumbar * [0, 0, 1] + size * [0, 0, 0.002])
    put("head", at.between("neck02", "neck03", 0.9) + size * [0, 0.01, -0.012])
    for side, letter, out in (("l", "L", 1.0), ("r", "R", -1.0)):
        put(f"femur_{side}", at(f"upperleg01.{letter}") * [SKEL_HIP_WIDTH, 1, 1] + forwards)
        put(f"tibia_{side}", at(f"lowerleg01.{letter}") * [0.97, 1, 1] + size * [0, 0.008, 0])
        ankle = at(f"foot.{letter}")
        put(f"talus_{side}", ankle + size * [0, 0.004, 0])
        put(f"calcn_{side}", ankle + size * [0.008 * out, -0.038, -0.045])
        toes = (at(f"toe1-1.{letter}") + 2 * at(f"toe2-1.{letter}") + at(f"toe3-1.{letter}")) / 4
        put(f"toes_{side}", toes + size * [0, 0.004, -0.004])
        humerus = at(f"upperarm01.{letter}") + size * [0.004 * out, -0.004, -0.004]
        put(f"scapula_{side}", humerus + size * [-0.038 * out, 0.024, -0.014])
        put(f"humerus_{side}", humerus)
        elbow, wrist = at(f"lowerarm01.{letter}"), at(f"wrist.{letter}")
        put(f"ulna_{side}", elbow + size * [-0.004 * out, -0.003, -0.003])
        # With the elbow's crease forwards, the head of the radius lies above the ulna.
        put(f"radius_{side}", elbow + 0.05 * (wrist - elbow) + size * [0, 0.02, -0.006])
        put(f"hand_{side}", wrist + size * [-0.006 * out, 0.002, 0.002])
    return at.joints
