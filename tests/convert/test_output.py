"""Everything that is written, read back by readers that are not ours."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch
import trimesh

from hmr_skel import load_shards
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.convert import ReadOptions, SkelClip, Units, fit_clips, read_clips
from hmr_skel.convert.clips import with_unique_names
from hmr_skel.convert.output import Destination
from hmr_skel.convert.reading import clip_from_arrays
from hmr_skel.errors import UserError
from tests.convert.conftest import walk

UPRIGHT = {"z-up": [[1, 0, 0], [0, 0, 1], [0, -1, 0]], "camera": [[1, 0, 0], [0, -1, 0], [0, 0, -1]], "y-up": np.eye(3)}


@pytest.fixture(scope="module")
def clips(bodies) -> list[SkelClip]:
    """A clip of a male, and one of a female in a file without a frame rate."""
    one = clip_from_arrays(walk(6), "walk", ReadOptions(smpl_gender="male", frame_rate=30.0, frame="z-up"))
    two = clip_from_arrays(
        walk(3, "camera"), "photos", ReadOptions(smpl_gender="female", rows="people", frame="camera")
    )
    return fit_clips([one, two], bodies)


def write(clips: list[SkelClip], path: Path, bodies, format: str | None = None, joints: bool = False) -> list[Path]:
    destination = Destination.of(str(path), format, joints)
    destination.check([clip.smpl for clip in clips])
    return list(destination.write(clips, bodies))


def joints_of(clip: SkelClip, bodies) -> np.ndarray:
    """By SKEL's whole forward pass."""
    skel = bodies.skel(clip.gender[0])
    return skel(*(torch.from_numpy(v) for v in (clip.q, clip.betas, clip.transl))).joints.numpy()


def read_table(path: Path) -> dict[str, np.ndarray]:
    """By numpy or pandas alone."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    return {name: np.stack(column) for name, column in pandas.read_parquet(path).items()}


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_tables(clips, bodies, tmp_path: Path, name: str):
    assert write(clips, tmp_path / name, bodies) == [tmp_path / name]
    found = read_table(tmp_path / name)
    assert found["clip"].tolist() == ["walk"] * 6 + ["photos"] * 3
    assert found["frame"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    np.testing.assert_allclose(found["time_s"], [*(np.arange(6) / 30), np.nan, np.nan, np.nan])
    assert found["coordinates"].tolist() == ["y-up"] * 6 + ["camera"] * 3
    turns = found["from_input"].reshape(9, 4, 4)
    np.testing.assert_allclose(turns[:, :3, :3], np.array([UPRIGHT["z-up"]] * 6 + [np.eye(3)] * 3), atol=1e-7)
    assert found["skel_gender"].tolist() == ["male"] * 6 + ["female"] * 3
    assert found["smpl_pose"].shape == (9, 72)
    for column, ours in (("skel_q", "q"), ("skel_betas", "betas"), ("skel_transl", "transl"), ("v2v_mm", "v2v_mm")):
        assert (found[column] == np.concatenate([getattr(clip, ours) for clip in clips])).all()
    if name == "x.parquet":
        assert all(field.metadata[b"meaning"] for field in pq.read_schema(tmp_path / name))
        assert load_shards(tmp_path / name)["skel_q"].shape == (9, 46)


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_joints_and_nothing_else(clips, bodies, tmp_path: Path, name: str):
    write(clips, tmp_path / name, bodies, joints=True)
    found = read_table(tmp_path / name)
    assert set(found) - {"joint_names"} == {
        "clip", "source", "frame", "time_s", "coordinates", "from_input", "skel_joints",
    }  # fmt: skip
    expected = np.concatenate([joints_of(clip, bodies) for clip in clips])
    np.testing.assert_allclose(found["skel_joints"].reshape(9, 24, 3), expected, atol=1e-5)


def read_mot(path: Path) -> tuple[dict[str, str], list[str], pandas.DataFrame]:
    """By OpenSim's documentation: name, nRows=, nColumns=, anything, endheader, labels, data; tabs."""
    lines = path.read_text().split("\n")
    end = lines.index("endheader")
    keys = dict(line.split("=") for line in lines[1:end] if re.fullmatch(r"\w+=\S+", line))
    return keys, lines[:end], pandas.read_csv(path, sep="\t", skiprows=end + 1)


@pytest.mark.parametrize("frame", ["z-up", "camera"])
def test_mot(bodies, tmp_path: Path, frame: str):
    options = ReadOptions(smpl_gender="male", frame_rate=25.0, frame=frame)
    (clip,) = fit_clips([clip_from_arrays(walk(5, frame), "walk", options)], bodies)
    write([clip], tmp_path / "x.mot", bodies)
    keys, head, data = read_mot(tmp_path / "x.mot")
    assert head[0] == "walk"
    assert keys == {"version": "1", "nRows": "5", "nColumns": "50", "inDegrees": "yes"}
    assert any("For the model x.osim" in line for line in head)
    assert data.shape == (5, 50)
    assert list(data.columns[:7]) == [
        "time", "pelvis_tilt", "pelvis_list", "pelvis_rotation", "pelvis_tx", "pelvis_ty", "pelvis_tz",
    ]  # fmt: skip
    assert set(data.columns) == {"time", "pelvis_tx", "pelvis_ty", "pelvis_tz", *DOF_NAMES}
    np.testing.assert_allclose(data["time"], np.arange(5) / 25, atol=1e-8)
    body = np.radians(data[list(DOF_NAMES)].to_numpy())
    np.testing.assert_allclose(body[:, 3:], clip.q[:, 3:], atol=1e-6)

    # Posed by the file's own angles, the skeleton is the upright one; OpenSim's axes are forward, up, right.
    skel = bodies.skel("male")
    posed = skel(torch.from_numpy(body).float(), torch.from_numpy(clip.betas), torch.zeros(5, 3)).joints.numpy()
    assert clip.smpl.frame == ("y-up" if frame == "z-up" else frame)
    upright = joints_of(clip, bodies) @ np.array(UPRIGHT[clip.smpl.frame], np.float32).T
    turn = "(-1 y, +1 z, -1 x)" if frame == "z-up" else "(-1 z, -1 y, -1 x)"
    assert f"From that file's frame to the ground: (x, y, z) -> {turn}." in head
    relative = upright - upright[:, :1]
    np.testing.assert_allclose(posed - posed[:, :1], relative, atol=1e-5)
    left, up, forward = upright[:, 0].T
    pelvis = data[["pelvis_tx", "pelvis_ty", "pelvis_tz"]].to_numpy()
    np.testing.assert_allclose(pelvis, np.stack((forward, up, -left), 1), atol=1e-5)
    assert relative[:, 13, 1].min() > 0.3  # the head is above the pelvis


def read_glb(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    scene = trimesh.load_scene(path, process=False)
    assert all((scene.graph.get(name)[0] == np.eye(4)).all() for name in scene.graph.nodes_geometry)
    return {name: (mesh.vertices, mesh.faces) for name, mesh in scene.geometry.items()}


def read_obj(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    meshes, first = {}, 0
    for part in path.read_text().split("\no ")[1:]:
        (name,), *lines = [line.split() for line in part.splitlines() if line]
        vertices = np.array([[float(word) for word in words] for kind, *words in lines if kind == "v"])
        corners = [words for kind, *words in lines if kind == "f"]
        faces = np.array([[int(word.split("/")[0]) - 1 - first for word in words] for words in corners])
        meshes[name] = vertices, faces
        first += len(vertices)
    return meshes


@pytest.mark.parametrize(("format", "read"), [("glb", read_glb), ("obj", read_obj)])
def test_meshes(clips, bodies, tmp_path: Path, format: str, read):
    one = clips[1].take(np.array([1]))
    write([one], tmp_path / f"x.{format}", bodies)
    meshes = read(tmp_path / f"x.{format}")
    assert set(meshes) == {"skin", "skeleton"}
    skel = bodies.skel("female")
    posed = skel(*(torch.from_numpy(v) for v in (one.q, one.betas, one.transl)), skeleton=True)
    turn = np.array(UPRIGHT["camera"], np.float32)
    for name, vertices, faces in (
        ("skin", posed.vertices, skel.faces),
        ("skeleton", posed.skeleton_vertices, skel.skeleton_faces),
    ):
        np.testing.assert_allclose(meshes[name][0], vertices[0].numpy() @ turn.T, atol=1e-5)
        assert (meshes[name][1] == faces).all()
    assert meshes["skin"][0][411, 1] > meshes["skin"][0][3387, 1]  # a head above a heel: y is up


def test_a_folder_gets_a_file_per_clip_or_input(clips, bodies, tmp_path: Path):
    assert sorted(p.name for p in write(clips, tmp_path / "t", bodies)) == ["photos.parquet", "walk.parquet"]
    mots = write(clips, tmp_path / "m", bodies, "mot")
    assert [p.name for p in mots] == ["walk.mot", "photos_000000.mot", "photos_000001.mot", "photos_000002.mot"]
    assert all(len(read_mot(path)[2]) == (6 if path.name == "walk.mot" else 1) for path in mots)
    objs = write([clips[0].take(np.array([1, 4]))], tmp_path / "g", bodies, "obj")
    assert [p.name for p in objs] == ["walk_000001.obj", "walk_000004.obj"]


def test_our_parquet_is_read_back(clips, bodies, tmp_path: Path):
    write(clips, tmp_path / "x.parquet", bodies)
    again = read_clips(tmp_path / "x.parquet", ReadOptions())
    assert [clip.name for clip in again] == ["walk", "photos"]
    for one, other in zip(again, (clip.smpl for clip in clips), strict=True):
        assert (one.pose == other.pose).all()
        assert (one.betas == other.betas).all()
        assert (one.moving, one.frame, one.frame_rate) == (other.moving, other.frame, other.frame_rate)
        assert one.number.tolist() == other.number.tolist()
    with pytest.raises(UserError, match=r"in metres and radians. Leave --lengths and --angles out"):
        read_clips(tmp_path / "x.parquet", ReadOptions(units=Units("cm")))
    write(clips, tmp_path / "j.parquet", bodies, joints=True)
    with pytest.raises(UserError, match=r"no column smpl_pose.*without --joints"):
        read_clips(tmp_path / "j.parquet", ReadOptions())


@pytest.mark.parametrize(
    ("out", "format", "joints", "message"),
    [
        ("x.mot", None, False, r"holds one person's motion, and the input has 4.*--frames"),
        ("x.glb", None, False, r"holds one person's motion, and the input has 4.*--frames"),
        ("x.obj", None, False, r"holds one frame, and the input has 9.*--frames"),
        ("x.mot", "npz", False, r"is a \.mot, but --format is npz"),
        ("x.bvh", None, False, r"unknown format 'bvh'. Expected \.parquet, \.npz, \.osim, \.mot"),
        ("x.mot", None, True, r"--joints writes parquet or npz, not mot"),
    ],
)
def test_outputs_that_cannot_be(clips, bodies, tmp_path: Path, out: str, format, joints: bool, message: str):
    with pytest.raises(UserError, match=message):
        write(clips, tmp_path / out, bodies, format, joints)
    assert not any(tmp_path.iterdir())


def test_what_is_not_known_is_asked_for(clips, bodies, tmp_path: Path):
    clip = clips[0]
    unknown = replace(clip, smpl=replace(clip.smpl, frame=None))
    for format in ("mot", "glb"):
        with pytest.raises(UserError, match=r"which way is up.*stand as in a y-up frame.*--frame camera"):
            write([unknown], tmp_path / "out", bodies, format)
    timeless = replace(clip, smpl=replace(clip.smpl, frame_rate=None))
    with pytest.raises(UserError, match=r"how many frames a second.*--frame-rate"):
        write([timeless], tmp_path / "x.mot", bodies)
    many = replace(clips[1], smpl=clips[1].smpl.take(np.zeros(3000, int)))
    with pytest.raises(UserError, match=r"3,000 \.glb files; at most 2,000"):
        Destination.of(str(tmp_path / "out"), "glb", False).check([many.smpl])


def test_names_out_of_files_stay_in_the_folder(clips, bodies, tmp_path: Path):
    bad = [replace(clips[0].smpl, file="walk", name=name) for name in ("walk/../../x", "walk\\..\\x", "/etc/x\n")]
    plain = with_unique_names([bad])
    assert [clip.name for clip in plain] == ["walk_.._.._x", "walk_.._x", "walk_etc_x_"]
    escaping = replace(clips[0], smpl=replace(clips[0].smpl, name="../../x"))
    with pytest.raises(UserError, match=r"'\.\./\.\./x' is no name for a file"):
        list(Destination.of(str(tmp_path / "a" / "b"), "mot", False).write([escaping], bodies))
    assert not list(tmp_path.rglob("*.mot"))
