import numpy as np
import pytest

from hmr_skel.body import dofs
from hmr_skel.open_data.motion import FRAMES_PER_CLIP, FRAMES_PER_SECOND, ClipMotion, clip_motion, clip_rng

DEFAULT_ROWS = 6144  # of manifests/open.toml
LIMITS = dofs.limits("anatomical")[dofs.BODY]


@pytest.fixture(scope="module")
def clips() -> list[ClipMotion]:
    """As many as the default manifest has."""
    return [clip_motion(clip_rng(0, clip), clip, 1) for clip in range(DEFAULT_ROWS // FRAMES_PER_CLIP)]


@pytest.fixture(scope="module")
def default_q(clips) -> np.ndarray:
    """Their body dofs, [clips frames 43]."""
    return np.stack([clip.q[:, dofs.BODY] for clip in clips])


def test_default_set_covers_most_of_every_range(default_q):
    reached = default_q.max((0, 1)) - default_q.min((0, 1))
    share = dict(zip(dofs.DOF_NAMES[3:], reached / (LIMITS[:, 1] - LIMITS[:, 0]), strict=True))
    assert min(share.values()) >= 0.8, share


def test_most_of_the_set_is_moderate(default_q):
    """Extremes are visited, not inhabited: else the default set would measure the limits and not the fit."""
    share = (default_q - LIMITS[:, 0]) / (LIMITS[:, 1] - LIMITS[:, 0])
    extreme = (share < 0.08) | (share > 0.92)
    assert extreme.mean() < 0.02
    assert (extreme.sum(-1) >= 3).mean() < 0.02  # rows with three or more dofs at an end


def test_limits_always_hold(clips, default_q):
    assert all((clip.q[:, :3] == 0).all() for clip in clips)
    assert (default_q > LIMITS[:, 0]).all()
    assert (default_q < LIMITS[:, 1]).all()


def test_motion_is_smooth(default_q):
    speed = np.abs(np.diff(default_q, axis=1))
    turn = np.abs(np.diff(default_q, n=2, axis=1))
    assert np.degrees(np.percentile(speed, 99)) * FRAMES_PER_SECOND < 180
    assert np.degrees(speed.max()) * FRAMES_PER_SECOND < 450  # the featured dof crosses its whole range in a second
    # White noise of the same speed would turn by sqrt(3) times its speed; here a step is like the one before.
    assert np.sqrt((turn**2).mean()) < 0.75 * np.sqrt((speed**2).mean())
