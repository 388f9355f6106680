"""Draw smooth random human motion in SKEL's degrees of freedom, clip by clip.

A clip is one person moving for `FRAMES_PER_CLIP` frames. Every dof follows a band-limited random process around its
habitual angle, mapped smoothly into its range, so that limits hold and extremes are rare. To look like a person, each
body part has one liveliness per clip (few clips are wild, most are calm), left and right arms and legs move together or
against each other, and knees and ankles follow the hips. One dof per clip also passes through a part of its range; over
the clips these parts cover the range, and no frame is extreme everywhere.

Clip `c` has a generator of its own, seeded with (seed, c), so that a longer set begins with the shorter one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hmr_skel.body import dofs

# Many short clips, since a network learns more from many persons, clothes and views than from long clips of a few.
FRAMES_PER_CLIP = 4
FRAMES_PER_SECOND = 5.0

_BAND_HZ = (0.05, 0.6)  # slow sway to a brisk swing
_NUM_WAVES = 6  # per process; enough for a nearly normal distribution
_SPREAD = 0.55  # one unit of the process in logits of a dof's range: 14 % of the range from its middle
_HABIT = (0.08, 0.92)  # the habitual angle as a share of the range stays within this, away from the asymptotes
_FEATURE_REACH = (0.05, 0.95)  # of the range, in a dof's featured clip
_FEATURE_PERIOD_S = 3.2  # s, for the whole way
_STATIC_SHARE = 0.6  # of a dof's variance that is a posture held for the clip; the rest moves
_PARTS = {
    "legs": (dofs.LEG_R, dofs.LEG_L),
    "trunk": (dofs.LUMBAR, dofs.THORAX),
    "head": (dofs.HEAD,),
    "arms": (dofs.ARM_R, dofs.ARM_L),
}
_HIP_FLEXION_R, _KNEE_R, _ANKLE_R = 3, 6, 7


@dataclass(frozen=True)
class ClipMotion:
    """A clip of T frames in the person's own frame (y up, facing +z before `root_rotvec`)."""

    q: Float[np.ndarray, "T 46"]  # rad; the three pelvis dofs are zero: the root is `root_rotvec`
    root_rotvec: Float[np.ndarray, "T 3"]  # rotation of the pelvis in the world, rad
    betas: Float[np.ndarray, "10"]  # SMPL's, of the clip's person
    noise: Float[np.ndarray, "T channels"]  # smooth, standard normal, for the perturbation of SMPL labels


def clip_rng(seed: int, clip: int) -> np.random.Generator:
    """The generator for all random numbers of a clip."""
    return np.random.default_rng((seed, clip))


def clip_motion(rng: np.random.Generator, clip: int, num_noise: int) -> ClipMotion:
    """Draw a clip. `clip` chooses the featured dof; everything else comes from `rng`."""
    bounds = dofs.limits("anatomical")[dofs.BODY]
    habit = _range_share(np.asarray(dofs.HSMR_MEAN_Q)[dofs.BODY], bounds).clip(*_HABIT)
    share = _sigmoid(np.log(habit / (1 - habit)) + _SPREAD * _coordinated(rng))

    featured = clip % len(habit)
    share[:, featured] = _sweep(rng, habit[featured])
    q = np.zeros((FRAMES_PER_CLIP, dofs.NUM_DOFS))
    q[:, dofs.BODY] = bounds[:, 0] + share * (bounds[:, 1] - bounds[:, 0])
    return ClipMotion(
        q=q,
        root_rotvec=_root(rng),
        betas=rng.standard_normal(10),
        noise=smooth_noise(rng, num_noise),
    )


def smooth_noise(rng: np.random.Generator, channels: int) -> Float[np.ndarray, "T channels"]:
    """Band-limited random processes of mean 0 and variance 1: sums of cosines of random pace and phase."""
    pace = 2 * np.pi * rng.uniform(*_BAND_HZ, (_NUM_WAVES, channels)) / FRAMES_PER_SECOND
    phase = rng.uniform(0, 2 * np.pi, (_NUM_WAVES, channels))
    time = np.arange(FRAMES_PER_CLIP)[:, None, None]
    return np.cos(pace * time + phase).sum(1) * np.sqrt(2 / _NUM_WAVES)


def _coordinated(rng: np.random.Generator) -> Float[np.ndarray, "T 43"]:
    """The processes of the 43 body dofs, in standard deviations, scaled by the clip's liveliness per body part."""
    wave = np.zeros((FRAMES_PER_CLIP, dofs.NUM_DOFS))
    posture = rng.standard_normal(dofs.NUM_DOFS)
    wave[:] = np.sqrt(_STATIC_SHARE) * posture + np.sqrt(1 - _STATIC_SHARE) * smooth_noise(rng, dofs.NUM_DOFS)

    # Knees bend with the hips, and ankles with the knees, as in walking, sitting and squatting.
    for side in (0, dofs.LEG_L.start - dofs.LEG_R.start):
        _follow(wave, _KNEE_R + side, _HIP_FLEXION_R + side, 0.8)
        _follow(wave, _ANKLE_R + side, _KNEE_R + side, 0.5)
    # The left side follows the mirrored right side, in step (positive) or against it (negative), to a degree per clip.
    for right, left in ((dofs.LEG_R, dofs.LEG_L), (dofs.ARM_R, dofs.ARM_L)):
        sign = np.asarray(dofs.MIRROR_SIGN)[left]
        bond = rng.uniform(-0.8, 0.9)
        wave[:, left] = bond * sign * wave[:, right] + np.sqrt(1 - bond**2) * wave[:, left]
    for slices in _PARTS.values():
        liveliness = min(np.exp(rng.normal(-0.25, 0.5)), 2.0)
        for part in slices:
            wave[:, part] *= liveliness
    return wave[:, dofs.BODY]


def _follow(wave: np.ndarray, follower: int, leader: int, correlation: float) -> None:
    wave[:, follower] = correlation * wave[:, leader] + np.sqrt(1 - correlation**2) * wave[:, follower]


def _sweep(rng: np.random.Generator, habit: float) -> Float[np.ndarray, "T"]:
    """A part of the way from the habitual angle to both ends and back; a cube shortens the time at the ends."""
    time = np.arange(FRAMES_PER_CLIP) / FRAMES_PER_SECOND
    swing = np.sin(rng.uniform(0, 2 * np.pi) + 2 * np.pi * time / _FEATURE_PERIOD_S) ** 3
    low, high = _FEATURE_REACH
    return habit + np.where(swing > 0, swing * (high - habit), swing * (habit - low))


def _root(rng: np.random.Generator) -> Float[np.ndarray, "T 3"]:
    """A root rotation: any heading, upright with some sway; in one clip of eight lying, crouching or tumbling."""
    sway = np.radians(8) * smooth_noise(rng, 3) * (1, 0.6, 1)
    lean = np.zeros(3)
    if rng.random() < 1 / 8:
        lean[0], lean[2] = rng.uniform(-np.pi / 2, np.pi / 2, 2)
    return sway + lean


def _range_share(q: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    return (q - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
