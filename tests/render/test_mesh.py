import numpy as np
import pytest
import trimesh

from hmr_skel.render import Light, render_mesh

WIDTH, HEIGHT = 120, 90
CAM_INT = np.array([[100.0, 0, 60], [0, 100, 45], [0, 0, 1]])
WHITE = np.ones((1, 3))


@pytest.fixture(scope="module")
def sphere():
    mesh = trimesh.creation.icosphere(subdivisions=4)
    vertices = np.asarray(mesh.vertices) * (0.4, 0.7, 0.4) + (0.15, -0.1, 2.5)
    return vertices, np.asarray(mesh.faces)


def test_every_pixel_against_ray_casting(sphere):
    """An independent way to the same picture: embree's rays through the pixels' centres."""
    vertices, faces = sphere
    ours = render_mesh(vertices, faces, CAM_INT, WIDTH, HEIGHT, WHITE)
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack(((column - 60) / 100, (row - 45) / 100, np.ones_like(row)), -1).reshape(-1, 3)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points, ray, _ = mesh.ray.intersects_location(np.zeros_like(rays), rays, multiple_hits=False)
    depth = np.full(WIDTH * HEIGHT, np.inf)
    depth[ray] = points[:, 2]
    depth = depth.reshape(HEIGHT, WIDTH)
    assert (ours.mask != np.isfinite(depth)).sum() <= 2  # a ray through an edge of the silhouette may go either way
    both = ours.mask & np.isfinite(depth)
    assert both.sum() > 1000
    np.testing.assert_allclose(ours.depth[both], depth[both], atol=1e-5)


def test_the_nearer_surface_wins_whatever_the_order():
    square = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    near, far = square + np.array([0, 0, 2.0]), square * 2 + np.array([0, 0, 3.0])
    faces = np.array([[0, 3, 2], [0, 2, 1]])  # looking at the camera
    for vertices, near_first in ((np.concatenate((near, far)), True), (np.concatenate((far, near)), False)):
        drawn = render_mesh(vertices, np.concatenate((faces, faces + 4)), CAM_INT, WIDTH, HEIGHT, WHITE)
        assert drawn.depth[45, 60] == pytest.approx(2.0), near_first
        assert drawn.depth[45, 60 + 28] == pytest.approx(3.0), near_first


def test_colors_are_interpolated_in_perspective():
    """The middle of a plank that runs away from the camera is not the middle of its picture."""
    vertices = np.array([[-0.2, 0.5, 1.0], [0.2, 0.5, 1.0], [0.2, 0.5, 5.0], [-0.2, 0.5, 5.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    colors = np.repeat((vertices[:, 2:] - 1) / 4, 3, 1)
    light = Light(direction=(0.0, -1.0, 0.0), sun=1.0, sky=0.0, ground=0.0)
    drawn = render_mesh(vertices, faces, CAM_INT, WIDTH, HEIGHT, colors, light)
    for row in (60, 70, 85):
        z = 0.5 * 100 / (row - 45)
        assert drawn.depth[row, 60] == pytest.approx(z, rel=1e-4)
        assert drawn.rgb[row, 60] == pytest.approx((z - 1) / 4, abs=1e-3)


def test_outside_and_behind(sphere):
    vertices, faces = sphere
    partly = render_mesh(vertices + np.array([1.2, 0, 0]), faces, CAM_INT, WIDTH, HEIGHT, WHITE)
    assert partly.mask[:, -1].any()
    for away in ((50, 0, 0), (0, 0, -10)):
        empty = render_mesh(vertices + away, faces, CAM_INT, WIDTH, HEIGHT, WHITE)
        assert not empty.mask.any()
        assert np.isinf(empty.depth).all()
    background = np.full((HEIGHT, WIDTH, 3), 0.25, np.float32)
    np.testing.assert_array_equal(empty.over(background), background)
