"""What is in the files, read by readers that are not ours; the programs themselves are in `test_in_*.py`."""

from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, parse

import numpy as np
import pandas
import pytest
import torch
import trimesh

from hmr_skel.body.dofs import DOF_NAMES, limits
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.convert import Bodies, SkelClip
from hmr_skel.convert.clips import UPRIGHT
from hmr_skel.convert.opensim import OpenSimOptions, motion_of, write_opensim
from hmr_skel.convert.output import Destination
from hmr_skel.errors import UserError
from hmr_skel.opensim.bsm import bsm_angles
from hmr_skel.opensim.joints import coordinate_ranges
from hmr_skel.opensim.markers import SETS, marker_set
from hmr_skel.opensim.mjcf import slides_of
from hmr_skel.opensim.person import RestBody
from hmr_skel.opensim.segments import segments


def numbers(element: Element, name: str) -> np.ndarray:
    return np.array((element.findtext(name) or "").split(), float)


def about(axis: np.ndarray, angle: float) -> np.ndarray:
    return trimesh.transformations.rotation_matrix(angle, axis)[:3, :3]


def value(axis: Element, coordinates: dict[str, float]) -> float:
    """A TransformAxis' function, by OpenSim's documentation of each class."""
    x = [coordinates[name] for name in (axis.findtext("coordinates") or "").split()]
    function = axis[-1]
    c = numbers(function, "coefficients")
    if function.tag == "Constant":
        return float(numbers(function, "value")[0])
    if function.tag in ("LinearFunction", "PolynomialFunction"):
        return float(np.polyval(c, x[0]))  # the highest power first
    if function.tag == "Sine":
        amplitude, omega, phase, offset = (
            numbers(function, name)[0] for name in ("amplitude", "omega", "phase", "offset")
        )
        return float(amplitude * np.sin(omega * x[0] + phase) + offset)
    assert (function.tag, function.findtext("dimension")) == ("MultivariatePolynomialFunction", "2")
    order = int(function.findtext("order") or "")
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    return sum(a * x[0] ** i * x[1] ** j for a, (i, j) in zip(c, powers, strict=True))


def posed(model: Element, coordinates: dict[str, float]) -> dict[str, np.ndarray]:
    """Body -> its transform in the ground [4 4]."""
    found = {"/ground": np.eye(4)}
    for joint in model.iter("CustomJoint"):
        frames, sockets = [], []
        for frame in joint.iter("PhysicalOffsetFrame"):
            turn = np.eye(4)
            turn[:3, :3] = trimesh.transformations.euler_matrix(*numbers(frame, "orientation"), "rxyz")[:3, :3]
            turn[:3, 3] = numbers(frame, "translation")
            frames.append(turn)
            sockets.append(frame.findtext("socket_parent"))
        axes = {axis.get("name"): axis for axis in joint.iter("TransformAxis")}
        moved = np.eye(4)
        for i in "123":
            turning, going = axes[f"rotation{i}"], axes[f"translation{i}"]
            moved[:3, :3] = moved[:3, :3] @ about(numbers(turning, "axis"), value(turning, coordinates))
            moved[:3, 3] += numbers(going, "axis") * value(going, coordinates)
        found[sockets[1]] = found[sockets[0]] @ frames[0] @ moved @ np.linalg.inv(frames[1])
    return found


def test_a_model_puts_bones_where_skel_does(random_clip: Callable[..., SkelClip], bodies: Bodies, tmp_path: Path):
    clip, skel = random_clip(4, "camera"), bodies.skel("male")
    osim, mot = write_opensim(clip, skel, tmp_path / "walk.osim", OpenSimOptions())
    model = parse(osim).getroot()
    table = pandas.read_csv(mot, sep="\t", skiprows=mot.read_text().split("\n").index("endheader") + 1)
    out = skel(*(torch.from_numpy(part) for part in (clip.q, clip.betas, clip.transl)))
    axes = skel.prepare_shape(torch.from_numpy(clip.betas[0])).dof_frame[0].numpy()
    turn = axes.T @ UPRIGHT["camera"]
    names = {each.get("name") for each in model.iter("Coordinate")}
    assert names == set(table.columns) - {"time"}
    for n, row in table.iterrows():
        values = {
            name: row[name] if name.startswith("pelvis_t") and name[-2] == "t" else np.radians(row[name])
            for name in names
        }
        found = posed(model, values)
        for j, body in enumerate(SKEL_JOINTS):
            at = found[f"/bodyset/{body}"]
            np.testing.assert_allclose(at[:3, 3], turn @ out.joints[n, j].numpy(), atol=2e-5)
            np.testing.assert_allclose(at[:3, :3], turn @ out.joint_frames[n, j].numpy(), atol=2e-5)


def test_polynomials_come_near_the_slides(bodies: Bodies):
    """Those that tie them in simulation, over the table's ranges; in MuJoCo itself: `test_in_mujoco.py`."""
    person, ranges = RestBody.of(bodies.skel("male"), np.zeros(10, np.float32)), coordinate_ranges(None)
    for slide in (slide for each in slides_of(person).values() for slide in each):
        q = np.zeros((50, 46))
        for name, weight in slide.weights.items():
            low, high = ranges[name]
            q[:, DOF_NAMES.index(name)] = np.linspace(low, high, 50)[:: int(weight)]
        angle = sum(weight * q[:, DOF_NAMES.index(name)] for name, weight in slide.weights.items())
        error = np.abs(np.polyval(slide.polynomial(ranges)[::-1], angle) - slide.values(q)).max()
        assert error < 1e-4, slide.name


def test_the_motion_for_mujoco_overwrites_no_input(
    random_clip: Callable[..., SkelClip], bodies: Bodies, tmp_path: Path
):
    (tmp_path / "walk-qpos.npz").touch()
    with pytest.raises(UserError, match=r"walk-qpos\.npz is an input, and would be overwritten"):
        Destination.of(str(tmp_path / "walk.xml"), None, False).check(
            [random_clip(2).smpl], [tmp_path / "walk-qpos.npz"]
        )


def test_coordinates_have_the_ranges_of_the_table(random_clip: Callable[..., SkelClip], bodies: Bodies, tmp_path: Path):
    """Clamped, not locked, and free at the pelvis; an arm that turned past the end of its range is not cut off."""
    clip = random_clip(2)
    arm = DOF_NAMES.index("shoulder_r_x")
    clip.q[0, arm] = 4.0
    osim, _ = write_opensim(clip, bodies.skel("male"), tmp_path / "walk.osim", OpenSimOptions())
    found = {each.get("name"): each for each in parse(osim).getroot().iter("Coordinate")}
    for i, name in enumerate(DOF_NAMES):
        assert found[name].findtext("locked") == "false"
        assert found[name].findtext("clamped") == ("true" if i > 2 else "false")
        if i > 2:
            low, high = limits("anatomical")[i]
            np.testing.assert_allclose(numbers(found[name], "range"), (low, 4.0 if i == arm else high), atol=1e-6)


def test_bone_meshes_are_in_place(random_clip: Callable[..., SkelClip], bodies: Bodies, tmp_path: Path):
    """Each is where SKEL has the bones of the T-pose, none is cut in two, and the model names just these files."""
    clip, skel = random_clip(1), bodies.skel("male")
    osim, _ = write_opensim(clip, skel, tmp_path / "walk.osim", OpenSimOptions())
    model = parse(osim).getroot()
    named = {each.findtext("mesh_file") for each in model.iter("Mesh")}
    assert named == {path.name for path in (tmp_path / "Geometry").iterdir()}
    shape = skel.prepare_shape(torch.from_numpy(clip.betas[0]))
    bones, faces, axes = skel.bone_rest(shape).numpy(), 0, shape.dof_frame[0].numpy()
    at = posed(model, dict.fromkeys((*DOF_NAMES, "pelvis_tx", "pelvis_ty", "pelvis_tz"), 0.0))
    for body in model.iter("Body"):
        mesh = trimesh.load_mesh(tmp_path / "Geometry" / f"walk_{body.get('name')}.stl")
        faces += len(mesh.faces)
        placed = trimesh.transform_points(mesh.vertices, at[f"/bodyset/{body.get('name')}"]) @ axes.T
        distances = np.linalg.norm(bones - shape.joints[0].numpy() - placed[::50, None], axis=2)
        assert distances.min(1).max() < 1e-4
        assert len(set(skel.bone_weights_rigid.argmax(1)[distances.argmin(1)].tolist())) == 1
    assert faces == len(skel.skeleton_faces)


@pytest.mark.parametrize("gender", ["male", "female"])
def test_masses_are_those_of_the_skin(bodies: Bodies, gender: str):
    """The cuts take nothing away and add next to nothing; inertias are those of solid bodies."""
    skel = bodies.skel(gender)
    person = RestBody.of(skel, np.zeros(10, np.float32))
    found = segments(person)
    litres = 1000 * trimesh.Trimesh(person.rest, skel.faces, process=False).volume
    assert 1000 * sum(s.mass for s in segments(person)) == pytest.approx(1030 * litres, rel=0.02)  # the body's density
    for segment in found:
        x, y, z = np.linalg.eigvalsh(segment.inertia)
        assert x > 0
        assert x + y > z
    thigh = found[SKEL_JOINTS.index("femur_r")]
    assert thigh.mass / sum(s.mass for s in found) == pytest.approx(0.1, abs=0.03)  # Winter: 0.100
    scaled = segments(person, 80.0)
    assert sum(s.mass for s in scaled) == pytest.approx(80)
    np.testing.assert_allclose(scaled[1].inertia / thigh.inertia, scaled[1].mass / thigh.mass)


@pytest.mark.parametrize("name", SETS)
def test_markers_are_on_the_skin_and_mirrored(bodies: Bodies, name: str):
    skel = bodies.skel("male")
    markers = {marker.name: marker for marker in marker_set(name, skel)}
    skin = skel.template.numpy()
    assert len({marker.vertex for marker in markers.values()}) == len(markers)
    places = {own: skin[marker.vertex] for own, marker in markers.items()}
    for own in (own for own in markers if own[0] == "R" and own != "RBAK"):
        left = "L" + own[1:]
        np.testing.assert_allclose(places[left] * [-1, 1, 1], places[own], atol=2e-3)
        assert markers[own].bone.removesuffix("_r") == markers[left].bone.removesuffix("_l")
    ankle, knee = ("RLMAL", "RLFC") if name == "rajagopal" else ("RANK", "RKNE")
    assert places[ankle][1] < places[knee][1] < places["RASI"][1] < places["C7"][1]
    assert places["C7"][2] < places["CLAV"][2]


def test_trc(random_clip: Callable[..., SkelClip], bodies: Bodies, tmp_path: Path):
    """By the format's description: keys, a line of names and one of axes, then frame, time and mm."""
    clip, skel = random_clip(3, "y-up", share=0.5), bodies.skel("male")
    write_opensim(clip, skel, tmp_path / "x.trc", OpenSimOptions(markers="plug-in-gait"))
    lines = (tmp_path / "x.trc").read_text().split("\n")
    keys = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=True))
    markers = marker_set("plug-in-gait", skel)
    assert (float(keys["DataRate"]), keys["NumFrames"], keys["NumMarkers"], keys["Units"]) == (30, "3", "39", "mm")
    assert lines[3].split("\t")[2::3] == [marker.name for marker in markers]
    table = np.array([line.split("\t") for line in lines[6:9]], float)
    np.testing.assert_allclose(table[:, :2], [(n + 1, n / 30) for n in range(3)], atol=1e-8)
    out = skel(*(torch.from_numpy(part) for part in (clip.q, clip.betas, clip.transl)))
    left, up, forward = out.vertices[:, [marker.vertex for marker in markers]].permute(2, 0, 1).numpy()
    expected = 1000 * np.stack((forward, up, -left), -1).reshape(3, -1)
    np.testing.assert_allclose(table[:, 2:], expected, atol=0.05)


def test_angles_for_models_of_others(random_clip: Callable[..., SkelClip], bodies: Bodies):
    """Turned about z, x, y from the pelvis' axes, the thigh is SKEL's."""
    clip, skel = random_clip(5), bodies.skel("male")
    person, motion = RestBody.of(skel, clip.betas[0]), motion_of(clip, skel)
    found = bsm_angles(person, motion.q)
    x, y, z = np.eye(3)
    out = skel(*(torch.from_numpy(part) for part in (motion.q, clip.betas, clip.transl)))
    frames = person.dof_frame[0].T @ out.joint_frames.double().numpy()
    for n, (tilt, tip, turn, flexion, adduction, rotation) in enumerate(found[:, :6]):
        pelvis = about(z, tilt) @ about(x, tip) @ about(y, turn)
        np.testing.assert_allclose(pelvis, frames[n, 0], atol=1e-5)
        np.testing.assert_allclose(
            pelvis @ about(z, flexion) @ about(x, adduction) @ about(y, rotation), frames[n, 1], atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.mot", {"markers": "rajagopal"}, r"--markers is for \.osim and \.trc, and the output is mot"),
        ("x.trc", {"mass": 70.0}, r"--mass is for \.osim and \.xml, and"),
        ("x.osim", {"coordinates": "bsm"}, r"--coordinates is for \.mot"),
    ],
)
def test_options_without_use(name: str, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        Destination.of(name, None, False, OpenSimOptions(**options))
