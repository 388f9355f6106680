"""The open body: what the packed asset holds, and that the exported files are what the models' own readers expect."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, csc_matrix

from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, load_skel_arrays, load_smpl_arrays
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.inside import MARGIN, bones_outside
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.body.open_body.unpack import ASSET, GENDERS, SKEL_GENDERS, OpenBody, unpack
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.convert.fit import Bodies
from hmr_skel.errors import UserError
from hmr_skel.open_data.motion import clip_motion, clip_rng
from tools.open_body import packing

HEIGHTS = {"neutral": 1.69, "male": 1.75, "female": 1.64}
MASSES = {"neutral": (57, 68), "male": (66, 80), "female": (51, 62)}
DENSITY = 1010.0

SCALING_PAIRS = (
    (410, 384, 2), (414, 384, 1), (196, 3708, 0), (6179, 6137, 1), (5670, 5906, 0), (3027, 3495, 2), (3027, 3506, 2),
)  # fmt: skip
"""SKEL's bone scales: two skin vertices and the coordinate of their difference."""


@pytest.fixture(scope="module")
def body() -> OpenBody:
    return unpack()


@pytest.fixture(scope="module")
def files(open_body_dir: Path) -> dict:
    """Every pickle of the export, read."""
    return {path.name: pickle.loads(path.read_bytes()) for path in open_body_dir.glob("*.pkl")}


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


# --- the asset ---


def test_the_asset_is_small_and_packing_it_again_changes_nothing(body, tmp_path):
    assert ASSET.stat().st_size < 2e6
    with np.load(ASSET, allow_pickle=False) as archive:
        number, num_left = archive["number"].astype(np.int64), int(archive["num_left"])
    again = tmp_path / "again.npz"
    packing.write(packing.pack(body, number, number, num_left), again)
    assert again.read_bytes() == ASSET.read_bytes()


def test_an_unreadable_asset_and_one_of_another_release_say_so(tmp_path):
    broken = tmp_path / "broken.npz"
    broken.write_bytes(ASSET.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot read the open body"):
        unpack(broken)
    with pytest.raises(UserError, match="cannot read the open body"):
        unpack(tmp_path / "missing.npz")
    np.savez(tmp_path / "old.npz", version=np.array("0"))
    with pytest.raises(UserError, match="version 0, expected"):
        unpack(tmp_path / "old.npz")


# --- the body ---


def test_the_skin_is_one_closed_oriented_sphere_of_smpls_size(body):
    faces = body.faces
    assert body.genders["male"].template.shape == (6890, 3)
    assert faces.shape == (13776, 3)
    assert np.array_equal(np.unique(faces), np.arange(6890))
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    codes = directed[:, 0] * 6890 + directed[:, 1]
    assert len(np.unique(codes)) == len(codes)  # each edge once in each direction: closed, manifold, oriented
    assert np.array_equal(np.sort(codes), np.sort(directed[:, 1] * 6890 + directed[:, 0]))
    assert 6890 - len(codes) // 2 + len(faces) == 2
    for one in body.genders.values():
        assert volume(one.template, faces) > 0.04  # outwards


def test_weights_and_regressors_are_convex(body):
    rows = [body.smpl_weights, body.skel_weights, body.j19_regressor, body.h36m_regressor, body.bone_weights]
    rows += [matrix for one in body.genders.values() for matrix in (one.smpl_regressor, one.skel_regressor)]
    for matrix in rows:
        assert (matrix >= 0).all()
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("gender", GENDERS)
def test_people_have_human_sizes(body, gender):
    one = body.genders[gender]
    assert np.ptp(one.template[:, 1]) == pytest.approx(HEIGHTS[gender], abs=0.02)
    low, high = MASSES[gender]
    assert low < DENSITY * volume(one.template, body.faces) < high
    for beta in range(10):
        masses = [DENSITY * volume(one.template + x * one.shapedirs[..., beta], body.faces) for x in (-3, 3)]
        assert 30 < min(masses) < max(masses) < 140


@pytest.mark.parametrize("gender", SKEL_GENDERS)
def test_the_two_pelvises_are_five_to_six_centimetres_apart(body, gender):
    one = body.genders[gender]
    gap = (one.smpl_regressor[0] - one.skel_regressor[0]) @ one.template
    assert 0.045 < np.linalg.norm(gap) < 0.065


def test_no_scaling_landmarks_share_a_coordinate(body):
    # SKEL divides whole difference vectors, then keeps one coordinate: 0/0 elsewhere makes its gradient NaN.
    betas = np.random.default_rng(2).normal(size=(50, 10)).clip(-3, 3)
    for gender in SKEL_GENDERS:
        one = body.genders[gender]
        for a, b, coordinate in SCALING_PAIRS:
            assert (abs(one.template[a] - one.template[b]) > 1e-4).all()
            apart = one.template[a] - one.template[b] + betas @ (one.shapedirs[a] - one.shapedirs[b]).T
            assert (apart[:, coordinate] / (one.template[a] - one.template[b])[coordinate] > 0.5).all()


@pytest.mark.parametrize("gender", SKEL_GENDERS)
def test_every_segment_has_bones_and_they_lie_in_the_skin(body, open_body_dir, gender):
    """At rest, and in twelve postures of as many people that the builder has not seen, drawn as the default set's."""
    assert set(body.bone_joint) == set(range(24))
    model, rng = Skel.load(open_body_dir / SKEL_FILES[gender]), np.random.default_rng(1)
    assert 15_000 < len(model.bone_template) < 25_000
    q = np.stack([clip_motion(clip_rng(1, clip), clip, 1).q[2] for clip in range(0, 39, 3)])
    betas = rng.standard_normal((len(q), 10))
    q[0], betas[0] = 0, 0
    posed = model(*(torch.from_numpy(a).float() for a in (q, betas)), torch.zeros(len(q), 3), skeleton=True)
    pairs = zip(posed.skeleton_vertices.numpy()[:, ::7], posed.vertices.numpy(), strict=True)
    shares = np.array([(bones_outside(bones, skin, model.faces) > MARGIN).mean() for bones, skin in pairs])
    assert shares[0] < 0.001
    assert shares.mean() < 0.005


# --- the files ---


def test_files_have_the_official_keys_and_types(files, open_body_dir):
    """Shapes are checked by our loaders, `load_smpl_arrays` and `load_skel_arrays`."""
    for name in SMPL_FILES.values():
        data = files[name]
        load_smpl_arrays(open_body_dir / name)
        assert type(data["J_regressor"]) is csc_matrix
        assert data["kintree_table"][0, 0] == 2**32 - 1
        assert data["J"].shape == (24, 3)
        assert (data["bs_style"], data["bs_type"]) == ("lbs", "lrotmin")
    for name in SKEL_FILES.values():
        data = files[name]
        load_skel_arrays(open_body_dir / name)
        # The official loader refuses every other sparse kind, `coo_array` among them.
        sparse = ("J_regressor", "J_regressor_osim", "skin_weights", "skel_weights", "skel_weights_rigid")
        assert all(type(data[key]) is coo_matrix for key in sparse)
        assert data["J_regressor"].shape == (24, 6890)
        assert data["apose_transfo"].shape == data["tpose_transfo"].shape == (24, 4, 4)
        assert data["osim_kintree_table"][0, 0] == -1
        assert (data["skel_weights_rigid"].toarray().max(1) == 1).all()
        assert tuple(data["pose_params_name"]) == DOF_NAMES
        assert tuple(data["joints_name"]) == tuple(data["bone_names"]) == SKEL_JOINTS
        assert "parameter_mapping" in data


def test_regressor_files(files, open_body_dir, body):
    assert files["J_regressor_SKEL_mix_MALE.pkl"].shape == files["J_regressor_SMPL_MALE.pkl"].shape == (24, 6890)
    h36m = np.load(open_body_dir / "J_regressor_h36m.npy", allow_pickle=False)
    assert h36m.shape == (17, 6890)
    skin = body.genders["neutral"].template
    j19 = files["SMPL_to_J19.pkl"] @ skin
    assert j19[0, 0] < 0 < j19[5, 0]  # ankles
    assert j19[13, 1] == pytest.approx(skin[:, 1].max(), abs=0.03)  # the head's top
    # The 14 LSP joints of both conventions are the same places.
    lsp = h36m[[6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]] @ skin
    np.testing.assert_allclose(lsp, j19[:14], atol=1e-4)
    with np.load(open_body_dir / "SKEL_mean.npz", allow_pickle=False) as mean:
        shapes = {key: (mean[key].shape, mean[key].dtype) for key in mean.files}
    assert shapes == {"poses": ((46,), np.float32), "betas": ((10,), np.float32), "cam": ((3,), np.float32)}


def test_open_names_the_open_body_in_python(open_body_dir: Path, tmp_path: Path, monkeypatch):
    """A folder or `open`, with a gender; where it is missing it is made (here it is a link to one that is there)."""
    monkeypatch.setenv("HMR_SKEL_DATA", str(tmp_path))
    (tmp_path / "open").mkdir()
    (tmp_path / "open/body_models").symlink_to(open_body_dir)
    for one, named in ((Skel, {"gender": "female"}), (Smpl, {"gender": "female"}), (Smpl, {})):
        name = {"Skel": SKEL_FILES, "Smpl": SMPL_FILES}[one.__name__][named.get("gender", "neutral")]
        expected = one.load(open_body_dir / name).template
        assert all(torch.equal(one.load(place, **named).template, expected) for place in ("open", open_body_dir))
    assert Bodies("open").folder == tmp_path / "open/body_models"
    with pytest.raises(UserError, match=r"gender is None\. Expected male or female"):
        Skel.load("open")
