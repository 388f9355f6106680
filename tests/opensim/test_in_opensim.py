"""OpenSim itself: what it makes of our models, motions and markers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.convert import Bodies, SkelClip
from hmr_skel.convert.opensim import OpenSimOptions, write_opensim
from hmr_skel.opensim.bsm import VERIFIED
from tests.opensim.conftest import DEG, MM, SHARED, in_skel
from tests.opensim.in_opensim import InOpenSim, warnings_of

pytestmark = pytest.mark.extra

PUBLIC = SHARED / "bsm" / "CompleteHumanModel.osim"


@pytest.fixture(scope="module")
def opensim(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package, which begins to write a log into the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("log"))
        package = pytest.importorskip("opensim", reason="OpenSim is not installed")
        package.Logger.removeFileSink()
    return package


def apart(clip: SkelClip, bodies: Bodies, model: InOpenSim, mot: Path) -> tuple[float, float]:
    """The largest distance, mm, and angle, degrees, of any bone in any frame."""
    names, values = model.motion(mot)
    assert sorted(names) == sorted(model.coordinates)  # every column is a coordinate, and every coordinate a column
    rotations, places = in_skel(clip, bodies)
    mm, deg = 0.0, 0.0
    for n, row in enumerate(values):
        model.pose(dict(zip(names, row, strict=True)))
        rotation, place = model.transforms(SKEL_JOINTS)
        mm = max(mm, 1000 * np.linalg.norm(place - places[n], axis=1).max())
        deg = max(deg, angles(rotation, rotations[n]).max())
    return mm, deg


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between rotations [B 3 3], degrees."""
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=(-1, -2)) / np.sqrt(8), 0, 1)))


@pytest.mark.parametrize(("frame", "gender"), [("camera", "male"), ("z-up", "female")])
def test_random_poses(
    random_clip: Callable[..., SkelClip], bodies: Bodies, opensim: Any, tmp_path: Path, frame: str, gender: str
):
    clip = random_clip(50, frame, gender)
    with warnings_of(opensim, tmp_path / "log") as warnings:
        osim, mot = write_opensim(clip, bodies.skel(gender), tmp_path / "a walk+1.osim", OpenSimOptions(mass=70.0))
        model = InOpenSim(opensim, osim)
        mm, deg = apart(clip, bodies, model, mot)
        assert np.isfinite(model.acceleration()).all()
    assert not warnings
    assert mm < MM
    assert deg < DEG
    assert model.model.getTotalMass(model.model.getWorkingState()) == pytest.approx(70.0)
    # Markers stay on their bones: at zero, where nothing bends, they are on the skin.
    rest = bodies.skel(gender)(torch.zeros(46), torch.from_numpy(clip.betas[0]), torch.zeros(3))
    model.pose({})
    skin = (rest.vertices - rest.joints[0]).numpy()
    axes = bodies.skel(gender).prepare_shape(torch.from_numpy(clip.betas[0])).dof_frame[0].numpy()
    pelvis = model.transforms(["pelvis"])[1][0]
    for place in model.markers().values():
        assert np.linalg.norm(skin @ axes + pelvis - place, axis=1).min() < 1e-6


def test_inverse_kinematics_finds_the_motion_again(
    random_clip: Callable[..., SkelClip], bodies: Bodies, opensim: Any, tmp_path: Path
):
    """OpenSim reads the .trc, knows every marker of the model in it, and comes near the angles that it was made of."""
    clip = random_clip(3, share=0.2)
    osim, mot = write_opensim(clip, bodies.skel("male"), tmp_path / "walk.osim", OpenSimOptions())
    (trc,) = write_opensim(clip, bodies.skel("male"), tmp_path / "walk.trc", OpenSimOptions())
    model = InOpenSim(opensim, osim)
    model.pose({})
    markers = opensim.TimeSeriesTableVec3(str(trc))
    assert markers.getTableMetaDataAsString("Units") == "mm"
    assert sorted(markers.getColumnLabels()) == sorted(model.markers())
    tool = opensim.InverseKinematicsTool()
    tool.setModel(model.model)
    tool.setMarkerDataFileName(str(trc))
    tool.setOutputMotionFileName(str(tmp_path / "ik.mot"))
    tool.setResultsDir(str(tmp_path))
    for name in markers.getColumnLabels():
        task = opensim.IKMarkerTask()
        task.setName(name)
        task.setWeight(1.0)
        tool.getIKTaskSet().cloneAndAppend(task)
    assert tool.run()
    names, values = model.motion(mot)
    found_names, found = InOpenSim(opensim, osim).motion(tmp_path / "ik.mot")
    for name in ("knee_angle_r", "hip_flexion_l", "elbow_flexion_r"):
        true, got = values[:, names.index(name)], found[:, found_names.index(name)]
        assert np.degrees(np.abs(true - got)).max() < 10, name


@pytest.mark.skipif(not PUBLIC.exists(), reason=f"allowed: no {PUBLIC.name}")
def test_coordinates_of_a_public_model(
    random_clip: Callable[..., SkelClip], bodies: Bodies, opensim: Any, tmp_path: Path
):
    """Its pelvis and thighs turn as SKEL's to the last digit, the bones below as far as its joints let them.

    And the model explains why the others are left out: at zero its spine and arms are elsewhere.
    """
    clip = random_clip(20)
    (mot,) = write_opensim(clip, bodies.skel("male"), tmp_path / "x.mot", OpenSimOptions(coordinates="bsm"))
    with warnings_of(opensim, tmp_path / "log"):
        model = InOpenSim(opensim, PUBLIC)
    assert {*VERIFIED} < {*model.coordinates}
    names, values = model.motion(mot)
    assert names == [*VERIFIED]
    rotations, places = in_skel(clip, bodies)
    legs = SKEL_JOINTS[:11]
    found = []
    for n, row in enumerate(values):
        model.pose(dict(zip(names, row, strict=True)))
        rotation, place = model.transforms(legs)
        np.testing.assert_allclose(place[0], places[n, 0], atol=1e-5)
        found.append(angles(rotation, rotations[n, :11]))
    worst = dict(zip(legs, np.max(found, 0), strict=True))
    assert max(worst[name] for name in ("pelvis", "femur_r", "femur_l")) < DEG
    assert max(worst[name] for name in ("tibia_r", "tibia_l")) < 12
    assert max(worst.values()) < 30  # the left ankle's axis is mirrored there, not in SKEL

    osim, _ = write_opensim(clip, bodies.skel("male"), tmp_path / "own.osim", OpenSimOptions())
    own = InOpenSim(opensim, osim)
    for each in (model, own):
        each.pose({})
    zero = dict(zip(SKEL_JOINTS, angles(own.transforms(SKEL_JOINTS)[0], model.transforms(SKEL_JOINTS)[0]), strict=True))
    assert max(zero[name] for name in legs) < 7
    assert zero["lumbar_body"] > 20
    assert min(zero["humerus_r"], zero["humerus_l"]) > 90
    assert set(DOF_NAMES) < set(model.coordinates)
