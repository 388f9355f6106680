import zipfile

import numpy as np
import pytest
import torch

from hmr_skel.body.joints import OPENPOSE_25_FROM_SMPL_45, SMPL_VERTEX_IDS
from hmr_skel.open_data.labels import ROWS_PER_CHUNK, make_labels
from hmr_skel.open_data.motion import FRAMES_PER_CLIP


@pytest.fixture(scope="module")
def smplx_model(open_body_dir):
    """smplx's own forward pass on our file: nothing of ours between the labels and the mesh."""
    from smplx import SMPL
    from smplx.utils import Struct

    from hmr_skel.body.assets import load_smpl_arrays

    path = open_body_dir / "SMPL_NEUTRAL.pkl"
    return SMPL(str(path), data_struct=Struct(**load_smpl_arrays(path)), num_betas=10, batch_size=1)


def read(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def smplx_output(model, columns, rows):
    pose, betas, transl = (torch.from_numpy(columns[k][rows]) for k in ("pose_cam", "shape", "trans_cam"))
    with torch.no_grad():
        return model(global_orient=pose[:, :3], body_pose=pose[:, 3:], betas=betas, transl=transl)


def project(points, cam_int):
    homogeneous = np.einsum("nij,npj->npi", cam_int.astype(np.float64), points.astype(np.float64))
    return homogeneous[..., :2] / homogeneous[..., 2:]


def test_columns_are_camerahmrs(label_set):
    expected = {
        "center": (2,), "scale": (), "pose_cam": (72,), "shape": (10,), "trans_cam": (3,), "cam_int": (3, 3),
        "gtkps": (44, 3),
    }  # fmt: skip
    assert set(label_set.columns) == {*expected, "imgname"}
    for name, shape in expected.items():
        column = label_set.columns[name]
        assert column.shape == (label_set.rows, *shape), name
        assert column.dtype == np.float32, name
        assert np.isfinite(column).all(), name
    assert label_set.columns["imgname"].dtype.kind == "U"
    assert len(set(label_set.columns["imgname"].tolist())) == label_set.rows
    with zipfile.ZipFile(label_set.path) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_same_seed_same_bytes_and_longer_sets_begin_with_shorter_ones(label_set, open_body_dir, tmp_path):
    assert label_set.progress == [ROWS_PER_CHUNK, label_set.rows]
    shorter, other = tmp_path / "shorter" / "labels.npz", tmp_path / "other" / "labels.npz"
    make_labels(shorter, ROWS_PER_CHUNK - 7, label_set.seed, open_body_dir)
    make_labels(other, ROWS_PER_CHUNK - 7, label_set.seed, open_body_dir)
    assert other.read_bytes() == shorter.read_bytes()
    for name, column in read(shorter).items():
        np.testing.assert_array_equal(column, label_set.columns[name][: ROWS_PER_CHUNK - 7], err_msg=name)
    make_labels(other, 10, label_set.seed + 1, open_body_dir)
    assert not np.allclose(read(other)["pose_cam"], label_set.columns["pose_cam"][:10])


def test_boxes_hold_the_projected_body(label_set, smplx_model):
    rows = slice(0, None, 15)
    columns = label_set.columns
    vertices = smplx_output(smplx_model, columns, rows).vertices.numpy()
    assert vertices[..., 2].min() > 0.75
    pixels = project(vertices, columns["cam_int"][rows])
    low, high = pixels.min(1), pixels.max(1)
    side = 200 * columns["scale"][rows]
    np.testing.assert_allclose((low + high) / 2, columns["center"][rows], atol=0.02)
    margin = side / (high - low).max(1)
    assert (margin > 1.1 - 1e-3).all()
    assert (margin < 1.2 + 1e-3).all()
    # A 256x256 crop hardly ever enlarges: only where keeping the distance of 0.8 m makes a body seen end-on small.
    assert (columns["scale"] * 200 >= 256).mean() > 0.99
    assert 0.85 < (columns["gtkps"][..., 2] == 1).all(1).mean() < 1  # most bodies are inside the picture


def test_keypoints_by_smplx(label_set, smplx_model, open_body_dir):
    rows = slice(3, None, 40)
    columns = label_set.columns
    output = smplx_output(smplx_model, columns, rows)
    vertices = output.vertices.numpy()
    j45 = np.concatenate((output.joints.numpy()[:, :24], vertices[:, list(SMPL_VERTEX_IDS)]), 1)
    regressor = np.load(open_body_dir / "SMPL_to_J19.pkl", allow_pickle=True)
    points = np.concatenate((j45[:, list(OPENPOSE_25_FROM_SMPL_45)], np.asarray(regressor) @ vertices), 1)
    pixels = project(points, columns["cam_int"][rows])
    keypoints = columns["gtkps"][rows]
    np.testing.assert_allclose(keypoints[..., :2], pixels, atol=0.02)
    size = 2 * columns["cam_int"][rows, None, :2, 2]
    inside = ((pixels >= 0) & (pixels <= size - 1)).all(-1)
    np.testing.assert_array_equal(keypoints[..., 2], inside)


def test_a_clip_is_one_person(label_set):
    persons = label_set.columns["shape"][: 8 * FRAMES_PER_CLIP].reshape(8, FRAMES_PER_CLIP, 10)
    assert (persons == persons[:, :1]).all()
    assert len(np.unique(persons[:, 0], axis=0)) == 8
