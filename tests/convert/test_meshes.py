"""Meshes as the input, and bodies that become meshes: SMPL-X and STAR."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
import trimesh
from scipy.spatial.transform import Rotation

from hmr_skel import load_shards
from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.other import OtherBody, find_map
from hmr_skel.body.smpl import Smpl
from hmr_skel.cli import main
from hmr_skel.convert.clips import UPRIGHT
from hmr_skel.errors import UserError
from tests.convert import layouts
from tests.convert.conftest import FRAMES, walk

V = 6950  # of the stand-in for SMPL-X: SMPL's, shuffled, and some more
LEFT, RIGHT = 25, 40  # the first joints of SMPL-X's hands, which take the part of SMPL's


@pytest.fixture(scope="module")
def smpl(open_body_dir: Path) -> Smpl:
    return Smpl.load(open_body_dir / "SMPL_NEUTRAL.pkl")


@pytest.fixture(scope="module")
def truth(smpl: Smpl) -> dict[str, np.ndarray]:
    """A walk in y-up, hands at rest, and its meshes."""
    made = walk(up="y-up")
    made["pose"][:, 22:] = 0
    made["betas"][10:] = 0
    pose, betas, transl = (torch.tensor(made[key], dtype=torch.float32) for key in ("pose", "betas", "transl"))
    vertices = smpl(pose[:, 0], pose[:, 1:], betas[None, :10].expand(FRAMES, 10), transl).vertices
    return made | {"vertices": vertices.numpy()}


@pytest.fixture(scope="module")
def with_smplx(smpl: Smpl, open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The open body's folder with an SMPL-X in the official layout, and the map from there."""
    folder = tmp_path_factory.mktemp("bodies") / "models"
    shutil.copytree(open_body_dir, folder)
    rng = np.random.default_rng(0)
    of = np.concatenate((rng.permutation(6890), rng.integers(0, 6890, V - 6890)))  # SMPL's vertex of each
    joint = np.array([*range(22), 15, 15, 15, *[22] * 15, *[23] * 15])  # SMPL's joint of each
    own = [*range(22), LEFT, RIGHT]
    weights = np.zeros((V, 55), np.float32)
    weights[:, own] = smpl.weights.numpy()[of]
    posedirs = np.zeros((V, 3, 54, 9), np.float32)
    posedirs[:, :, [j - 1 for j in own[1:]]] = smpl.posedirs.numpy().reshape(23, 9, 6890, 3).transpose(2, 3, 0, 1)[of]
    regressor = np.zeros((55, V), np.float32)
    regressor[:, np.argsort(of[:6890])] = smpl.joint_regressor.numpy()[joint]
    parents = np.array(
        [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15, *[0] * 30]
    )
    parents[25:] = [parent for wrist, first in ((20, 25), (21, 40)) for f in range(5) for parent in
                    (wrist, first + 3 * f, first + 3 * f + 1)]  # fmt: skip
    shapedirs = smpl.shapedirs.numpy().reshape(10, 6890, 3).transpose(1, 2, 0)[of]
    expressions = np.zeros((V, 3, 10), np.float32)
    hands = {
        f"hands_{name}{side}": np.zeros(shape, np.float32)
        for side in "lr"
        for name, shape in (("mean", 45), ("components", (45, 45)))
    }
    np.savez(
        folder / "SMPLX_NEUTRAL.npz", v_template=smpl.template.numpy()[of], weights=weights, J_regressor=regressor,
        posedirs=posedirs.reshape(V, 3, 486), shapedirs=np.concatenate((shapedirs, expressions), 2),
        kintree_table=np.stack((parents, np.arange(55))), f=np.zeros((1, 3), np.int64), **hands,
    )  # fmt: skip
    matrix = scipy.sparse.csc_matrix((np.ones(6890), (of[:6890], np.arange(6890))), shape=(6890, 2 * V))
    (folder / "smplx2smpl_deftrafo_setup.pkl").write_bytes(pickle.dumps({"mtx": matrix}))
    return folder


def smpl_file(truth: dict) -> dict:
    poses = truth["pose"].reshape(FRAMES, 72)
    return {"poses": poses, "trans": truth["transl"], "betas": truth["betas"], "gender": "neutral", "fps": 30.0}


def obj(vertices: np.ndarray) -> str:
    return "# a body\n" + "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in vertices) + "f 1 2 3\n"


def ply(vertices: np.ndarray) -> bytes:
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\nproperty float x\nproperty float y\n"
    head += "property float z\nproperty uchar red\nelement face 0\nproperty list uchar int vertex_indices\nend_header\n"
    table = np.zeros(len(vertices), [("p", "<f4", 3), ("red", "u1")])
    table["p"] = vertices
    return head.encode() + table.tobytes()


def convert(source: Path, out: Path, bodies: Path, *more: str) -> dict[str, np.ndarray]:
    assert main(["convert", str(source), "-o", str(out), "--body-models", str(bodies), "-q", *more]) == 0
    shards = load_shards(out)
    return {
        name: shards[name]
        for name in ("skel_q", "skel_betas", "skel_transl", "v2v_mm", "frame", "smpl_betas", "smpl_transl")
    }


@pytest.fixture(scope="module")
def by_parameters(truth, open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("smpl")
    np.savez(folder / "walk.npz", **smpl_file(truth))
    return convert(folder / "walk.npz", folder / "out.parquet", open_body_dir, "--rows", "frames", "--frame", "y-up")


@pytest.mark.parametrize("kind", ["npz", "npy in cm", "obj", "ply", "smplx", "gvhmr", "z-up"])
def test_meshes_come_out_as_their_parameters_do(truth, by_parameters, with_smplx: Path, tmp_path: Path, kind: str):
    source, more = tmp_path / "walk", ["--frame", "y-up"]
    if kind == "npz":
        np.savez(source := tmp_path / "walk.npz", vertices=truth["vertices"], fps=30.0)
    elif kind == "npy in cm":
        np.save(source := tmp_path / "walk.npy", truth["vertices"] * 100)
        more += ["--lengths", "cm"]
    elif kind == "z-up":  # turned after it was read
        np.savez(source := tmp_path / "walk.npz", vertices=truth["vertices"] @ np.array(UPRIGHT["z-up"], np.float32))
        more = ["--frame", "z-up", "--frame-rate", "30"]
    elif kind == "smplx":
        np.savez(source := tmp_path / "walk.npz", **layouts.amass_smplx(truth))
    elif kind == "gvhmr":
        person = {key: truth[key] for key in ("pose", "betas", "transl")}
        torch.save(layouts.gvhmr(person, person), source := tmp_path / "hmr4d_results.pt")
        more += ["--which", "global"]
    else:
        source.mkdir()
        for number, vertices in enumerate(truth["vertices"]):
            content = obj(vertices).encode() if kind == "obj" else ply(vertices)
            (source / f"{number:06d}.{kind}").write_bytes(content)
    found = convert(source, tmp_path / "out.parquet", with_smplx, *more)
    assert found["frame"].tolist() == list(range(FRAMES))
    assert abs(found["v2v_mm"].mean() - by_parameters["v2v_mm"].mean()) < 0.3
    np.testing.assert_allclose(found["skel_transl"], by_parameters["skel_transl"], atol=0.01)
    assert np.abs(found["skel_q"] - by_parameters["skel_q"]).mean() < 0.03
    assert (found["skel_betas"] == found["skel_betas"][0]).all()


def test_what_a_mesh_cannot_be(truth, open_body_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Each ends in one line that says what to do; nothing is written."""
    shuffled = truth["vertices"][:2, np.random.default_rng(0).permutation(6890)]
    cases = {
        "mm": (truth["vertices"][:2] * 1000, [], "--lengths cm or --lengths mm"),
        "order": (shuffled, [], "vertices in SMPL's order"),
        "map": (np.concatenate((truth["vertices"][:2], truth["vertices"][:2]), 1), [], r"13,780 vertices need a map"),
        "smooth": (truth["vertices"][:3], ["--smooth", "6", "--frame-rate", "30"], "--smooth"),
    }
    for name, (vertices, more, text) in cases.items():
        np.savez(tmp_path / f"{name}.npz", vertices=vertices)
        command = ["convert", str(tmp_path / f"{name}.npz"), "-o", str(tmp_path / "out.parquet"), *more]
        assert main([*command, "--body-models", str(open_body_dir)]) == 2
        assert text in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", **layouts.amass_smplx(truth))
    command = ["convert", str(tmp_path / "x.npz"), "-o", str(tmp_path / "out.parquet")]
    assert main([*command, "--body-models", str(open_body_dir)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in ("SMPLX_NEUTRAL.npz", "smplx2smpl_deftrafo_setup.pkl", "smpl-x.is.tue.mpg.de"))
    assert not (tmp_path / "out.parquet").exists()


def test_maps_in_every_form(tmp_path: Path):
    """Dense and sparse, of numpy, scipy and torch; by the number of vertices; weights that are none are told."""
    dense = np.random.default_rng(0).dirichlet(np.ones(5), 6890).astype(np.float32)
    with_normals = scipy.sparse.csr_matrix(np.concatenate((dense, dense), 1))
    write = {
        "a2smpl.pkl": lambda path: path.write_bytes(pickle.dumps({"matrix": with_normals.tocoo()})),
        "b2smpl.npz": lambda path: scipy.sparse.save_npz(path, scipy.sparse.csc_matrix(dense)),
        "c2smpl.npz": lambda path: np.savez(path, mtx=dense),
        "d2smpl_sparse.pt": lambda path: torch.save(torch.tensor(dense).to_sparse(), path),
        "e2smpl.npy": lambda path: np.save(path, dense),
    }
    for name, make in write.items():
        make(tmp_path / name)
        np.testing.assert_allclose(find_map(tmp_path, 5, "x").to_dense().numpy(), dense)
        with pytest.raises(UserError, match=rf"x: meshes of 7 vertices.* has only {name}, for other numbers"):
            find_map(tmp_path, 7, "x")
        (tmp_path / name).unlink()
    corners, weights = dense.argsort(1)[:, :3], np.tile(np.array([0.5, 0.3, 0.2], np.float32), (6890, 1))  # as MHR's
    faces, triangle = np.unique(corners, axis=0, return_inverse=True)
    np.savez(tmp_path / "mhr2smpl_mapping.npz", triangle_ids=triangle, baryc_coords=weights)
    with pytest.raises(UserError, match=r"Put mhr_face_mask\.ply"):
        find_map(tmp_path, 5, "x")
    trimesh.Trimesh(np.eye(5, 3), faces, process=False).export(tmp_path / "mhr_face_mask.ply")
    found, points = find_map(tmp_path, 5, "x"), torch.rand(5, 3)
    expected = (points.numpy()[corners] * weights[..., None]).sum(1)
    np.testing.assert_allclose((found @ points).numpy(), expected, rtol=1e-5)
    np.save(tmp_path / "f2smpl.npy", dense * 2)
    with pytest.raises(UserError, match=r"sum to 2\.00"):
        find_map(tmp_path, 5, "x")


def test_stars_correctives_are_linear_in_quaternions_and_the_second_beta(tmp_path: Path):
    """A mesh that hangs on the root alone: nothing but the correctives and the shape moves it."""
    rng = np.random.default_rng(2)
    raw = {"v_template": (9, 3), "shapedirs": (9, 3, 10), "posedirs": (9, 3, 93), "J_regressor": (24, 9)}
    raw = {name: rng.normal(size=shape) for name, shape in raw.items()}
    tree = np.stack((np.array([-1, *SMPL_PARENTS[1:]]), np.arange(24)))
    np.savez(tmp_path / "STAR_MALE.npz", weights=np.eye(24)[[0] * 9], kintree_table=tree, **raw)
    body = OtherBody.load(tmp_path / "STAR_MALE.npz", "star")
    pose, betas = rng.normal(size=(1, 24, 3)), rng.normal(size=(1, 10))
    pose[:, 0] = 0
    quaternion = Rotation.from_rotvec(pose[0, 1:]).as_quat(canonical=False) - [0, 0, 0, 1]
    feature = np.append(quaternion.ravel(), betas[0, 1])
    expected = raw["v_template"] + raw["shapedirs"] @ betas[0] + raw["posedirs"] @ feature
    found = body(*(torch.tensor(a, dtype=torch.float32) for a in (pose, betas, np.zeros((1, 0)), np.ones((1, 3)))))
    np.testing.assert_allclose(found[0], expected + 1, atol=2e-5)


def test_smplx_is_posed_as_smplx_does_it(with_smplx: Path):
    """Against smplx's own forward pass: hands, face, expression, betas of the stand-in and random ones."""

    rng = np.random.default_rng(1)
    raw = dict(np.load(with_smplx / "SMPLX_NEUTRAL.npz"))
    raw["shapedirs"] = rng.normal(0, 0.01, raw["shapedirs"].shape)
    raw["hands_meanl"], raw["hands_meanr"] = rng.normal(0, 0.1, (2, 45))
    np.savez(path := with_smplx.parent / "SMPLX_NEUTRAL.npz", **raw)
    body = OtherBody.load(path, "smplx")

    pose, betas, face = (
        torch.tensor(rng.normal(0, 0.3, s), dtype=torch.float32) for s in ((2, 55, 3), (2, 10), (2, 10))
    )
    from smplx.lbs import lbs

    template, regressor, weights, directions, posedirs = (
        torch.tensor(raw[key], dtype=torch.float32)
        for key in ("v_template", "J_regressor", "weights", "shapedirs", "posedirs")
    )
    body_of = template, directions, posedirs.reshape(V * 3, -1).T, regressor, torch.tensor(raw["kintree_table"][0])
    expected, _ = lbs(torch.cat((betas, face), 1), pose.reshape(2, -1), *body_of, weights)
    torch.testing.assert_close(body(pose, betas, face, torch.ones(2, 3)), expected + 1, rtol=0, atol=1e-5)
    np.testing.assert_allclose(body.hand_pose(None, 1, 2)[1], raw["hands_meanr"], rtol=1e-6)
