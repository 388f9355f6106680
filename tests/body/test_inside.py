"""Bones inside the skin, on shapes whose distances are known."""

import numpy as np
import trimesh

from hmr_skel.body.inside import bones_outside


def test_distance_from_two_spheres_that_run_through_each_other():
    """What lies in both is inside, though the nearest surface faces it."""
    sphere = trimesh.creation.icosphere(subdivisions=3)
    centres = np.array([[5.0, 0, 0], [5.8, 0, 0]])
    skin = np.concatenate([sphere.vertices + centre for centre in centres])
    faces = np.concatenate([sphere.faces, sphere.faces + len(sphere.vertices)])
    points = np.random.default_rng(0).uniform((3.5, -1.5, -1.5), (7.3, 1.5, 1.5), (400, 3))
    gaps = np.linalg.norm(points[:, None] - centres, axis=2) - 1
    assert ((gaps < -0.02).all(1)).sum() > 10  # in both
    found = bones_outside(points, skin, faces)
    np.testing.assert_allclose(found, gaps.min(1).clip(0), atol=0.008)  # flat faces: up to 8 mm below a sphere of 1 m
    assert (found[gaps.min(1) < -0.01] == 0).all()
