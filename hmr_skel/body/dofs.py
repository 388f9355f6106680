"""The 46 degrees of freedom of SKEL as data: names, joints, axes, mirror images and limits.

The rotation of a joint is a product of axis rotations that applies the first dof first: P = Rot(axis_n, q_n) ...
Rot(axis_1, q_1). Axes are in the joint's OpenSim frame and not normalised: their length scales the angle, rad.
"""

from dataclasses import dataclass
from math import pi, radians

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS

NUM_DOFS = 46


@dataclass(frozen=True)
class Dof:
    """One entry of q."""

    name: str
    joint: int  # index into SKEL_JOINTS
    axis: tuple[float, float, float]


def _pin(a: float, b: float, c: float) -> tuple[float, float, float]:
    """The z axis turned by Rx(a) Ry(b) Rz(c): how OpenSim orients a pin joint. Rz leaves z alone."""
    sa, ca, sb, cb = np.sin(a), np.cos(a), np.sin(b), np.cos(b)
    return (float(sb), float(-sa * cb), float(ca * cb))


_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_NX, _NZ = (-1.0, 0.0, 0.0), (0.0, 0.0, -1.0)
_NY = (0.0, -1.0, 0.0)
_ANKLE = _pin(0.175895, -0.105208, 0.0186622)  # the same on both sides

_JOINT_DOFS = (
    ("pelvis", (("pelvis_tilt", _Z), ("pelvis_list", _X), ("pelvis_rotation", _Y))),
    ("femur_r", (("hip_flexion_r", _Z), ("hip_adduction_r", _X), ("hip_rotation_r", _Y))),
    ("tibia_r", (("knee_angle_r", _NZ),)),
    ("talus_r", (("ankle_angle_r", _ANKLE),)),
    ("calcn_r", (("subtalar_angle_r", _pin(-1.76818999, 0.906223, 1.8196000)),)),
    ("toes_r", (("mtp_angle_r", _pin(-3.141589999, 0.6199010, 0.0)),)),
    ("femur_l", (("hip_flexion_l", _Z), ("hip_adduction_l", _NX), ("hip_rotation_l", _NY))),
    ("tibia_l", (("knee_angle_l", _NZ),)),
    ("talus_l", (("ankle_angle_l", _ANKLE),)),
    ("calcn_l", (("subtalar_angle_l", _pin(1.768189999, -0.906223, 1.8196000)),)),
    ("toes_l", (("mtp_angle_l", _pin(-3.141589999, -0.6199010, 0.0)),)),
    ("lumbar_body", (("lumbar_bending", _X), ("lumbar_extension", _Z), ("lumbar_twist", _Y))),
    ("thorax", (("thorax_bending", _X), ("thorax_extension", _Z), ("thorax_twist", _Y))),
    ("head", (("head_bending", _X), ("head_extension", _Z), ("head_twist", _Y))),
    ("scapula_r", (("scapula_abduction_r", _Y), ("scapula_elevation_r", _NZ), ("scapula_upward_rot_r", _NX))),
    ("humerus_r", (("shoulder_r_x", _X), ("shoulder_r_y", _Y), ("shoulder_r_z", _Z))),
    ("ulna_r", (("elbow_flexion_r", (0.0494, 0.0366, 0.99810825)),)),
    ("radius_r", (("pro_sup_r", (-0.01716099, 0.99266564, -0.11966796)),)),
    ("hand_r", (("wrist_flexion_r", _X), ("wrist_deviation_r", _NZ))),
    ("scapula_l", (("scapula_abduction_l", _Y), ("scapula_elevation_l", _Z), ("scapula_upward_rot_l", _X))),
    ("humerus_l", (("shoulder_l_x", _X), ("shoulder_l_y", _Y), ("shoulder_l_z", _Z))),
    ("ulna_l", (("elbow_flexion_l", (-0.0494, -0.0366, 0.99810825)),)),
    ("radius_l", (("pro_sup_l", (0.01716099, -0.99266564, -0.11966796)),)),
    ("hand_l", (("wrist_flexion_l", _NX), ("wrist_deviation_l", _NZ))),
)

DOFS = tuple(Dof(name, SKEL_JOINTS.index(joint), axis) for joint, entries in _JOINT_DOFS for name, axis in entries)
DOF_NAMES = tuple(dof.name for dof in DOFS)
DOF_JOINTS = tuple(dof.joint for dof in DOFS)

PELVIS = slice(0, 3)
LEG_R, LEG_L = slice(3, 10), slice(10, 17)
LUMBAR, THORAX, HEAD = slice(17, 20), slice(20, 23), slice(23, 26)
SCAPULA_R, SHOULDER_R, ARM_R = slice(26, 29), slice(29, 32), slice(26, 36)
SCAPULA_L, SHOULDER_L, ARM_L = slice(36, 39), slice(39, 42), slice(36, 46)
LOWER_BODY, UPPER_BODY, BODY = slice(3, 17), slice(17, 46), slice(3, 46)

# A body mirrored in x has q'[k] = MIRROR_SIGN[k] * q[MIRROR[k]]. This is exact on posed meshes except at the ankles,
# whose pins have the same axis on both sides.
MIRROR = (0, 1, 2, *range(10, 17), *range(3, 10), *range(17, 26), *range(36, 46), *range(26, 36))
_ARM_SIGN = (-1, -1, 1, -1, -1, 1, 1, 1, 1, 1)
MIRROR_SIGN = (1, -1, -1, *(1,) * 14, *(-1, 1, -1) * 3, *_ARM_SIGN, *_ARM_SIGN)

# The mean of HSMR's fitted poses of real people (HSMR, MIT licence). The pelvis is in the camera frame.
HSMR_MEAN_Q = (
    3.1416, 0.0, 0.0, 0.2582, -0.0071, -0.0876, 0.4731, 0.1797, -0.0889, 0.1686, 0.2181, -0.0426, -0.0258, 0.4005,
    0.2235, -0.1282, 0.0974, 0.0080, -0.1757, 0.0128, -0.0050, -0.0140, -0.0251, 0.0334, -0.0705, 0.0118, 0.1171,
    0.2204, -0.1529, 0.8109, -0.1505, 0.3264, 0.8769, 0.0029, 0.0093, -0.1357, -0.0722, -0.2091, -0.2010, -0.7917,
    0.0847, 0.3904, 0.9036, -0.0237, -0.0298, -0.1886,
)  # fmt: skip

# The default limits of the right side and the trunk, in degrees, from range-of-motion references; the left side is the
# mirror image. AAOS = American Academy of Orthopaedic Surgeons, "Joint motion" (active ranges). Where passive motion
# goes further (squatting, climbing, yoga), the passive limit counts.
_ANATOMICAL_DEG = {
    "hip_flexion": (-40, 145),  # AAOS 120 flexion, 30 extension; passive 145 with the knee bent, 40 in a lunge
    "hip_adduction": (-75, 45),  # AAOS 45 abduction, 30 adduction; dancers' passive abduction 75 and more
    "hip_rotation": (-60, 60),  # AAOS 45 each way; passive 60 with the hip flexed
    "knee_angle": (0, 160),  # AAOS 135 active; passive heel to buttock 160
    "ankle_angle": (-60, 45),  # AAOS 50 plantar, 20 dorsal; passive 60, and 45 in a deep squat
    "subtalar_angle": (-40, 40),  # AAOS 35 inversion, 15 eversion; symmetric, as the zero is not neutral
    "mtp_angle": (-60, 60),  # AAOS great toe 45 flexion, 70 extension; symmetric about SMPL's flat toes
    "lumbar_bending": (-35, 35),  # AAOS 35 lateral bending of the trunk
    "lumbar_extension": (-60, 35),  # AAOS 60 flexion (negative), 25 extension; 35 passive
    "lumbar_twist": (-45, 45),  # AAOS 45 rotation of the trunk, which SKEL divides between two joints
    "thorax_bending": (-40, 40),  # White & Panjabi: thoracic lateral bending 75 in all
    "thorax_extension": (-50, 40),  # White & Panjabi: thoracic flexion and extension 75 in all
    "thorax_twist": (-45, 45),  # White & Panjabi: thoracic rotation 35-45 each way
    "head_bending": (-50, 50),  # AAOS 45 lateral bending of the neck
    "head_extension": (-65, 75),  # AAOS 45 each way; passive 65 flexion, 75 extension
    "head_twist": (-85, 85),  # AAOS 60 rotation; passive 80-90
    "scapula_abduction": (-40, 40),  # protraction and retraction on the thorax
    "scapula_elevation": (-35, 35),  # shrug (-) 35 passive, depression (+) 10; fits of real motion need 30
    # Upward (+) rotation is 60 in all (ISB), half of which the T-pose already has; at rest 25 more downward.
    "scapula_upward_rot": (-60, 25),  # from the T-pose: 30 back and 25 past the resting shoulder; 25 overhead
    "shoulder_x": (-120, 135),  # arm up (-) and down (+) from the T-pose, scapula apart
    "shoulder_y": (-105, 105),  # arm down: axial rotation, AAOS 70 inwards, 90 outwards; 105 passive
    "shoulder_z": (-135, 135),  # arm down: swing forwards and back; raised: axial rotation
    "elbow_flexion": (0, 155),  # AAOS 150; passive 155
    "pro_sup": (-95, 95),  # AAOS 80 each way; passive 95
    "wrist_flexion": (-90, 90),  # AAOS 80 flexion, 70 extension; passive 90
    "wrist_deviation": (-45, 45),  # AAOS 20 radial, 30 ulnar; passive 45 ulnar; symmetric about SMPL's zero
}
LIMIT_TABLES = ("anatomical", "skel", "hsmr")


def limits(table: str = "anatomical") -> np.ndarray:
    """Lower and upper limit of every dof, float64 [46 2], rad; infinite where the table has no limit.

    `anatomical` is our table: left and right are mirror images, it allows the zero pose and limits all 43 dofs below
    the pelvis. `skel` is the table of the published SKEL code (with its reversed `scapula_elevation_l` put in order),
    `hsmr` that of HSMR. Both exclude the zero pose and differ between left and right; they serve for comparison.
    """
    if table == "anatomical":
        return _anatomical()
    if table not in LIMIT_TABLES:
        raise ValueError(f"unknown limit table {table!r}; known: {', '.join(LIMIT_TABLES)}")
    box = _upstream_box() | (_HSMR_ADDS if table == "hsmr" else {})
    bounds = np.tile([-np.inf, np.inf], (NUM_DOFS, 1))
    for name, pair in box.items():
        for index in _dofs_named(name):
            bounds[index] = pair
    return bounds


def _anatomical() -> np.ndarray:
    bounds = np.tile([-np.inf, np.inf], (NUM_DOFS, 1))
    for name, (low, high) in _ANATOMICAL_DEG.items():
        index = next(i for i in _dofs_named(name) if not _is_left(DOF_NAMES[i]))
        bounds[index] = radians(low), radians(high)
    for index in range(3, NUM_DOFS):
        if _is_left(DOF_NAMES[index]):
            low, high = bounds[MIRROR[index]]
            bounds[index] = (low, high) if MIRROR_SIGN[index] > 0 else (-high, -low)
    return bounds


def _is_left(name: str) -> bool:
    return name.endswith("_l") or "_l_" in name


def _dofs_named(name: str) -> list[int]:
    """The dofs that a name in a table means: one dof by its full name, or both sides by the name without side."""
    sides = {name, f"{name}_r", f"{name}_l"}
    if name.startswith("shoulder_") and len(name) == len("shoulder_x"):
        sides |= {f"shoulder_r_{name[-1]}", f"shoulder_l_{name[-1]}"}
    found = [index for index, dof in enumerate(DOF_NAMES) if dof in sides]
    assert found, name
    return found


def _upstream_box() -> dict[str, tuple[float, float]]:
    quarter = (-pi / 4, pi / 4)
    trunk = {f"{part}_{motion}": quarter for part in ("lumbar", "thorax", "head") for motion in _TRUNK_MOTIONS}
    foot = dict.fromkeys(("ankle_angle", "subtalar_angle", "mtp_angle"), quarter)
    return trunk | foot | _SKEL_BOX


_TRUNK_MOTIONS = ("bending", "extension", "twist")
_SKEL_BOX = {
    "lumbar_bending": (-pi / 6, pi / 6),
    "scapula_abduction": (-0.628, 0.628),
    "scapula_elevation": (-0.4, -0.1),
    "scapula_upward_rot_r": (-0.190, 0.319),
    "scapula_upward_rot_l": (-0.210, 0.219),
    "shoulder_r_y": (-pi / 2, pi / 2),
    "elbow_flexion": (0.0, 3 * pi / 4),
    "pro_sup_r": (-3 * pi / 8, 3 * pi / 8),
    "pro_sup_l": (-pi / 2, pi / 2),
    "wrist_flexion": (-pi / 2, pi / 2),
    "wrist_deviation": (-pi / 4, pi / 4),
    "knee_angle": (0.0, 3 * pi / 4),
}
_HSMR_ADDS = {
    "hip_flexion": (-pi / 4, 3 * pi / 4),
    "hip_adduction": (-pi / 4, pi / 6),
    "hip_rotation": (-pi / 4, pi / 4),
    "shoulder_r_x": (-pi / 2, pi / 2 + 1.5),
    "shoulder_l_x": (-pi / 2 - 1.5, pi / 2),
    "shoulder_y": (-pi / 2, pi / 2),
    "shoulder_z": (-pi / 2, pi / 2),
}
