"""Write OpenSim model files (`.osim`) of one person: bodies, joints, coordinates, bone meshes, markers, masses.

The format is that of OpenSim 4.6. The bone meshes are binary STL files in `Geometry/` beside the model, where OpenSim
looks for them.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.data.atomic import replacing
from hmr_skel.opensim.joints import PELVIS_TRANSLATION, Axis, Joint, coordinate_ranges, joints_of
from hmr_skel.opensim.markers import Marker
from hmr_skel.opensim.person import Motion, RestBody
from hmr_skel.opensim.segments import segments, write_bone_meshes

_VERSION = "40600"
_CREDITS = (
    "Made by hmr-skel from SKEL (Keller et al. 2023) in the shape of one person. Bodies are SKEL's bones; at zero the "
    "body is in SMPL's T-pose. Masses are the skin's volumes times the densities of Winter's table 4.1{scaled}."
)


def write_osim(
    person: RestBody, markers: Iterable[Marker], path: Path, motion: Motion | None = None, mass: float | None = None
) -> None:
    """Write the model, and its bone meshes as `Geometry/<name>_<bone>.stl` beside it.

    Args:
        person: the body.
        markers: markers, which are fixed to bones at their positions in the T-pose.
        path: the model, .osim; it appears by rename, after the meshes.
        motion: a motion for the model: if it leaves the range of a coordinate (for instance by a full turn of an arm),
            the range is widened.
        mass: total mass, kg; by default the densities decide.

    Raises:
        UserError: a file cannot be written.
    """
    files = write_bone_meshes(person, path)
    document = Element("OpenSimDocument", Version=_VERSION)
    model = SubElement(document, "Model", name=re.sub(r"[\s\\/*+]", "_", path.stem))  # OpenSim refuses these in names
    scaled = "" if mass is None else f", scaled to {mass:g} kg"
    _add(model, credits=_CREDITS.format(scaled=scaled), length_units="meters", force_units="N")
    _add(model, gravity="0 -9.80665 0")
    bodies = _set(model, "BodySet")
    for joint, segment in enumerate(segments(person, mass)):
        body = SubElement(bodies, "Body", name=SKEL_JOINTS[joint])
        if joint in files:
            mesh = SubElement(SubElement(body, "attached_geometry"), "Mesh", name=f"{SKEL_JOINTS[joint]}_mesh")
            _add(mesh, socket_frame="..", mesh_file=files[joint])
        _add(body, mass=segment.mass, mass_center=segment.center, inertia=segment.inertia_entries)
    joints = _set(model, "JointSet")
    ranges = coordinate_ranges(motion)
    standing = float(person.joints[0, 1] - person.rest[:, 1].min())  # with its feet at height zero
    for joint in joints_of(person):
        _joint(joints, joint, ranges, {"pelvis_ty": standing})
    placed = _set(model, "MarkerSet")
    for marker in markers:
        joint = SKEL_JOINTS.index(marker.bone)
        element = SubElement(placed, "Marker", name=marker.name)
        location = person.in_bone(person.rest[[marker.vertex]], joint)[0]
        _add(element, socket_parent_frame=f"/bodyset/{marker.bone}", location=location, fixed="true")

    indent(document)
    with replacing(path) as temporary:
        ElementTree(document).write(temporary, encoding="UTF-8", xml_declaration=True)


def _joint(parent: Element, joint: Joint, ranges: dict[str, tuple[float, float]], defaults: dict[str, float]) -> None:
    element = SubElement(parent, "CustomJoint", name=joint.name)
    above = joint.parent or "ground"
    _add(element, socket_parent_frame=f"{above}_offset", socket_child_frame=f"{joint.child}_offset")
    coordinates = SubElement(element, "coordinates")
    for name in joint.coordinates:
        coordinate = SubElement(coordinates, "Coordinate", name=name)
        # The pelvis is free. Its ranges are those of the sliders in OpenSim's window.
        free = (-5.0, 5.0) if name in PELVIS_TRANSLATION else (-np.pi, np.pi)
        _add(coordinate, default_value=defaults.get(name, 0.0), range=ranges.get(name, free))
        _add(coordinate, clamped=str(name in ranges).lower(), locked="false")
    frames = SubElement(element, "frames")
    for name, rotmat, place in (
        (above, joint.parent_rotmat, joint.parent_place),
        (joint.child, joint.child_rotmat, np.zeros(3)),
    ):
        frame = SubElement(frames, "PhysicalOffsetFrame", name=f"{name}_offset")
        socket = "/ground" if name == "ground" else f"/bodyset/{name}"
        _add(frame, socket_parent=socket, translation=place, orientation=_xyz_angles(rotmat))
    transform = SubElement(element, "SpatialTransform")
    for kind, axes in (("rotation", joint.rotations), ("translation", joint.translations)):
        for number, axis in enumerate(axes, 1):
            _axis(transform, f"{kind}{number}", axis)


def _axis(parent: Element, name: str, axis: Axis) -> None:
    element = SubElement(parent, "TransformAxis", name=name)
    _add(element, coordinates=" ".join(axis.coordinates), axis=axis.direction)
    kind, properties = axis.function
    _add(SubElement(element, kind, name="function"), **properties)


def _xyz_angles(rotmat: np.ndarray) -> tuple[float, float, float]:
    """The angles x, y, z, rad, of the rotation Rx(x) Ry(y) Rz(z) about moving axes."""
    return (
        float(np.arctan2(-rotmat[1, 2], rotmat[2, 2])),
        float(np.arctan2(rotmat[0, 2], np.hypot(rotmat[0, 0], rotmat[0, 1]))),
        float(np.arctan2(-rotmat[0, 1], rotmat[0, 0])),
    )


def _set(model: Element, kind: str) -> Element:
    return SubElement(SubElement(model, kind, name=kind.lower()), "objects")


def _add(element: Element, **properties: str | int | float | Iterable[float]) -> None:
    """Add child elements with these values, numbers with all digits."""
    for name, value in properties.items():
        if not isinstance(value, str):
            numbers = value if isinstance(value, Iterable) else [value]
            value = " ".join(f"{number:.12g}" for number in numbers)
        SubElement(element, name).text = value
