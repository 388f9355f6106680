from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hmr_skel.errors import UserError
from hmr_skel.open_data.appearance import Wardrobe
from hmr_skel.open_data.images import make_images, read_labels, render_rows

ROWS = [0, 1, 60, 130]


@pytest.fixture(scope="module")
def some(label_set):
    return {name: column[ROWS] for name, column in read_labels(label_set.path).items()}


@pytest.fixture(scope="module")
def pictures(some, smpl):
    return render_rows(some, smpl, Wardrobe.of(smpl))


def vertex_pixels(labels, smpl):
    pose, betas, transl = (torch.from_numpy(labels[k]) for k in ("pose_cam", "shape", "trans_cam"))
    with torch.no_grad():
        vertices = smpl(pose[:, :3], pose[:, 3:].unflatten(1, (23, 3)), betas, transl).vertices.numpy()
    homogeneous = np.einsum("nij,npj->npi", labels["cam_int"].astype(float), vertices)
    return homogeneous[..., :2] / homogeneous[..., 2:]


def test_the_body_is_where_its_labels_project_to(some, smpl, pictures):
    """With the body behind the camera, light, background and grain stay: what changes is the silhouette."""
    away = some | {"trans_cam": some["trans_cam"] + np.array([0, 0, -500], np.float32)}
    empty = render_rows(away, smpl, Wardrobe.of(smpl))
    pixels = vertex_pixels(some, smpl)
    for i, (with_body, without) in enumerate(zip(pictures, empty, strict=True)):
        changed = (np.abs(with_body.astype(int) - without) > 6).any(-1)
        rows, columns = np.nonzero(changed)
        found = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
        limit = np.array(with_body.shape[1::-1]) - 1
        expected = np.concatenate((pixels[i].min(0).clip(0), np.minimum(pixels[i].max(0), limit)))
        assert np.abs(found - expected).max() <= 2, (i, found, expected)

        hull = np.zeros(changed.shape, np.uint8)
        for triangle in pixels[i][smpl.faces]:
            cv2.fillConvexPoly(hull, np.round(triangle * 16).astype(np.int32), 1, shift=4)
        overlap = (changed & hull).sum() / (changed | hull).sum()
        assert overlap > 0.93, (i, overlap)


@pytest.fixture
def four(label_set, tmp_path) -> Path:
    """A label file of four rows."""
    np.savez(tmp_path / "labels.npz", **{name: column[:4] for name, column in label_set.columns.items()})
    return tmp_path / "labels.npz"


def test_files_are_made_once_and_only_where_missing(label_set, four, open_body_dir, tmp_path_factory):
    names, tmp_path = label_set.columns["imgname"], tmp_path_factory.mktemp("images")
    seen: list[int] = []
    assert make_images(four, tmp_path, open_body_dir, workers=1, progress=seen.append) == 4
    assert seen[-1] == 4
    files = {name: (tmp_path / name).read_bytes() for name in names[:4]}
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(files)

    (tmp_path / names[3]).unlink()
    (tmp_path / names[2]).write_bytes(b"somebody's own picture")
    assert make_images(four, tmp_path, open_body_dir, workers=1) == 1
    again, before = (cv2.imdecode(np.frombuffer(data, np.uint8), 1).astype(int) for data in (
        (tmp_path / names[3]).read_bytes(), files[names[3]]
    ))  # fmt: skip
    assert np.abs(again - before).max() <= 4  # skinning rounds differently by how many are posed together
    assert (tmp_path / names[2]).read_bytes() == b"somebody's own picture"


@pytest.mark.slow
def test_workers_make_the_same_pictures(label_set, four, pictures, open_body_dir, forks, tmp_path, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_context", lambda method: forks)
    monkeypatch.setattr("hmr_skel.open_data.images._ROWS_PER_TASK", 2)
    assert make_images(four, tmp_path, open_body_dir, workers=2) == 4
    for name, picture in zip(label_set.columns["imgname"], pictures[:2], strict=False):
        written = cv2.imread(str(tmp_path / name))[..., ::-1].astype(int)
        assert np.abs(written - picture).mean() < 4  # a JPEG of it


def test_a_broken_label_file_is_the_users_to_mend(open_body_dir, tmp_path):
    path = tmp_path / "labels.npz"
    with pytest.raises(UserError, match="no such label file"):
        make_images(path, tmp_path, open_body_dir)
    np.savez(path, imgname=np.array(["a.jpg"]))
    with pytest.raises(UserError, match="pose_cam"):
        make_images(path, tmp_path, open_body_dir)
