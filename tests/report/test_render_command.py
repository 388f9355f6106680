import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from hmr_skel.cli import main
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.load import load_shards
from hmr_skel.report.bodies import pose_row


@pytest.mark.parametrize("row", ["street/00000000", "given/00000001", "0"])
def test_a_picture_of_a_row(small, tmp_path, capsys, row):
    file = tmp_path / "new" / "x.png"
    command = ["render", str(small.folder), row, "--manifest", str(small.manifest), "--size", "96", "-o", str(file)]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == str(file)
    picture = cv2.imread(str(file))
    assert picture.shape == (96, 96, 3)
    assert (picture != picture[0, 0]).any(-1).mean() > 0.05


def test_over_the_rows_own_image(small, tmp_path):
    out = tmp_path / "x.png"
    command = ["render", str(small.folder), "street/00000002", "--manifest", str(small.manifest), "-o", str(out), "-q"]
    assert main([*command, "--view", "image", "--show", "annotation"]) == 0
    picture = cv2.imread(str(out))
    assert picture.shape == (300, 400, 3)
    drawn = (picture != 90).any(-1)
    # 1.7 m at 4 m with a focal length of 500 px, about the middle.
    rows, columns = np.nonzero(drawn)
    assert rows.max() - rows.min() == pytest.approx(1.7 * 500 / 4, abs=25)
    assert columns.mean() == pytest.approx(199.5, abs=10)


def test_views_are_sides_of_the_body(small, open_body_dir):
    """Wherever a person looks, the front of the body is turned to the viewer, about the vertical."""
    posed = pose_row(load_shards(small.folder), 0, Bodies(open_body_dir)).faced()
    assert posed.forward == pytest.approx([0, 0, -1], abs=0.3)
    for degrees in (-160, -90, 30, 100):
        turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
        meshes = {name: getattr(posed, name) @ turn.T for name in ("skin", "bones", "target", "forward")}
        faced = replace(posed, **meshes).faced()
        for name in meshes:
            np.testing.assert_allclose(getattr(faced, name), getattr(posed, name), atol=1e-5)
        assert np.abs(meshes["skin"] - posed.skin).max() > 0.1
    lying = replace(posed, forward=np.array([0.1, -1.0, 0.1]))
    assert lying.faced() is lying


def test_a_mesh_with_skin_and_skeleton_apart(small, tmp_path):
    out = tmp_path / "x.glb"
    row = small.table.slice(3, 1).to_pylist()[0]
    assert main(["render", str(small.folder), row["row_id"], "--manifest", str(small.manifest), "-o", str(out)]) == 0
    scene = trimesh.load(out)
    assert set(scene.geometry) == {"skin", "skeleton"}
    skin = scene.geometry["skin"].vertices
    assert skin.shape == (6890, 3)
    assert np.ptp(skin[:, 1]) == pytest.approx(1.7, abs=0.2)  # y up, metres
    assert skin[:, 2].mean() == pytest.approx(-row["skel_transl"][2], abs=0.2)  # in front of the camera


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("nobody -o x.png", "no row 'nobody' among 24. Expected a number from 0 to 23, or a row_id such as 'street/0"),
        ("24 -o x.png", "no row '24' among 24"),
        ("street/00000001 -o x.bmp", "unknown format '.bmp'. Expected .png, .jpg, .webp, .glb."),
        ("street/00000001 -o x.png --size 0", "--size 0: expected pixels from 16 to 8,192"),
        ("street/00000001 -o x.png", "Name it with --manifest"),
        ("given/00000001 -o x.png --show heat --manifest {toml}", "was annotated with SKEL and has no"),
        ("street/00000003 -o x.png --view image --manifest {toml}", "no image: 3.jpg is not there"),
    ],
)
def test_what_can_be_wrong(small, tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(small.folder), *arguments.format(toml=small.manifest).split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(re.escape(text), error), error
    assert not (tmp_path / "x.png").exists()
