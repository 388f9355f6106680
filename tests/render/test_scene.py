import numpy as np
import pytest
import trimesh

from hmr_skel.render import Camera, Light, Part, draw, heat_colors, mesh_part, overlay

FLAT = Light(sun=0.0, sky=1.0, ground=1.0)
"""Every surface has its own colour."""
CAMERA = Camera(np.array([[100.0, 0, 59.5], [0, 100.0, 44.5], [0, 0, 1]]), 120, 90)
FACES = np.array([[0, 3, 2], [0, 2, 1]])
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def wall(z: float, color: tuple[float, float, float], opacity: float = 1.0, half: float = 0.2, x: float = 0.0) -> Part:
    """A square that faces the camera."""
    corners = np.array([[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]]) + np.array([x, 0, z])
    return mesh_part(corners, FACES, color, opacity)


def at_centre(parts, **options) -> np.ndarray:
    return draw(parts, CAMERA, (1.0, 1.0, 1.0), light=FLAT, **options)[44, 59] / 255


@pytest.mark.parametrize("swap", [False, True])
def test_what_hides_what(swap):
    def both(*parts):
        return at_centre(parts[::-1] if swap else parts)

    half = wall(2.0, BLUE, 0.4)
    np.testing.assert_allclose(both(wall(2.0, RED), wall(3.0, BLUE)), RED, atol=0.01)
    # Blended over what is behind it, not over what is in front of it.
    np.testing.assert_allclose(both(half, wall(3.0, RED)), (0.6, 0, 0.4), atol=0.01)
    np.testing.assert_allclose(both(half, wall(1.5, RED)), RED, atol=0.01)
    np.testing.assert_allclose(at_centre([half]), (0.6, 0.6, 1.0), atol=0.01)  # over the white background


@pytest.mark.parametrize("swap", [False, True])
def test_shells_are_blended_from_far_to_near(swap):
    near, far = wall(2.0, BLUE, 0.5), wall(3.0, RED, 0.5)
    found = at_centre([near, far][:: -1 if swap else 1])
    np.testing.assert_allclose(found, (0.5, 0.25, 0.75), atol=0.01)  # 0.5 blue + 0.25 red + 0.25 white


def test_a_photograph_is_left_alone_where_nothing_is_drawn():
    photograph = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    before = photograph.copy()
    drawn = overlay(photograph, [wall(2.0, RED), wall(2.5, BLUE, 0.3)], CAMERA.cam_int)
    np.testing.assert_array_equal(photograph, before)
    changed = (drawn != photograph).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (35, 54, 50, 69)  # 20 px = 0.4 m / 2 m * 100
    for parts in ([], [wall(-2.0, RED)], [wall(2.0, RED, x=50.0)]):
        np.testing.assert_array_equal(overlay(photograph, parts, CAMERA.cam_int), photograph)


@pytest.mark.parametrize("supersample", [1, 3])
def test_an_overlay_is_where_the_camera_sees_it(supersample):
    """Intrinsics that are not centred, a picture that is not square: to a fiftieth of a pixel."""
    cam_int = np.array([[400.0, 0, 61.7], [0, 380.0, 120.2], [0, 0, 1]])
    sphere = trimesh.creation.icosphere(subdivisions=3)
    centre = np.array([0.21, -0.13, 4.0])
    part = mesh_part(np.asarray(sphere.vertices) * 0.1 + centre, np.asarray(sphere.faces), RED)
    drawn = draw([part], Camera(cam_int, 150, 200), (0.0, 0.0, 0.0), supersample, FLAT)[..., 0] / 255
    rows, columns = np.indices(drawn.shape)
    found = [(drawn * grid).sum() / drawn.sum() for grid in (columns, rows)]
    expected = cam_int[:2, :2].diagonal() * centre[:2] / centre[2] + cam_int[:2, 2]
    np.testing.assert_allclose(found, expected, atol=0.02 if supersample > 1 else 0.1)


def test_a_large_picture_is_drawn_in_bands(monkeypatch):
    parts = [wall(2.0, RED), wall(1.7, BLUE, 0.3, x=0.1)]
    whole = draw(parts, CAMERA)
    monkeypatch.setattr("hmr_skel.render.scene._MOST_SAMPLES", 1000)
    np.testing.assert_array_equal(draw(parts, CAMERA), whole)


def test_heat_has_ends_and_darkens_steadily():
    colors = heat_colors(np.array([-1.0, 0.0, 5.0, 10.0, 99.0]), 10.0)
    np.testing.assert_array_equal(colors[0], colors[1])
    np.testing.assert_array_equal(colors[3], colors[4])
    ramp = heat_colors(np.linspace(0, 1, 50), 1.0) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(ramp) < 0).all()
