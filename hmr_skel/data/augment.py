"""What a training sample may be changed by: the numbers of one change, drawn from a generator, and what they do.

A flip and a roll are changes of the camera: it is mirrored at, or turned about, its optical axis. The picture that it
then takes is the old one under an affine map, exactly and for any intrinsics, and the intrinsics stay what they were;
so image, keypoints, box, pose and camera agree after any change.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from hmr_skel.body.dofs import MIRROR, MIRROR_SIGN, PELVIS
from hmr_skel.body.joints import FLIP_44


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far samples are changed. The defaults are the paper's (SKEL-CF's published settings)."""

    scale: float = 0.1
    """The box's side is multiplied by 1 + this * N(0, 1), the normal number cut at +-1."""
    translation: float = 0.0
    """The box's centre is moved by this * its side * N(0, 1) in x and y, cut at +-1 (HSMR: 0.02)."""
    roll_deg: float = 0.0
    """The camera is rolled about its optical axis by this * N(0, 1) degrees, cut at +-2 (HSMR: 30)."""
    roll_probability: float = 0.6
    """In so many samples, where `roll_deg` is not 0."""
    flip_probability: float = 0.0
    """Mirrored samples (HSMR: 0.5)."""
    color: float = 0.2
    """Red, green and blue are multiplied by one factor each, from [1 - this, 1 + this]."""
    extreme_crop_probability: float = 0.1
    """The box is drawn around a part of the body instead, see `hmr_skel.data.part_crops`."""
    degrade_probability: float = 0.3
    """Blur and the like, and contrast and the like: each in so many samples, see `hmr_skel.data.degrade`."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            most = 1 if item.name.endswith("probability") or item.name in ("scale", "color") else np.inf
            if not 0 <= value <= most:
                raise ValueError(f"{item.name} is {value!r}, must be from 0 to {most:g}")
        if self.scale == 1:
            raise ValueError("scale is 1, which makes boxes of no size; must be less")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """One change of a sample, all of it. The defaults change nothing."""

    part: float | None = None
    """From [0, 1): which part of the body the box is drawn around; None: the whole, as annotated."""
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """Of the box, in its sides."""
    roll: float = 0.0
    """rad; positive turns the picture from x towards y, clockwise to the eye."""
    flip: bool = False
    """Before the roll."""
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of red, green and blue."""
    degrade: tuple[int | None, int | None] = (None, None)
    """Seeds of what is done by `hmr_skel.data.degrade`, one per group; None: nothing."""

    @property
    def moves_camera(self) -> bool:
        return self.flip or self.roll != 0


def draw(config: AugmentConfig, rng: np.random.Generator) -> Augmentation:
    """A change. Uses as many random numbers whatever they come to."""
    uniform, normal, seeds = rng.random(9), rng.standard_normal(4), rng.integers(2**32, size=2)
    cut = np.clip(normal, -1, 1)
    rolled = config.roll_deg > 0 and uniform[2] < config.roll_probability
    red, green, blue = (1 + config.color * (2 * uniform[4:7] - 1)).tolist()
    first, second = (
        int(s) if u < config.degrade_probability else None for u, s in zip(uniform[7:], seeds, strict=True)
    )
    return Augmentation(
        part=float(uniform[1]) if uniform[0] < config.extreme_crop_probability else None,
        scale=float(1 + config.scale * cut[0]),
        shift=(float(config.translation * cut[1]), float(config.translation * cut[2])),
        roll=float(np.radians(config.roll_deg) * np.clip(normal[3], -2, 2)) if rolled else 0.0,
        flip=bool(uniform[3] < config.flip_probability),
        gains=(red, green, blue),
        degrade=(first, second),
    )


def camera_change(augmentation: Augmentation) -> Float[np.ndarray, "3 3"]:
    """The orthogonal map of points in the camera's frame: a flip mirrors x, then a roll turns about z."""
    cos, sin = np.cos(augmentation.roll), np.sin(augmentation.roll)
    mirror = -1.0 if augmentation.flip else 1.0
    return np.array([[mirror * cos, -sin, 0], [mirror * sin, cos, 0], [0, 0, 1]])


def image_change(change: Float[np.ndarray, "3 3"], intrinsics: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2 3"]:
    """The map of image px that goes with `camera_change`. The principal point stays where it is."""
    return (intrinsics @ change @ np.linalg.inv(intrinsics))[:2]


def change_keypoints_3d(
    keypoints_3d: Float[np.ndarray, "44 4"], augmentation: Augmentation
) -> Float[np.ndarray, "44 4"]:
    """Keypoints in the camera's frame (m, confidence); in a mirrored image, left is right."""
    points = keypoints_3d[list(FLIP_44)] if augmentation.flip else keypoints_3d
    return np.concatenate((points[:, :3] @ camera_change(augmentation).T, points[:, 3:]), 1)


def change_keypoints_2d(
    keypoints_2d: Float[np.ndarray, "44 3"], augmentation: Augmentation, change: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "44 3"]:
    """Keypoints in the image (px, confidence), through `image_change`."""
    points = keypoints_2d[list(FLIP_44)] if augmentation.flip else keypoints_2d
    return np.concatenate((points[:, :2] @ change[:, :2].T + change[:, 2], points[:, 2:]), 1)


def change_q(q: Float[np.ndarray, "46"], augmentation: Augmentation) -> Float[np.ndarray, "46"]:
    """SKEL's pose as the changed camera sees it."""
    if augmentation.flip:
        q = np.asarray(MIRROR_SIGN) * q[list(MIRROR)]
    if augmentation.roll:
        q = q.copy()
        q[PELVIS] = _roll_pelvis(q[PELVIS], augmentation.roll)
    return q


def _roll_pelvis(q: Float[np.ndarray, "3"], roll: float) -> Float[np.ndarray, "3"]:
    """Tilt, list and rotation of the pelvis turned by `roll` about the camera's z.

    In the camera's axes the pelvis is turned by Ry(rotation) Rz(list) Rx(-tilt): its bone frame is a permutation of
    the body's axes, in the licensed files as in the open ones.
    """
    tilt, list_, rotation = q
    turned = _about(2, roll) @ _about(1, rotation) @ _about(2, list_) @ _about(0, -tilt)
    cosine = np.hypot(turned[1, 1], turned[1, 2])
    list_ = np.arctan2(turned[1, 0], cosine)
    if cosine < 1e-6:  # tilt and rotation turn about one axis: all of it is rotation
        return np.array([0.0, list_, np.arctan2(turned[0, 2], turned[2, 2])])
    return np.array([np.arctan2(turned[1, 2], turned[1, 1]), list_, np.arctan2(-turned[2, 0], turned[0, 0])])


def _about(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """A rotation about a coordinate axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
