"""What a synthetic person wears, where, and in what light: vertex colours, lamps and backgrounds, all random.

Garments are cut from the body itself: SMPL's skin weights say which vertices belong to sleeves or shins. Colours are
RGB 0..1. Nothing here is meant to look real, only to vary as clothes, rooms and lamps do.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from hmr_skel.body.joints import SMPL_JOINTS
from hmr_skel.body.smpl import Smpl
from hmr_skel.render import Light

_SKINS = np.array([(0.95, 0.80, 0.70), (0.87, 0.67, 0.53), (0.72, 0.51, 0.37), (0.50, 0.34, 0.24), (0.33, 0.22, 0.16)])
_HAIRS = np.array([(0.08, 0.06, 0.05), (0.22, 0.14, 0.08), (0.45, 0.31, 0.16), (0.72, 0.56, 0.32), (0.55, 0.53, 0.50)])
_TOP = ("spine1", "spine2", "spine3", "left_collar", "right_collar", "neck")
_UPPER_ARMS, _FOREARMS = ("left_shoulder", "right_shoulder"), ("left_elbow", "right_elbow")
_THIGHS, _SHINS = ("left_hip", "right_hip"), ("left_knee", "right_knee")
_FEET = ("left_ankle", "right_ankle", "left_foot", "right_foot")
_SOFT_EDGE = 12.0  # steepness of a garment's edge in skin weight: a centimetre or two wide


@dataclass(frozen=True)
class Wardrobe:
    """Where garments can end, per vertex of the model: shares 0..1, and the T-pose for patterns."""

    share: dict[str, Float[np.ndarray, "V"]]  # of a vertex's skin weight, by group of joints
    rest: Float[np.ndarray, "V 3"]  # T-pose, m
    joints: Float[np.ndarray, "24 3"]

    @classmethod
    def of(cls, smpl: Smpl) -> "Wardrobe":
        weights = smpl.weights.numpy()
        groups = {
            "top": _TOP, "upper_arms": _UPPER_ARMS, "forearms": _FOREARMS, "pelvis": ("pelvis",), "thighs": _THIGHS,
            "shins": _SHINS, "feet": _FEET, "head": ("head",),
        }  # fmt: skip
        share = {
            name: weights[:, [SMPL_JOINTS.index(joint) for joint in joints]].sum(1) for name, joints in groups.items()
        }
        return cls(share, smpl.template.numpy(), smpl.joint_template.numpy())


def person_colors(rng: np.random.Generator, wardrobe: Wardrobe) -> Float[np.ndarray, "V 3"]:
    """Vertex colours of one dressed person."""
    share, rest = wardrobe.share, wardrobe.rest
    skin = _blend_of(rng, _SKINS)
    colors = np.broadcast_to(skin, rest.shape).copy()

    bottom = share["pelvis"] + share["thighs"]
    long_legs = rng.random() < 0.65
    if long_legs:
        bottom = bottom + share["shins"]
    _paint(colors, bottom, _cloth(rng, rest))
    top = share["top"] + share["upper_arms"] * (rng.random() < 0.85)
    if rng.random() < 0.45:
        top = top + share["forearms"]
    _paint(colors, top, _cloth(rng, rest))
    if rng.random() < 0.85:
        _paint(colors, share["feet"], _color(rng))

    # Hair covers the head above and behind a plane through its joint; how far down differs.
    head = rest - wardrobe.joints[SMPL_JOINTS.index("head")]
    height = head[:, 1] - 0.6 * head[:, 2] - rng.uniform(0.02, 0.06)
    hair = share["head"] * _sigmoid(height / 0.006)
    _paint(colors, hair, _blend_of(rng, _HAIRS))
    return colors.astype(np.float32)


def random_light(rng: np.random.Generator) -> Light:
    """One lamp somewhere above or beside the camera, warm or cold, in a brighter or darker surrounding."""
    azimuth, height = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 1.0)
    toward_camera = rng.uniform(-0.3, 1.0)
    warmth = rng.uniform(-0.12, 0.12)
    return Light(
        direction=(float(np.cos(azimuth)), float(-height), float(-toward_camera)),
        sun=float(rng.uniform(0.3, 0.8)),
        sky=float(rng.uniform(0.5, 0.8)),
        ground=float(rng.uniform(0.25, 0.5)),
        color=(1.0 + float(warmth), 1.0, 1.0 - float(warmth)),
    )


def random_background(rng: np.random.Generator, width: int, height: int) -> Float[np.ndarray, "H W 3"]:
    """A wall above a floor, blotched and cluttered with boxes of colour, out of focus."""
    small_width, small_height = width // 4, height // 4  # blurred anyway: a sixteenth of the pixels will do
    horizon = int(small_height * rng.uniform(0.35, 0.9))
    picture = np.empty((small_height, small_width, 3), np.float32)
    for part, color in ((picture[:horizon], _color(rng)), (picture[horizon:], _color(rng))):
        top, bottom = rng.uniform(0.7, 1.3, 2)
        slope = np.linspace(top, bottom, len(part), dtype=np.float32)
        part[:] = color.astype(np.float32) * slope[:, None, None]
    for _ in range(rng.integers(0, 9)):
        corner = rng.uniform(-0.2, 1, 2) * (small_width, small_height)
        size = rng.uniform(0.05, 0.4, 2) * (small_width, small_height)
        first, last = corner.astype(int), (corner + size).astype(int)
        cv2.rectangle(picture, first.tolist(), last.tolist(), _color(rng).tolist(), -1)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 2.5)))
    for cells, strength in ((5, 0.06), (40, 0.025)):
        blotches = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        blotches = np.asarray(cv2.resize(blotches, (small_width, small_height), interpolation=cv2.INTER_CUBIC))
        picture = picture + blotches[..., None]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def _paint(colors: np.ndarray, share: np.ndarray, paint: np.ndarray) -> None:
    """Cover the vertices whose share is over a half, with a soft edge."""
    cover = _sigmoid(_SOFT_EDGE * (share - 0.5))
    colors += cover[:, None] * (paint - colors)


def _cloth(rng: np.random.Generator, rest: np.ndarray) -> np.ndarray:
    """Plain, striped or chequered in two colours, by position in the T-pose."""
    plain, other = _color(rng), _color(rng)
    kind = rng.integers(4)
    if kind < 2:
        return np.broadcast_to(plain, rest.shape)
    spacing = rng.uniform(0.05, 0.14)
    wave = np.sin(2 * np.pi * rest / spacing + rng.uniform(0, 2 * np.pi, 3))
    pattern = wave[:, 1] if kind == 2 else wave[:, 0] * wave[:, 1]
    mix = _sigmoid(6 * pattern)
    return plain + mix[:, None] * (other - plain)


def _color(rng: np.random.Generator) -> np.ndarray:
    """Any hue, mostly muted."""
    grey = rng.uniform(0.12, 0.92)
    return np.clip(grey + rng.uniform(0.05, 0.4) * rng.uniform(-0.6, 0.6, 3), 0.03, 0.97)


def _blend_of(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """Somewhere between two neighbours of a palette."""
    at = rng.uniform(0, len(palette) - 1)
    low = int(at)
    return palette[low] + (at - low) * (palette[low + 1] - palette[low])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(x / 2)  # exp would overflow far from the edge
