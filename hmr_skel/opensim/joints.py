"""SKEL's joints in OpenSim's form: offset frames, axes in OpenSim's order, translations as functions of coordinates.

OpenSim composes a joint as X_PF X_FM X_BM^-1: parent offset frame, motion, child offset frame. SKEL's bone frames F_j =
R_j K_j follow F_j = F_p (K_p^T N_j) P_j A_j, with N_j = K_j A_j^T (see `hmr_skel.body.skel`). So the parent offset has
rotation K_p^T N_j and position K_p^T o_j, the motion is P_j, and the child offset has rotation A_j^T.

OpenSim turns about moving axes, R1 R2 R3, and SKEL applies its first dof first, P = R3 R2 R1: the last dof of SKEL is
OpenSim's first axis.
"""

from dataclasses import dataclass
from math import factorial, pi, sqrt

import numpy as np

from hmr_skel.body.dofs import DOF_NAMES, DOFS, PELVIS, limits
from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS
from hmr_skel.body.moving_joints import SCAPULAE, SPINE
from hmr_skel.opensim.person import Motion, RestBody

JOINT_NAMES = (
    "ground_pelvis", "hip_r", "walker_knee_r", "ankle_r", "subtalar_r", "mtp_r", "hip_l", "walker_knee_l", "ankle_l",
    "subtalar_l", "mtp_l", "lumbar", "thoracic_spine", "neck", "scapulothoracic_r", "GlenoHumeral_r", "elbow_r",
    "radioulnar_r", "wrist_r", "scapulothoracic_l", "GlenoHumeral_l", "elbow_l", "radioulnar_l", "wrist_l",
)  # fmt: skip
"""The joint above each SKEL bone, with its name in full-body OpenSim models."""
PELVIS_TRANSLATION = ("pelvis_tx", "pelvis_ty", "pelvis_tz")

ARC_ORDER = 13
"""The highest power in the spine's polynomials, whose error is below 0.02 mm within half a turn."""
GLIDE_ORDER = 10
"""The highest power in the scapula's polynomial, whose error is below 0.02 mm within 75 degrees of both angles."""
_NEAR = 1e-6  # rad, for rounding of float32 at the end of a range


Function = tuple[str, dict[str, int | float | np.ndarray]]
"""The name of a function class in OpenSim, and its properties."""

SAME: Function = ("LinearFunction", {"coefficients": np.array([1.0, 0.0])})
"""The coordinate itself. OpenSim treats it as an angle only if the slope is exactly 1."""
NONE: Function = ("Constant", {"value": 0.0})


@dataclass(frozen=True)
class Axis:
    """A rotation about a unit vector [3] of the parent offset frame, or a translation along it."""

    direction: np.ndarray
    coordinates: tuple[str, ...] = ()
    function: Function = NONE


@dataclass(frozen=True)
class Joint:
    """The joint above a bone; metres, radians."""

    name: str
    parent: str | None  # the parent bone; None is the ground
    child: str
    parent_rotmat: np.ndarray  # [3 3] the parent offset frame in the parent bone
    parent_place: np.ndarray  # [3]
    child_rotmat: np.ndarray  # [3 3] the child offset frame in the child bone, at the bone's origin
    rotations: tuple[Axis, Axis, Axis]
    translations: tuple[Axis, Axis, Axis]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The names of the coordinates in SKEL's order, with the translations of the ground joint last."""
        turning = [name for axis in reversed(self.rotations) for name in axis.coordinates]
        return (*turning, *(PELVIS_TRANSLATION if self.parent is None else ()))


def joints_of(person: RestBody) -> list[Joint]:
    """The 24 joints of a person, parents before their children."""
    found = []
    for j, parent in enumerate(SKEL_PARENTS):
        k_parent = person.bone_rotmat[parent] if parent >= 0 else person.dof_frame[j]  # the ground: N_0
        found.append(
            Joint(
                name=JOINT_NAMES[j],
                parent=SKEL_JOINTS[parent] if parent >= 0 else None,
                child=SKEL_JOINTS[j],
                parent_rotmat=k_parent.T @ person.dof_frame[j],
                parent_place=k_parent.T @ person.offsets[j] if parent >= 0 else np.zeros(3),
                child_rotmat=person.bone_rotmat[j].T @ person.dof_frame[j],
                rotations=_rotations(j),
                translations=_translations(j, person),
            )
        )
    return found


def coordinate_ranges(motion: Motion | None) -> dict[str, tuple[float, float]]:
    """The range, rad, of each coordinate with limits in our table, widened if the motion leaves it."""
    bounds = limits("anatomical")
    if motion is not None and len(motion.q):
        low, high = motion.q.min(0).astype(np.float64), motion.q.max(0).astype(np.float64)
        bounds[:, 0] = np.where(low < bounds[:, 0] - _NEAR, low, bounds[:, 0])
        bounds[:, 1] = np.where(high > bounds[:, 1] + _NEAR, high, bounds[:, 1])
    return {
        name: (low, high) for name, (low, high) in list(zip(DOF_NAMES, bounds.tolist(), strict=True))[PELVIS.stop :]
    }


def _rotations(joint: int) -> tuple[Axis, Axis, Axis]:
    axes = []
    for dof in reversed([dof for dof in DOFS if dof.joint == joint]):
        axes.append(Axis(np.array(dof.axis), (dof.name,), SAME))
    while len(axes) < 3:  # OpenSim needs three independent axes, even unused ones
        free = np.linalg.svd(np.stack([axis.direction for axis in axes]))[2][-1]
        axes.append(Axis(free))
    return axes[0], axes[1], axes[2]


def _translations(joint: int, person: RestBody) -> tuple[Axis, Axis, Axis]:
    """The translations along x, y, z of SKEL's T-pose; for the ground joint, along its own axes."""
    if joint == 0:
        along = [Axis(np.eye(3)[i], (name,), SAME) for i, name in enumerate(PELVIS_TRANSLATION)]
        return along[0], along[1], along[2]
    x, y, z = person.dof_frame[joint]  # rows of N_j: the T-pose's axes in the joint's frame
    for bone, below, bend, extend in SPINE:
        if bone == joint:
            length = float(abs(person.joints[bone, 1] - person.joints[below, 1]))
            names = DOFS[bend].name, DOFS[extend].name
            across, along = arc_series()
            both = np.zeros((len(along), len(along)))
            both[:, 0], both[0, :] = along, along
            arc = ("PolynomialFunction", {"coefficients": -length * across[::-1]})  # the highest power first
            return (
                Axis(x, names[:1], arc),
                Axis(y, names, _of_two(length * both)),
                Axis(z, names[1:], arc),
            )
    for bone, abduct, elevate, sign in SCAPULAE:
        if bone == joint:
            names = DOFS[abduct].name, DOFS[elevate].name
            quarter = float(np.linalg.norm(person.joints[19] - person.joints[14])) / 4
            half = float(np.linalg.norm(person.joints[12] - person.joints[11])) / 2
            glide = glide_series(sign)
            glide[0, 0] -= sqrt(0.5)
            return (
                Axis(x, names, _of_two(-sign * quarter * glide)),
                Axis(y, names[1:], _sine(-half, sign, -pi / 4, -half * sqrt(0.5))),
                Axis(z, names[:1], _sine(quarter, sign, 0.0, 0.0)),
            )
    return Axis(x), Axis(y), Axis(z)


def _sine(amplitude: float, omega: float, phase: float, offset: float) -> Function:
    """amplitude * sin(omega * coordinate + phase) + offset."""
    return "Sine", {"amplitude": amplitude, "omega": omega, "phase": phase, "offset": offset}


def _of_two(powers: np.ndarray) -> Function:
    """The sum of powers[i, j] x^i y^j up to an order. OpenSim lists, for each i, the j within the order."""
    order = len(powers) - 1
    in_order = np.array([powers[i, j] for i in range(order + 1) for j in range(order + 1 - i)])
    return "MultivariatePolynomialFunction", {"coefficients": in_order, "dimension": 2, "order": order}


def arc_series() -> tuple[np.ndarray, np.ndarray]:
    """(1 - cos t)/t and sin(t)/t - 1 as powers of t up to `ARC_ORDER`."""
    across, along = np.zeros(ARC_ORDER + 1), np.zeros(ARC_ORDER + 1)
    for power in range(1, ARC_ORDER + 1):
        sign = (-1) ** (power // 2)
        (across if power % 2 else along)[power] = sign / factorial(power + 1)
    return across, along


def glide_series(sign: float) -> np.ndarray:
    """cos(sign e - pi/4) cos(a) as powers of a (rows) and e (columns), up to `GLIDE_ORDER` together."""
    powers = range(GLIDE_ORDER + 1)
    wave = [(1, 0, -1, 0)[power % 4] / factorial(power) for power in powers]  # of cos
    shifted = [
        sqrt(0.5) * (sign**power) * ((1, 1, -1, -1)[power % 4]) / factorial(power) for power in powers
    ]  # of (cos + sin) / sqrt(2)
    both = np.outer(wave, shifted)
    both[np.add.outer(powers, powers) > GLIDE_ORDER] = 0
    return both
