"""What a synthetic person wears, where, and in what light: vertex colours, lamps and backgrounds, all random.

Garments are cut from the body itself: SMPL's skin weights say which vertices belong to sleeves or shins. Colours are
RGB 0..1. Nothing here has to look real, only to vary as clothes, rooms and lamps do. But people need a front: without
faces, collars, open jackets and hair down the back, only the direction of the feet told left from right, and a small
network did not learn it (LOG.md).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from hmr_skel.body.joints import SMPL_JOINTS, SMPL_VERTEX_IDS
from hmr_skel.body.smpl import Smpl
from hmr_skel.render import Light
from hmr_skel.render.mesh import vertex_normals

_SKINS = np.array([(0.95, 0.80, 0.70), (0.87, 0.67, 0.53), (0.72, 0.51, 0.37), (0.50, 0.34, 0.24), (0.33, 0.22, 0.16)])
_HAIRS = np.array([(0.08, 0.06, 0.05), (0.22, 0.14, 0.08), (0.45, 0.31, 0.16), (0.72, 0.56, 0.32), (0.55, 0.53, 0.50)])
_TOP = ("spine1", "spine2", "spine3", "left_collar", "right_collar")
_UPPER_ARMS, _FOREARMS = ("left_shoulder", "right_shoulder"), ("left_elbow", "right_elbow")
_THIGHS, _SHINS = ("left_hip", "right_hip"), ("left_knee", "right_knee")
_FEET = ("left_ankle", "right_ankle", "left_foot", "right_foot")
_SOFT_EDGE = 12.0  # steepness of a garment's edge in skin weight: a centimetre or two wide


@dataclass(frozen=True)
class Wardrobe:
    """Where garments can end, per vertex of the model: shares 0..1, and the T-pose for patterns."""

    share: dict[str, Float[np.ndarray, "V"]]  # of a vertex's skin weight, by group of joints
    rest: Float[np.ndarray, "V 3"]  # T-pose, m
    front: Float[np.ndarray, "V"]  # 1 where the skin of the T-pose looks forward, -1 where it looks back
    joints: Float[np.ndarray, "24 3"]

    @classmethod
    def of(cls, smpl: Smpl) -> "Wardrobe":
        weights = smpl.weights.numpy()
        groups = {
            "top": _TOP, "upper_arms": _UPPER_ARMS, "forearms": _FOREARMS, "pelvis": ("pelvis",), "thighs": _THIGHS,
            "shins": _SHINS, "feet": _FEET, "head": ("head",), "neck": ("neck",),
        }  # fmt: skip
        share = {
            name: weights[:, [SMPL_JOINTS.index(joint) for joint in joints]].sum(1) for name, joints in groups.items()
        }
        rest = smpl.template.numpy()
        return cls(share, rest, vertex_normals(rest, smpl.faces)[:, 2], smpl.joint_template.numpy())

    def joint(self, name: str) -> Float[np.ndarray, "3"]:
        return self.joints[SMPL_JOINTS.index(name)]


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
    if rng.random() < 0.4:  # back pockets
        apart = np.abs(np.abs(rest[:, 0]) - 0.075)
        height = np.abs(rest[:, 1] - wardrobe.joint("left_hip")[1] + 0.01)
        _paint(colors, bottom * _patch(apart, 0.045) * _patch(height, 0.05) * (wardrobe.front < 0), _color(rng))
    top = share["top"] + share["upper_arms"] * (rng.random() < 0.85)
    if rng.random() < 0.3:
        top = top + share["neck"]
    if rng.random() < 0.45:
        top = top + share["forearms"]
    _paint(colors, top, _cloth(rng, rest))
    _open_or_print(rng, colors, share["top"], wardrobe, skin)
    if rng.random() < 0.85:
        _paint(colors, share["feet"], _color(rng))
    _head(rng, colors, wardrobe)
    return colors.astype(np.float32)


def _open_or_print(
    rng: np.random.Generator, colors: np.ndarray, trunk: np.ndarray, wardrobe: Wardrobe, skin: np.ndarray
) -> None:
    """What tells a garment's front from its back: a jacket that is open, a print on the chest."""
    across, height = np.abs(wardrobe.rest[:, 0]), wardrobe.rest[:, 1]
    collar, waist = wardrobe.joint("neck")[1], wardrobe.joint("spine1")[1]
    up = (height - waist) / (collar - waist)  # 0 at the waist, 1 at the collar
    kind = rng.random()
    if kind < 0.6:
        gap = rng.uniform(0.02, 0.06) + rng.uniform(0, 0.05) * up  # wider at the top
        cover = _patch(across - gap, 0.0) * (up > rng.choice((-1.0, 0.5)))
        _paint(
            colors, trunk * cover * (wardrobe.front > 0), skin if rng.random() < 0.25 else _cloth(rng, wardrobe.rest)
        )
    elif kind < 0.8:
        cover = _patch(across, rng.uniform(0.06, 0.12)) * _patch(np.abs(up - 0.6), rng.uniform(0.15, 0.3))
        _paint(colors, trunk * cover * (wardrobe.front > 0), _color(rng))


def _head(rng: np.random.Generator, colors: np.ndarray, wardrobe: Wardrobe) -> None:
    """Hair, eyes with their brows, a mouth, some beards."""
    share, rest = wardrobe.share["head"], wardrobe.rest
    nose, right_eye, left_eye = (rest[vertex] for vertex in SMPL_VERTEX_IDS[:3])
    hair_color = _blend_of(rng, _HAIRS)
    if rng.random() < 0.3:
        below = nose[1] - 0.012 - rest[:, 1]
        _paint(colors, share * _patch(-below, 0.0) * (rest[:, 2] > nose[2] - 0.09), hair_color)
    mouth = nose - np.array([0, 0.035, 0.01])
    _paint(colors, share * _patch(np.abs(rest - mouth) @ (0.4, 1, 0.3), 0.01), np.array([0.5, 0.16, 0.15]))
    for eye in (right_eye, left_eye):
        near = np.linalg.norm((rest - eye - (0, 0.006, 0)) * (0.7, 1, 0.5), axis=1)
        _paint(colors, share * _patch(near, 0.013), hair_color * 0.5)

    # Hair covers the head above and behind a plane through its joint; how far down differs, and long hair hangs lower.
    head = rest - wardrobe.joint("head")
    height = head[:, 1] - 0.6 * head[:, 2] - rng.uniform(0.02, 0.06)
    _paint(colors, share * _sigmoid(height / 0.006), hair_color)
    if rng.random() < 0.4:
        length = rng.uniform(0.08, 0.25)  # below the head's joint, m
        hanging = _patch(np.abs(head[:, 0]), 0.09) * _patch(-head[:, 1], length)
        behind = wardrobe.front < 0
        _paint(colors, (share + wardrobe.share["neck"] + wardrobe.share["top"]) * hanging * behind, hair_color)


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
    for _ in range(rng.integers(0, 6)):
        corner = rng.uniform(-0.2, 1, 2) * (small_width, small_height)
        size = rng.uniform(0.05, 0.4, 2) * (small_width, small_height)
        first, last = corner.astype(int), (corner + size).astype(int)
        cv2.rectangle(picture, first.tolist(), last.tolist(), _color(rng).tolist(), -1)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 2.5)))
    for cells, strength in ((5, 0.05), (40, 0.015)):
        blotches = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        blotches = np.asarray(cv2.resize(blotches, (small_width, small_height), interpolation=cv2.INTER_CUBIC))
        picture = picture + blotches[..., None]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def _paint(colors: np.ndarray, share: np.ndarray, paint: np.ndarray) -> None:
    """Cover the vertices whose share is over a half, with a soft edge."""
    cover = _sigmoid(_SOFT_EDGE * (share - 0.5))
    colors += cover[:, None] * (paint - colors)


def _patch(distance: np.ndarray, reach: float) -> np.ndarray:
    """About 1 where a distance (m) is below `reach`, 0 where it is above, half a centimetre soft."""
    return _sigmoid((reach - distance) / 0.004)


def _cloth(rng: np.random.Generator, rest: np.ndarray) -> np.ndarray:
    """Plain, striped or chequered in two colours, by position in the T-pose."""
    plain, other = _color(rng), _color(rng)
    kind = rng.integers(8)
    if kind > 1:  # most are plain
        return np.broadcast_to(plain, rest.shape)
    spacing = rng.uniform(0.05, 0.14)
    wave = np.sin(2 * np.pi * rest / spacing + rng.uniform(0, 2 * np.pi, 3))
    pattern = wave[:, 1] if kind == 0 else wave[:, 0] * wave[:, 1]
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
