"""Animated .glb files, played by another reader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.convert import Bodies, ReadOptions, SkelClip, fit_clips
from hmr_skel.convert.animation import write_animation
from hmr_skel.convert.clips import UPRIGHT
from hmr_skel.convert.reading import clip_from_arrays
from tests.convert.conftest import walk


@pytest.fixture(scope="module")
def clip(bodies: Bodies) -> SkelClip:
    options = ReadOptions(smpl_gender="female", frame_rate=25.0, frame="camera")
    return fit_clips([clip_from_arrays(walk(8, "camera"), "walk", options)], bodies)[0]


@pytest.fixture(scope="module")
def glb(clip: SkelClip, bodies: Bodies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glb") / "walk.glb"
    write_animation(clip, bodies.skel("female"), path)
    return path


def posed(clip: SkelClip, bodies: Bodies) -> Any:
    return bodies.skel("female")(*(torch.from_numpy(part) for part in (clip.q, clip.betas, clip.transl)))


def test_the_scene_at_rest(clip: SkelClip, bodies: Bodies, glb: Path):
    """Bones hang at their joints in the T-pose, as trimesh reads it."""
    scene = trimesh.load_scene(glb, process=False)
    skel = bodies.skel("female")
    shape = skel.prepare_shape(torch.from_numpy(clip.betas[0]))
    for joint, place in zip(SKEL_JOINTS, shape.joints.numpy(), strict=True):
        np.testing.assert_allclose(scene.graph.get(joint)[0][:3, 3], place, atol=1e-5)
        bone = trimesh.transform_points(
            scene.geometry[f"{joint}_bone"].vertices[:1], scene.graph.get(f"{joint}_bone")[0]
        )
        assert np.linalg.norm(skel.bone_rest(shape).numpy() - bone, axis=1).min() < 1e-5
    np.testing.assert_allclose(scene.geometry["skin"].vertices, shape.rest.numpy(), atol=1e-5)


@pytest.mark.extra
def test_played_by_another_reader(clip: SkelClip, bodies: Bodies, glb: Path):
    """Joints within 0.1 mm in every frame, at the right times; the skin within the stated cost of the correctives."""
    pygltflib = pytest.importorskip("pygltflib", reason="pygltflib is not installed")
    file = pygltflib.GLTF2().load(str(glb))
    blob = file.binary_blob()

    def array(number: int) -> np.ndarray:
        accessor = file.accessors[number]
        view = file.bufferViews[accessor.bufferView]
        kind = {5126: "<f4", 5123: "<u2", 5125: "<u4"}[accessor.componentType]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor.type]
        return np.frombuffer(blob, kind, accessor.count * width, view.byteOffset).reshape(-1, width)

    (animation,), (skin,) = file.animations, file.skins
    names = [node.name for node in file.nodes]
    parents = {child: parent for parent, node in enumerate(file.nodes) for child in node.children or ()}
    moves: dict[tuple[int, str], np.ndarray] = {}
    for channel in animation.channels:
        sampler = animation.samplers[channel.sampler]
        np.testing.assert_allclose(array(sampler.input)[:, 0], np.arange(8) / 25, atol=1e-6)
        moves[channel.target.node, channel.target.path] = array(sampler.output)
    assert all(
        np.einsum("nk,nk->n", turn[1:], turn[:-1]).min() > 0 for (_, what), turn in moves.items() if what == "rotation"
    )

    def placed(node: int, frame: int) -> np.ndarray:
        local = np.eye(4)
        if (node, "rotation") in moves:
            local[:3, :3] = Rotation.from_quat(moves[node, "rotation"][frame]).as_matrix()
        local[:3, 3] = moves.get((node, "translation"), [file.nodes[node].translation] * 8)[frame]
        return placed(parents[node], frame) @ local if node in parents else local

    true, turn = posed(clip, bodies), UPRIGHT["camera"]
    mesh = file.meshes[names.index("skin") and file.nodes[names.index("skin")].mesh].primitives[0].attributes
    rest, joints, weights = (array(getattr(mesh, name)) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0"))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    bind = array(skin.inverseBindMatrices).reshape(24, 4, 4).transpose(0, 2, 1)
    costs = []
    for frame in range(8):
        world = np.stack([placed(node, frame) for node in skin.joints])
        np.testing.assert_allclose(world[:, :3, 3], true.joints[frame].numpy() @ turn.T, atol=1e-4)
        moved = (world @ bind)[joints]
        vertices = np.einsum("vk,vkij,vj->vi", weights, moved[..., :3, :], np.c_[rest, np.ones(len(rest))])
        costs.append(1000 * np.linalg.norm(vertices - true.vertices[frame].numpy() @ turn.T, axis=1))
    stated = file.scenes[0].extras
    assert np.mean(costs) == pytest.approx(stated["without_correctives_mean_mm"], rel=0.01, abs=0.02)
    assert np.max(costs) == pytest.approx(stated["without_correctives_max_mm"], rel=0.02, abs=0.05)
