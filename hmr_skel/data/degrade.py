"""Worse pictures: what cameras, networks and weather do to them, in place and colour unlike `hmr_skel.data.augment`.

The published settings name these operations of albumentations 1.3, in two groups; here they are written with OpenCV and
act on the crop of 256 px, not on the whole image, so that their cost does not depend on the image's size. All take and
return uint8 BGR [H W 3].
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "H W 3"]


def degrade(image: Image, group: int, seed: int) -> Image:
    """One operation of a group: 0, sharpness and weather; 1, contrast and colour. A function of its arguments."""
    rng = np.random.default_rng(seed)
    operations = _GROUPS[group]
    weights = np.array(list(operations.values()))
    chosen = rng.choice(len(operations), p=weights / weights.sum())
    return list(operations)[chosen](image, rng)


def _downscale(image: Image, rng: np.random.Generator) -> Image:
    size, factor = image.shape[1::-1], rng.uniform(0.5, 0.9)
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, size, interpolation=cv2.INTER_NEAREST)


def _compress(image: Image, rng: np.random.Generator) -> Image:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 101))])
    again = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert done
    assert again is not None
    return again


def _rain(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    slant, length = rng.integers(-10, 11), 20
    wet = image.copy()
    for x, y in rng.integers(0, (width, max(1, height - length)), (height * width // 600, 2)).tolist():
        cv2.line(wet, (x, y), (x + int(slant), y + length), (200, 200, 200), 1)
    return cv2.convertScaleAbs(cv2.blur(wet, (4, 4)), alpha=0.7)


def _snow(image: Image, rng: np.random.Generator) -> Image:
    hls = cv2.cvtColor(image, cv2.COLOR_BGR2HLS)
    lightness = hls[..., 1]
    below = lightness < 85 + 127.5 * rng.uniform(0.2, 0.4)
    lightness[below] = np.minimum(lightness[below] * 1.5, 255)
    return cv2.cvtColor(hls, cv2.COLOR_HLS2BGR)


def _motion_blur(image: Image, rng: np.random.Generator) -> Image:
    size = int(rng.choice((3, 5, 7, 9, 11, 13, 15)))
    angle, middle = rng.uniform(0, np.pi), size // 2
    end = np.round(middle * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    kernel = np.zeros((size, size), np.uint8)
    cv2.line(kernel, (middle - end).tolist(), (middle + end).tolist(), 1)
    return cv2.filter2D(image, -1, kernel / np.float32(kernel.sum()))


def _blur(image: Image, rng: np.random.Generator) -> Image:
    size = int(rng.choice((3, 5, 7, 9)))
    return cv2.blur(image, (size, size))


def _clahe(image: Image, rng: np.random.Generator) -> Image:
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lab[..., 0] = cv2.createCLAHE(rng.uniform(1, 11), (10, 10)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)


def _gray(image: Image, rng: np.random.Generator) -> Image:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _brightness_contrast(image: Image, rng: np.random.Generator) -> Image:
    contrast, brightness = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2) * 255
    return _lookup(image, contrast * np.arange(256) + brightness)


def _noise(image: Image, rng: np.random.Generator) -> Image:
    factors = rng.random(image.shape, np.float32) + np.float32(0.5)
    return cv2.multiply(image, factors, dtype=cv2.CV_8U)


def _hue(image: Image, rng: np.random.Generator) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hue, saturation, value = (rng.uniform(-limit, limit) for limit in (20, 30, 20))
    levels = np.arange(256)
    tables = np.stack(((levels + hue) % 180, (levels + saturation).clip(0, 255), (levels + value).clip(0, 255)), -1)
    return cv2.cvtColor(cv2.LUT(hsv, tables.astype(np.uint8)[:, None]), cv2.COLOR_HSV2BGR)


def _posterize(image: Image, rng: np.random.Generator) -> Image:
    return image & np.uint8(0b11110000)


def _gamma(image: Image, rng: np.random.Generator) -> Image:
    return _lookup(image, 255 * (np.arange(256) / 255) ** rng.uniform(0.8, 2.0))


def _equalize(image: Image, rng: np.random.Generator) -> Image:
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])


def _lookup(image: Image, values: np.ndarray) -> Image:
    return cv2.LUT(image, (values + 0.5).clip(0, 255).astype(np.uint8))


_Operation = Callable[[Image, np.random.Generator], Image]
_GROUPS: tuple[dict[_Operation, float], dict[_Operation, float]] = (
    {_downscale: 0.1, _compress: 0.1, _rain: 0.1, _motion_blur: 0.2, _blur: 0.1, _snow: 0.5},
    {
        _clahe: 0.2,
        _gray: 0.2,
        _brightness_contrast: 0.2,
        _noise: 0.2,
        _hue: 0.2,
        _posterize: 0.1,
        _gamma: 0.1,
        _equalize: 0.1,
    },
)
"""Operations and how often each is chosen, against the others of its group."""
