import json

import numpy as np
import pytest
import torch
import trimesh

from hmr_skel.body.skel import Skel
from hmr_skel.report.bodies import MOST_PICKS, PosedRow
from hmr_skel.report.viewer import MOST_VERTICES, pack_faces, pack_scene, thin_bones

FINE = 60_000  # more than the page may hold; the licensed body has 247,000


@pytest.fixture(scope="module")
def fine(open_body_dir) -> Skel:
    """With bone meshes finer than the licensed body's."""
    skel = Skel.load(open_body_dir / "skel_male.pkl")
    points, faces, bone = skel.bone_template.numpy(), skel.skeleton_faces, skel.bone_weights_rigid.argmax(1).numpy()
    while len(points) < FINE:
        points, faces, more = trimesh.remesh.subdivide(points, faces, vertex_attributes={"bone": bone[:, None]})
        bone = more["bone"][:, 0]  # of both ends of an edge the same
    skel.bone_template, skel.skeleton_faces = torch.from_numpy(points).float(), faces
    skel.bone_weights_rigid = torch.nn.functional.one_hot(torch.from_numpy(bone).long(), 24).float()
    return skel


def test_a_fine_skeleton_fits_into_the_page(fine):
    kept, faces = thin_bones(fine)
    assert MOST_VERTICES / 2 < len(kept) <= MOST_VERTICES
    assert len(np.unique(kept)) == len(kept)
    assert np.isin(np.arange(len(kept)), faces).mean() > 0.95
    # Every vertex has one of the same bone beside it, and the surface is as large as before.
    points, bone = fine.bone_template.numpy(), fine.bone_weights_rigid.argmax(1).numpy()
    for number in np.unique(bone):
        own = kept[bone[kept] == number]
        apart = np.linalg.norm(points[bone == number][::50, None] - points[own][None], axis=2).min(1)
        assert apart.max() < 0.01
    area = [
        trimesh.Trimesh(*mesh, process=False).area for mesh in ((points, fine.skeleton_faces), (points[kept], faces))
    ]
    assert area[1] == pytest.approx(area[0], rel=0.1)
    posed = PosedRow(
        {}, np.random.default_rng(0).normal(size=(6890, 3)), points, np.zeros((6890, 3)), np.array([0.0, 0.0, -1.0])
    )
    size = len(json.dumps(pack_scene("", posed, kept, []))) * MOST_PICKS + 2 * len(json.dumps(pack_faces(fine, faces)))
    assert size < 6e6
