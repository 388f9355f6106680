"""Augmentation: random changes of a training sample, applied to its labels and its image.

A flip mirrors the camera at its optical axis. The new image is then exactly an affine map of the old one, for any
intrinsics, and the intrinsics do not change. So image, keypoints, box, pose and camera agree after any change.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from hmr_skel.body.dofs import MIRROR, MIRROR_SIGN
from hmr_skel.body.joints import FLIP_44


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The strength of changes. The defaults are the paper's (SKEL-CF's published settings)."""

    scale: float = 0.1
    """The box's side is multiplied by 1 + this * N(0, 1), with the normal number clipped to +-1."""
    translation: float = 0.0
    """The box's centre is moved by this * its side * N(0, 1) in x and y, clipped likewise (HSMR: 0.02)."""
    flip_probability: float = 0.0
    """The share of samples that are mirrored (HSMR: 0.5)."""
    color: float = 0.2
    """Red, green and blue are multiplied by one factor each, from [1 - this, 1 + this]."""
    extreme_crop_probability: float = 0.1
    """The share of samples whose box is around a part of the body, see `part_box`."""
    degrade_probability: float = 0.3
    """The share of samples with blur or the like, and the share with changed colours, see `degrade`."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            most = 1 if item.name.endswith("probability") or item.name in ("scale", "color") else np.inf
            if not 0 <= value <= most:
                raise ValueError(f"{item.name} is {value!r}, must be from 0 to {most:g}")
        if self.scale == 1:
            raise ValueError("scale is 1, must be less, since boxes would have no size")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """All changes of one sample. The defaults change nothing."""

    part: float | None = None
    """A number from [0, 1) that chooses the part of the body for the box; None: the annotated box."""
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """Shift of the box, in its sides."""
    flip: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors of red, green and blue."""
    degrade: tuple[int | None, int | None] = (None, None)
    """Seeds of `degrade`, one per group; None: no change."""


def draw(config: AugmentConfig, rng: np.random.Generator) -> Augmentation:
    """Draw a change. It always uses the same number of random numbers."""
    uniform, normal, seeds = rng.random(9), rng.standard_normal(4), rng.integers(2**32, size=2)
    cut = np.clip(normal, -1, 1)
    red, green, blue = (1 + config.color * (2 * uniform[4:7] - 1)).tolist()
    first, second = (
        int(s) if u < config.degrade_probability else None for u, s in zip(uniform[7:], seeds, strict=True)
    )
    return Augmentation(
        part=float(uniform[1]) if uniform[0] < config.extreme_crop_probability else None,
        scale=float(1 + config.scale * cut[0]),
        shift=(float(config.translation * cut[1]), float(config.translation * cut[2])),
        flip=bool(uniform[3] < config.flip_probability),
        gains=(red, green, blue),
        degrade=(first, second),
    )


def image_change(flip: bool, intrinsics: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2 3"]:
    """The map of image px for a flip, or without one. The principal point does not move."""
    return (intrinsics @ np.diag((-1.0 if flip else 1.0, 1.0, 1.0)) @ np.linalg.inv(intrinsics))[:2]


def mirror(
    keypoints_2d: Float[np.ndarray, "44 3"], keypoints_3d: Float[np.ndarray, "44 4"], q: Float[np.ndarray, "46"]
) -> tuple[Float[np.ndarray, "44 3"], Float[np.ndarray, "44 4"], Float[np.ndarray, "46"]]:
    """Labels as the mirrored camera sees them: left is right, and x in its frame changes sign.

    The 2D keypoints change names only: they move with the picture, see `image_change`.
    """
    order = list(FLIP_44)
    return keypoints_2d[order], keypoints_3d[order] * (-1, 1, 1, 1), np.asarray(MIRROR_SIGN) * q[list(MIRROR)]


_WIDEN = 1.2
_MIN_SIDE = 4.0  # px

# The 44 keypoints by the part of the body that they are on (hmr_skel.body.joints.KEYPOINTS_44).
_HEAD, _NECK, _TRUNK, _PELVIS = (0, 15, 16, 17, 18, 38, 42, 43), (1, 37), (40, 41), (8, 39)
_SHOULDER_R, _SHOULDER_L, _HIP_R, _HIP_L = (2, 33), (5, 34), (9, 27), (12, 28)
_ELBOW_WRIST_R, _ELBOW_WRIST_L = (3, 4, 31, 32), (6, 7, 35, 36)
_LOWER_LEG_R, _LOWER_LEG_L = (10, 11, 22, 23, 24, 25, 26), (13, 14, 19, 20, 21, 29, 30)

# (OpenPose's, LSP's) keypoints: both arms from the shoulders, both legs from the knees.
_LIMBS = ((2, 33), (3, 32), (4, 31), (5, 34), (6, 35), (7, 36), (10, 26), (11, 25), (13, 29), (14, 30))
_KNEES_ANKLES = (10, 11, 13, 14, 25, 26, 29, 30)
_HEAD_AND_NEIGHBOURS = (*_HEAD, *_NECK, 33, 34)

PARTS = {
    "hips": (tuple(set(range(44)) - {*_LOWER_LEG_R, *_LOWER_LEG_L}), 1.1),  # down to the hips
    "shoulders": ((*_HEAD, *_NECK, *_SHOULDER_R, *_SHOULDER_L), 1.2),
    "head": ((*_HEAD, *_NECK), 1.3),
    "torso": ((*_NECK, *_SHOULDER_R, *_SHOULDER_L, *_TRUNK, *_PELVIS, *_HIP_R, *_HIP_L), 1.1),
    "arm_r": ((*_SHOULDER_R, *_ELBOW_WRIST_R), 1.1),
    "arm_l": ((*_SHOULDER_L, *_ELBOW_WRIST_L), 1.1),
    "legs": ((*_PELVIS, *_HIP_R, *_HIP_L, *_LOWER_LEG_R, *_LOWER_LEG_L), 1.1),
    "leg_r": ((*_HIP_R, *_LOWER_LEG_R), 1.1),
    "leg_l": ((*_HIP_L, *_LOWER_LEG_L), 1.1),
}
"""For each part, the keypoints inside its box, and the margin, as a factor of the widened box."""
# Parts by a number from [0, 1): a part that is listed twice is chosen twice as often.
WHOLE_BODY = ("hips", "hips", "shoulders", "head", "torso", "arm_r", "arm_l", "legs", "leg_r", "leg_l")
UPPER_BODY = ("shoulders", "head", "torso", "arm_r", "arm_l")


def part_box(keypoints_2d: Float[np.ndarray, "44 3"], choice: float) -> tuple[Float[np.ndarray, "2"], float] | None:
    """Centre (px) and side (px) of the box around the part that `choice`, from [0, 1), selects for this person.

    None if too few keypoints are annotated, of all parts or of the chosen one.
    """
    confidence = np.where(np.isfinite(keypoints_2d).all(-1), keypoints_2d[:, 2], 0)
    seen = confidence > 0
    if all(seen[list(pair)].any() for pair in _LIMBS):
        parts = WHOLE_BODY
    elif not seen[list(_KNEES_ANKLES)].any() and seen[list(_HEAD_AND_NEIGHBOURS)].sum() >= 2:
        parts = UPPER_BODY
    else:
        return None
    keypoints, margin = PARTS[parts[int(choice * len(parts))]]
    kept = [k for k in keypoints if seen[k]]
    if confidence[kept].sum() <= 1:
        return None
    low, high = keypoints_2d[kept, :2].min(0), keypoints_2d[kept, :2].max(0)
    side = float((high - low).max()) * _WIDEN * margin
    return ((low + high) / 2, side) if side >= _MIN_SIDE else None


Image = UInt8[np.ndarray, "H W 3"]


def degrade(image: Image, group: int, seed: int) -> Image:
    """Apply a random operation of a group (0: sharpness and weather; 1: contrast and colour), decided by `seed`."""
    rng = np.random.default_rng(seed)
    operations = OPERATIONS[group]
    weights = np.array(list(operations.values()))
    chosen = rng.choice(len(operations), p=weights / weights.sum())
    return operate(list(operations)[chosen], image, rng)


def colored(crop: Image, augmentation: Augmentation) -> UInt8[np.ndarray, "3 H W"]:
    """Convert BGR to RGB planes, and apply all changes of colour and sharpness."""
    for group, seed in enumerate(augmentation.degrade):
        if seed is not None:
            crop = degrade(crop, group, seed)
    planes = np.empty((3, *crop.shape[:2]), np.uint8)
    cv2.split(crop, [planes[2], planes[1], planes[0]])
    for plane, gain in zip(planes, augmentation.gains, strict=True):
        if gain != 1:
            cv2.convertScaleAbs(plane, plane, gain)
    return planes


OPERATIONS: tuple[dict[str, float], dict[str, float]] = (
    {"downscale": 0.1, "compress": 0.1, "rain": 0.1, "motion_blur": 0.2, "blur": 0.1, "snow": 0.5},
    {
        "clahe": 0.2,
        "gray": 0.2,
        "brightness_contrast": 0.2,
        "noise": 0.2,
        "hue": 0.2,
        "posterize": 0.1,
        "gamma": 0.1,
        "equalize": 0.1,
    },
)
"""The weight of each operation in its group."""


def operate(name: str, image: Image, rng: np.random.Generator) -> Image:
    """Apply one of `OPERATIONS` with a random strength."""
    height, width = image.shape[:2]
    match name:
        case "downscale":
            factor = rng.uniform(0.5, 0.9)
            small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
            return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
        case "compress":
            done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 101))])
            again = cv2.imdecode(data, cv2.IMREAD_COLOR)
            assert done
            assert again is not None
            return again
        case "rain":
            slant, length = rng.integers(-10, 11), 20
            wet = image.copy()
            for x, y in rng.integers(0, (width, max(1, height - length)), (height * width // 600, 2)).tolist():
                cv2.line(wet, (x, y), (x + int(slant), y + length), (200, 200, 200), 1)
            return cv2.convertScaleAbs(cv2.blur(wet, (4, 4)), alpha=0.7)
        case "snow":
            hls = cv2.cvtColor(image, cv2.COLOR_BGR2HLS)
            lightness = hls[..., 1]
            below = lightness < 85 + 127.5 * rng.uniform(0.2, 0.4)
            lightness[below] = np.minimum(lightness[below] * 1.5, 255)
            return cv2.cvtColor(hls, cv2.COLOR_HLS2BGR)
        case "motion_blur":
            size = int(rng.choice((3, 5, 7, 9, 11, 13, 15)))
            angle, middle = rng.uniform(0, np.pi), size // 2
            end = np.round(middle * np.array([np.cos(angle), np.sin(angle)])).astype(int)
            kernel = np.zeros((size, size), np.uint8)
            cv2.line(kernel, (middle - end).tolist(), (middle + end).tolist(), 1)
            return cv2.filter2D(image, -1, kernel / np.float32(kernel.sum()))
        case "blur":
            size = int(rng.choice((3, 5, 7, 9)))
            return cv2.blur(image, (size, size))
        case "clahe":
            lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
            lab[..., 0] = cv2.createCLAHE(rng.uniform(1, 11), (10, 10)).apply(np.ascontiguousarray(lab[..., 0]))
            return cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)
        case "gray":
            return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        case "brightness_contrast":
            contrast, brightness = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2) * 255
            return _lookup(image, contrast * np.arange(256) + brightness)
        case "noise":
            factors = rng.random(image.shape, np.float32) + np.float32(0.5)
            return cv2.multiply(image, factors, dtype=cv2.CV_8U)
        case "hue":
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            hue, saturation, value = (rng.uniform(-limit, limit) for limit in (20, 30, 20))
            levels = np.arange(256)
            tables = (levels + hue) % 180, (levels + saturation).clip(0, 255), (levels + value).clip(0, 255)
            table = np.stack(tables, -1).astype(np.uint8)[:, None]
            return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR)
        case "posterize":
            return image & np.uint8(0b11110000)
        case "gamma":
            return _lookup(image, 255 * (np.arange(256) / 255) ** rng.uniform(0.8, 2.0))
        case "equalize":
            return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])
    raise ValueError(f"no operation {name!r}")


def _lookup(image: Image, values: np.ndarray) -> Image:
    return cv2.LUT(image, (values + 0.5).clip(0, 255).astype(np.uint8))
