import numpy as np
import pytest

from hmr_skel.render import frame


@pytest.mark.parametrize(("view", "width", "height"), [("side", 200, 300), ("top", 300, 120)])
def test_all_is_in_the_frame_and_fills_it(view, width, height):
    vertices = np.random.default_rng(0).normal((3, -2, 9), (0.3, 0.8, 0.2), (500, 3)).astype(np.float32)
    framing = frame(vertices, view, width, height)
    pixels = framing.camera.project(framing.place(vertices))
    relative = (pixels - (np.array([width, height]) - 1) / 2) / np.array([width, height])  # -0.5 .. 0.5
    assert np.abs(relative).max() == pytest.approx(0.44, abs=1e-3)


def test_where_the_views_look_from():
    """A person who faces the camera."""
    nose, head, left_hand = (0.0, -0.5, -0.2), (0.0, -0.8, 0.0), (0.6, -0.3, 0.0)  # facing the camera, y down
    vertices = np.array([nose, head, left_hand, (0, 0.9, 0), (-0.6, -0.3, 0)], np.float32)

    def seen(view):
        framing = frame(vertices, view)
        return framing.camera.project(framing.place(vertices)), framing.place(vertices)[:, 2]

    front, depth = seen("front")
    assert front[2, 0] > front[4, 0]
    assert front[1, 1] < front[3, 1]
    assert depth[0] < depth[1]
    side, depth = seen("side")  # from the picture's left: the nose to the right, the right hand near
    assert side[0, 0] > side[1, 0]
    assert depth[4] < depth[2]
    assert side[1, 1] < side[3, 1]
    back, depth = seen("back")
    assert back[2, 0] < back[4, 0]
    assert depth[0] > depth[1]
    top, depth = seen("top")  # head near, nose towards the picture's foot
    assert depth[1] < depth[3]
    assert top[0, 1] > top[1, 1]
    assert top[2, 0] > top[4, 0]
