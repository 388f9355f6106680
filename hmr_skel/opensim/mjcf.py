"""Write MuJoCo files of one person: the model (MJCF, `.xml`) and its motion (qpos over time).

MuJoCo composes a body's frame as F_p B R1 R2 R3, with the body's own pose B in its parent and the joints in the order
of the file. SKEL's frames are F_j = F_p (K_p^T N_j) P_j A_j with P = R3 R2 R1 (see `hmr_skel.opensim.joints`), so B is
K_p^T N_j A_j, the axes are turned by A_j^T, and SKEL's last dof comes first. Slides come before all hinges: they go
along the axes of B.

The spine's arcs and the scapula's glide are slide joints. Each depends on one angle, or on the sum or difference of
two, so an `equality` of MuJoCo, a polynomial of order 4, can tie it to a joint or to a tendon that is the sum. MuJoCo
allows six joints per body, and four slides with three hinges are seven, so slides have a body of their own.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import pi, sqrt
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
import torch
from numpy.polynomial.polynomial import polyfit

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.body.moving_joints import SCAPULAE, SPINE, arc
from hmr_skel.data.atomic import replacing
from hmr_skel.opensim.joints import PELVIS_TRANSLATION, Joint, coordinate_ranges, joints_of
from hmr_skel.opensim.person import Motion, RestBody
from hmr_skel.opensim.segments import segments, write_bone_meshes

WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""OpenSim's ground (x forward, y up, z right) in MuJoCo's world (x forward, y left, z up)."""

_ARMATURE = {"armature": [0.01]}
"""The armature, kg or kg m^2, of each joint except the pelvis' translation, as in MuJoCo's own humanoid. Without it the
mass matrix is singular, since two slides of a bone are parallel, and MuJoCo ties slides too softly to light bones."""
_LOOK = {"contype": "0", "conaffinity": "0", "rgba": "0.9 0.87 0.8 1"}  # bones do not collide
_NOTHING = {"mass": "1e-9", "pos": "0 0 0", "diaginertia": "1e-12 1e-12 1e-12"}  # MuJoCo does not allow zero
_TIE = {"solref": "0.004 1", "solimp": "0.9999 0.9999 0.001"}
"""Equalities are as stiff as a time step of 0.002 s allows, and as hard as MuJoCo allows."""


@dataclass(frozen=True)
class Slide:
    """A slide joint whose value, m, is a function of a weighted sum of SKEL's angles, rad."""

    name: str
    axis: int  # 0, 1, 2: along x, y, z of SKEL's T-pose
    weights: Mapping[str, float]  # weight of each dof in the sum, 1 or -1
    scale: float
    function: Callable[[np.ndarray], np.ndarray]

    def values(self, q: np.ndarray) -> np.ndarray:
        """The joint's values [N] at q [N 46]."""
        angle = sum(weight * q[:, DOF_NAMES.index(name)] for name, weight in self.weights.items())
        return self.scale * self.function(np.asarray(angle, np.float64))

    def polynomial(self, ranges: Mapping[str, tuple[float, float]]) -> np.ndarray:
        """The five coefficients, constant first, of the polynomial of the sum that fits the function over its range."""
        ends = np.array([np.sort(weight * np.array(ranges[name])) for name, weight in self.weights.items()]).sum(0)
        angle = ends.mean() + np.ptp(ends) / 2 * np.cos(
            np.linspace(0, pi, 101)
        )  # dense at the ends, where errors are largest
        return polyfit(angle, self.scale * self.function(angle), 4)


def write_mjcf(person: RestBody, motion: Motion, path: Path, qpos: Path, mass: float | None = None) -> None:
    """Write the model, its motion, and its bone meshes as `Geometry/<name>_<bone>.stl` beside it.

    Args:
        person: the body.
        motion: the motion, whose first frame becomes the model's keyframe; ranges that it leaves are widened.
        path: the model; it appears by rename, after the meshes and the motion.
        qpos: the motion, an .npz: `qpos` [N nq], m and rad; `time` [N], s; `joint_names` [nq], in MuJoCo's order.
        mass: total mass, kg; by default the densities decide.

    Raises:
        UserError: a file cannot be written.
    """
    slides, ranges = slides_of(person), coordinate_ranges(motion)
    model = Element("mujoco", model=path.stem)
    SubElement(model, "compiler", angle="radian", meshdir="Geometry", inertiafromgeom="false")
    SubElement(model, "option", gravity="0 0 -9.80665")
    assets, world = SubElement(model, "asset"), SubElement(model, "worldbody")
    bodies: dict[str | None, Element] = {None: world}
    for number, (joint, segment) in enumerate(zip(joints_of(person), segments(person, mass), strict=True)):
        body = _body(bodies[joint.parent], joint, slides.get(number, []), ranges)
        weight = {"mass": [segment.mass], "pos": segment.center, "fullinertia": segment.inertia_entries}
        SubElement(body, "inertial", _texts(weight))
        bodies[joint.child] = body
    for number, file in write_bone_meshes(person, path).items():
        name = SKEL_JOINTS[number]
        SubElement(assets, "mesh", name=name, file=file, inertia="shell")  # not all meshes are closed
        SubElement(bodies[name], "geom", {"type": "mesh", "mesh": name} | _LOOK)
    _tie(model, [slide for each in slides.values() for slide in each], ranges)

    columns = dict(zip(DOF_NAMES, motion.q.T.astype(np.float64), strict=True))
    columns |= dict(zip(PELVIS_TRANSLATION, motion.pelvis.T, strict=True))
    columns |= {slide.name: slide.values(motion.q) for each in slides.values() for slide in each}
    names = [str(joint.get("name")) for joint in world.iter("joint")]  # MuJoCo numbers joints in the order of the file
    rows = np.stack([columns[name] for name in names], 1)
    with replacing(qpos) as temporary, temporary.open("wb") as file:
        np.savez(file, qpos=rows, time=motion.time, joint_names=np.array(names))
    SubElement(SubElement(model, "keyframe"), "key", _texts({"qpos": rows[0]}), name="start")
    indent(model)
    with replacing(path) as temporary:
        ElementTree(model).write(temporary, encoding="UTF-8", xml_declaration=True)


def slides_of(person: RestBody) -> dict[int, list[Slide]]:
    """The slides of each joint: `hmr_skel.body.moving_joints` as sums of functions of one angle each."""
    found = {}
    for bone, below, bend, extend in SPINE:
        name, bending, extending = SKEL_JOINTS[bone], {DOF_NAMES[bend]: 1.0}, {DOF_NAMES[extend]: 1.0}
        length = float(abs(person.joints[bone, 1] - person.joints[below, 1]))
        found[bone] = [
            Slide(f"{name}_x", 0, bending, -length, _across),
            Slide(f"{name}_y_bending", 1, bending, length, _along),
            Slide(f"{name}_y_extension", 1, extending, length, _along),
            Slide(f"{name}_z", 2, extending, -length, _across),
        ]
    quarter = float(np.linalg.norm(person.joints[19] - person.joints[14])) / 4
    half = float(np.linalg.norm(person.joints[12] - person.joints[11])) / 2
    for bone, abduct, elevate, sign in SCAPULAE:
        name, abduction, elevation = SKEL_JOINTS[bone], DOF_NAMES[abduct], DOF_NAMES[elevate]
        # cos(e) cos(a) = (cos(e + a) + cos(e - a)) / 2
        found[bone] = [
            Slide(f"{name}_x_sum", 0, {elevation: sign, abduction: sign}, -sign * quarter / 2, _cosine),
            Slide(f"{name}_x_difference", 0, {elevation: sign, abduction: -sign}, -sign * quarter / 2, _cosine),
            Slide(f"{name}_y", 1, {elevation: sign}, -half, _sine),
            Slide(f"{name}_z", 2, {abduction: sign}, quarter, np.sin),
        ]
    return found


def _across(angle: np.ndarray) -> np.ndarray:
    return arc(torch.from_numpy(angle))[0].numpy()


def _along(angle: np.ndarray) -> np.ndarray:
    return arc(torch.from_numpy(angle))[1].numpy()


def _cosine(angle: np.ndarray) -> np.ndarray:
    return np.cos(angle - pi / 4) - sqrt(0.5)


def _sine(angle: np.ndarray) -> np.ndarray:
    return np.sin(angle - pi / 4) + sqrt(0.5)


def _body(parent: Element, joint: Joint, slides: list[Slide], ranges: Mapping[str, tuple[float, float]]) -> Element:
    """Add the body of a bone with its joints, without mass and mesh."""
    rotmat, place = joint.parent_rotmat @ joint.child_rotmat.T, joint.parent_place
    if joint.parent is None:
        rotmat, place = WORLD @ rotmat, WORLD @ place
    axes = _texts({"pos": place, "xyaxes": rotmat[:, :2].T.ravel()})
    body = SubElement(parent, "body", axes, name=f"{joint.child}_slides" if slides else joint.child)
    if joint.parent is None:
        for axis in joint.translations:
            along = _texts({"axis": joint.child_rotmat @ axis.direction})
            SubElement(body, "joint", along, name=axis.coordinates[0], type="slide")
    for slide in slides:
        along = _texts({"axis": joint.child_rotmat @ joint.translations[slide.axis].direction} | _ARMATURE)
        SubElement(body, "joint", along, name=slide.name, type="slide")
    if slides:
        SubElement(body, "inertial", _NOTHING)
        body = SubElement(body, "body", name=joint.child)
    for axis in joint.rotations:
        for name in axis.coordinates:
            turning = _texts({"axis": joint.child_rotmat @ axis.direction} | _ARMATURE)
            if name in ranges:
                turning |= _texts({"range": ranges[name]})
            SubElement(body, "joint", turning, name=name, type="hinge")
    return body


def _tie(model: Element, slides: Iterable[Slide], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Add equalities that tie the slides to their angles, for simulation."""
    tendons, equalities = SubElement(model, "tendon"), SubElement(model, "equality")
    for slide in slides:
        factors = slide.polynomial(ranges)
        if len(slide.weights) == 1:
            ((angle, weight),) = slide.weights.items()
            numbers = _texts({"polycoef": factors * weight ** np.arange(5)})
            SubElement(equalities, "joint", numbers | _TIE, joint1=slide.name, joint2=angle)
            continue
        for name, weights in ((slide.name, {slide.name: 1.0}), (f"{slide.name}_angle", slide.weights)):
            tendon = SubElement(tendons, "fixed", name=name)
            for joint, weight in weights.items():
                SubElement(tendon, "joint", _texts({"coef": [weight]}), joint=joint)
        numbers = _texts({"polycoef": factors})
        SubElement(equalities, "tendon", numbers | _TIE, tendon1=slide.name, tendon2=f"{slide.name}_angle")


def _texts(numbers: Mapping[str, Iterable[float]]) -> dict[str, str]:
    """Numbers as attributes, with all digits."""
    return {name: " ".join(f"{number:.12g}" for number in values) for name, values in numbers.items()}
