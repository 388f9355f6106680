import numpy as np
import pytest

from hmr_skel.body import dofs
from hmr_skel.open_data.motion import (
    FRAMES_PER_CLIP,
    FRAMES_PER_SECOND,
    ClipMotion,
    clip_motion,
    clip_rng,
    smooth_noise,
)

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


def test_clips_differ_and_repeat():
    first, again, other = (clip_motion(clip_rng(3, c), 0, 4) for c in (5, 5, 6))
    for name in ("q", "root_rotvec", "betas", "noise"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.allclose(getattr(first, name), getattr(other, name))


def test_smooth_noise_is_standard_and_band_limited():
    noise = np.stack([smooth_noise(np.random.default_rng(seed), 40) for seed in range(200)])
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(1, abs=0.03)
    # A pace of at most 0.6 Hz: no faster than that many radians a second.
    rate = np.diff(noise, axis=1).std() * FRAMES_PER_SECOND
    assert rate < 2 * np.pi * 0.6


def test_betas_are_standard(clips):
    betas = np.stack([clip.betas for clip in clips])
    assert betas.std() == pytest.approx(1, abs=0.1)
    assert np.abs(betas.mean(0)).max() < 0.5


def test_left_and_right_are_coordinated(default_q):
    """Over a clip the two elbows are bound together or against each other, not strangers."""
    right, left = (default_q[..., index - 3] for index in (32, 42))
    correlation = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(right, left, strict=True)]
    strangers = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(right, np.roll(left, 1, axis=0), strict=True)]
    assert np.mean(correlation) > np.mean(strangers)
