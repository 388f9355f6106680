"""What the viewer plays, and the meshes that it sends."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from hmr_skel.convert.fit import Bodies
from hmr_skel.data.load import load_shards
from hmr_skel.errors import UserError
from hmr_skel.report.bodies import pose_row
from hmr_skel.view.tracks import Poser, find_tracks, held_dofs
from tests.built_dataset import BuiltDataset


def test_rows_of_a_dataset_are_a_track_for_each_source(built_dataset: BuiltDataset):
    table = load_shards(built_dataset.data)
    (track,) = find_tracks(table)
    assert (track.name, track.rate, track.up) == ("open", None, "-y")
    np.testing.assert_array_equal(track.rows, np.arange(len(table)))


def test_a_row_is_what_the_report_shows(built_dataset: BuiltDataset):
    table, bodies = load_shards(built_dataset.data), Bodies(built_dataset.data / "body_models")
    shown, expected = Poser(table, bodies)(5), pose_row(table, 5, bodies)
    for mesh, name in ((shown.skin, "skin"), (shown.bones, "bones"), (shown.target, "target")):
        np.testing.assert_allclose(mesh, getattr(expected, name), atol=1e-6)


def test_a_clip_has_its_frame_rate_and_its_up_and_is_drawn_on_its_body(tmp_path, open_body_dir, monkeypatch, capsys):
    poses = np.zeros((4, 24, 3), np.float32)
    poses[:, 18, 1], poses[:, 0, 0] = np.linspace(0, 0.5, 4), np.pi / 2  # upright, z being up
    arrays = {"poses": poses.reshape(4, 72), "betas": np.zeros(10), "trans": np.zeros((4, 3)), "gender": "male"}
    np.savez(tmp_path / "walk.npz", mocap_framerate=60.0, **arrays)
    from hmr_skel.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMR_SKEL_DATA", str(tmp_path))
    monkeypatch.setenv("HMR_SKEL_BODY_MODELS", "nowhere")
    (tmp_path / "open").mkdir()
    (tmp_path / "open/body_models").symlink_to(open_body_dir)
    assert main(["convert", "walk.npz", "-o", "walk.parquet", "-q", "--body-models", "open"]) == 0
    (track,) = find_tracks(load_shards(tmp_path / "walk.parquet"))
    assert (len(track.rows), track.rate, track.up) == (4, 60.0, "+y")  # AMASS has z up; clips are turned
    assert main(["render", "walk.parquet", "2", "-o", "x.png", "--view", "back"]) == 0  # the file knows its body
    rows, columns = np.nonzero((cv2.imread("x.png")[..., 0] < 200) & (cv2.imread("x.png")[..., 2] < 200))
    assert np.ptp(columns[rows < rows.mean()]) > 2 * np.ptp(columns[rows > rows.mean()])  # arms are above legs

    bare = pq.read_table("walk.parquet").replace_schema_metadata(None)
    pq.write_table(bare, "bare.parquet")
    assert main(["render", "bare.parquet", "2", "-o", "x.glb"]) == 2
    assert "no body model nowhere" in capsys.readouterr().err
    monkeypatch.delenv("HMR_SKEL_BODY_MODELS")
    assert main(["render", "bare.parquet", "2", "-o", "x.glb"]) == 0
    assert "does not say which body it is of; using the open body" in capsys.readouterr().err


def test_a_table_without_skel_is_a_clear_message(built_dataset: BuiltDataset):
    with pytest.raises(UserError, match=r"no columns skel_q.*hmr-skel convert"):
        find_tracks(load_shards(built_dataset.data, columns=["imgname", "skel_betas", "skel_transl", "skel_gender"]))


def test_dofs_at_a_limit_are_named():
    q = np.full(46, 0.1)
    q[6] = 0.0  # a straight knee
    assert held_dofs(q) == [(6, 0.0)]
