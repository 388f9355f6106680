import numpy as np
import pytest
import torch

from hmr_skel.open_data import cameras

NUM = 400


@pytest.fixture(scope="module")
def views() -> cameras.Views:
    return cameras.draw_views(np.random.default_rng(4), NUM)


@pytest.fixture(scope="module")
def points(views) -> torch.Tensor:
    """Person-sized clouds about an origin of their own, in camera orientation."""
    rng = np.random.default_rng(5)
    cloud = torch.from_numpy(rng.uniform(-1, 1, (NUM, 200, 3)) * (0.3, 0.85, 0.2) + (0.1, -0.2, 0.05))
    return cloud @ views.rotation_cam_world.mT


def test_fields_of_view_span_their_range(views):
    half = views.image_size.amax(1) / 2 / views.cam_int[:, 0, 0]
    fov = np.degrees(2 * np.arctan(half.numpy()))
    assert fov.min() >= 35
    assert fov.max() <= 75
    assert fov.min() < 37
    assert fov.max() > 73
    up_in_camera = views.rotation_cam_world[:, :, 1]
    assert (up_in_camera[:, 1] < -0.7).all()  # people stand upright; y is down in the camera


def test_bodies_are_where_the_views_want_them(views, points):
    transl = cameras.place(points, views)
    in_front = points + transl[:, None]
    assert in_front[..., 2].min() > cameras.MIN_DEPTH - 1e-6
    pixels = cameras.project(in_front, views.cam_int)
    low, high = pixels.amin(1), pixels.amax(1)
    extent = ((high - low) / views.image_size).amax(1)
    assert (extent / views.fill - 1).abs().median() < 1e-3
    assert ((extent / views.fill - 1).abs() < 0.05).float().mean() > 0.97

    inside = ((low > 0) & (high < views.image_size - 1)).all(1)
    cut = (views.cut != 0).any(1)
    assert inside[~cut].float().mean() > 0.99
    assert not inside[cut].any()
    beyond = torch.maximum(-low, high - views.image_size).amax(1) / (high - low).amax(1)
    assert (beyond[cut] < 0.35).all()
