"""MuJoCo itself: where it puts the bodies of our models, what they weigh, and whether they hold in simulation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from hmr_skel.body.dofs import DOF_NAMES, PELVIS, limits
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.convert import Bodies, SkelClip
from hmr_skel.convert.opensim import OpenSimOptions, write_opensim
from hmr_skel.opensim.joints import PELVIS_TRANSLATION
from hmr_skel.opensim.mjcf import WORLD, slides_of
from hmr_skel.opensim.person import RestBody
from hmr_skel.opensim.segments import segments
from tests.opensim.conftest import DEG, MM, in_skel

pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def mujoco() -> Any:
    return pytest.importorskip("mujoco", reason="MuJoCo is not installed")


def apart(mujoco: Any, model: Any, qpos: Path, clip: SkelClip, bodies: Bodies) -> tuple[float, float]:
    """The largest distance, mm, and angle, degrees, of any bone in any frame of the written motion."""
    data, state = np.load(qpos), mujoco.MjData(model)
    assert data["joint_names"].tolist() == [model.joint(i).name for i in range(model.njnt)]
    assert data["qpos"].shape == (len(clip), model.nq)
    np.testing.assert_allclose(data["time"], np.zeros(len(clip)) if clip.time is None else clip.time)
    numbers = [model.body(name).id for name in SKEL_JOINTS]
    rotations, places = in_skel(clip, bodies, WORLD)
    mm, deg = 0.0, 0.0
    for n, row in enumerate(data["qpos"]):
        state.qpos[:] = row
        mujoco.mj_kinematics(model, state)
        off = np.linalg.norm(state.xmat[numbers].reshape(-1, 3, 3) - rotations[n], axis=(1, 2)) / np.sqrt(8)
        mm = max(mm, 1000 * np.linalg.norm(state.xpos[numbers] - places[n], axis=1).max())
        deg = max(deg, np.degrees(2 * np.arcsin(off)).max())
    return mm, deg


@pytest.mark.parametrize(("frame", "gender"), [("camera", "male"), ("z-up", "female")])
def test_random_poses(
    random_clip: Callable[..., SkelClip], bodies: Bodies, mujoco: Any, tmp_path: Path, frame: str, gender: str
):
    clip = random_clip(50, frame, gender)
    xml, qpos = write_opensim(clip, bodies.skel(gender), tmp_path / "a walk+1.xml", OpenSimOptions(mass=70.0))
    model = mujoco.MjModel.from_xml_path(str(xml))
    mm, deg = apart(mujoco, model, qpos, clip, bodies)
    assert mm < MM
    assert deg < DEG
    assert model.body_mass.sum() == pytest.approx(70.0)
    np.testing.assert_allclose(model.key("start").qpos, np.load(qpos)["qpos"][0], atol=1e-9)


def test_the_person_is_the_same_as_for_opensim(
    random_clip: Callable[..., SkelClip], bodies: Bodies, mujoco: Any, tmp_path: Path
):
    """Ranges of the table, masses and inertias of the segments, each bone mesh in its place."""
    clip = random_clip(1)
    xml, _ = write_opensim(clip, bodies.skel("male"), tmp_path / "walk.xml", OpenSimOptions())
    model = mujoco.MjModel.from_xml_path(str(xml))
    found = segments(RestBody.of(bodies.skel("male"), clip.betas[0]))
    for name, segment in zip(SKEL_JOINTS, found, strict=True):
        body = model.body(name)
        assert body.mass[0] == pytest.approx(segment.mass)
        np.testing.assert_allclose(body.ipos, segment.center, atol=1e-9)
        mujoco.mju_quat2Mat(turn := np.empty(9), body.iquat)
        axes = turn.reshape(3, 3)
        inertia = axes @ np.diag(body.inertia) @ axes.T
        np.testing.assert_allclose(inertia, segment.inertia, atol=1e-8 + 1e-5 * segment.inertia.max())
    for i, name in enumerate(DOF_NAMES):
        joint = model.joint(name)
        assert bool(model.jnt_limited[joint.id]) == (i >= PELVIS.stop)
        if i >= PELVIS.stop:
            np.testing.assert_allclose(joint.range, limits("anatomical")[i], atol=1e-6)
    files = {f"walk_{model.body(number).name}.stl": geom for geom, number in enumerate(model.geom_bodyid)}
    assert {path.name for path in (tmp_path / "Geometry").iterdir()} == files.keys()
    for name, geom in files.items():
        mesh = model.mesh(model.geom_dataid[geom])
        vertices = model.mesh_vert[mesh.vertadr[0] :][: mesh.vertnum[0]]
        mujoco.mju_quat2Mat(turn := np.empty(9), model.geom_quat[geom])
        placed = vertices @ turn.reshape(3, 3).T + model.geom_pos[geom]
        bounds = trimesh.load_mesh(tmp_path / "Geometry" / name).bounds
        np.testing.assert_allclose((placed.min(0), placed.max(0)), bounds, atol=1e-6)


def test_simulation_keeps_the_slides_at_their_angles(
    random_clip: Callable[..., SkelClip], bodies: Bodies, mujoco: Any, tmp_path: Path
):
    """A body that hangs by its pelvis and collapses; the slides of spine and scapulae go along."""
    clip = random_clip(1, share=0.5)
    xml, qpos = write_opensim(clip, bodies.skel("male"), tmp_path / "walk.xml", OpenSimOptions())
    spec = mujoco.MjSpec.from_file(str(xml))
    for name in (*DOF_NAMES[PELVIS], *PELVIS_TRANSLATION):
        spec.delete(spec.joint(name))
    spec.delete(spec.keys[0])
    model = spec.compile()
    state = mujoco.MjData(model)
    state.qpos[:] = np.load(qpos)["qpos"][0, 6:]
    found = slides_of(RestBody.of(bodies.skel("male"), clip.betas[0]))
    slides = [slide for each in found.values() for slide in each]
    angles = [model.joint(name).qposadr[0] for name in DOF_NAMES[PELVIS.stop :]]
    places = [model.joint(slide.name).qposadr[0] for slide in slides]
    worst, q = [], clip.q.astype(np.float64)
    for _ in range(round(1.0 / model.opt.timestep)):
        mujoco.mj_step(model, state)
        q[0, PELVIS.stop :] = state.qpos[angles]
        worst.append([abs(slide.values(q)[0] - state.qpos[at]) for slide, at in zip(slides, places, strict=True)])
    assert len(slides) == 20
    assert np.max(worst) < 1e-3
    assert np.ptp(q - clip.q) > 1  # it did move
    assert not any(warning.number for warning in state.warning)
