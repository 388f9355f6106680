"""Distances as colours, the same in pictures, legends and the report: dark blue is nothing, yellow the scale's end."""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float


def heat_colors(values: Float[np.ndarray, "*shape"], high: float) -> Float[np.ndarray, "*shape 3"]:
    """RGB 0..1 of values between 0 and `high` (in whatever unit both are); what lies beyond takes the end's colour.

    The scale is OpenCV's copy of cividis: even in brightness, and read alike by the colour-blind.
    """
    if not high > 0:
        raise ValueError(f"high is {high}, must be above 0")
    place = np.clip(np.asarray(values, np.float64) / high, 0, 1) * 255
    table = _table()
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, 255)
    share = (place - below)[..., None]
    return (table[below] * (1 - share) + table[above] * share).astype(np.float32)


def heat_stops(count: int = 9) -> list[str]:
    """Colours at even steps from 0 to `high`, as #rrggbb, for a legend's gradient."""
    return [rgb_to_hex(color) for color in heat_colors(np.linspace(0, 1, count), 1.0)]


def rgb_to_hex(color: Any) -> str:
    """#rrggbb of RGB 0..1."""
    return "#" + "".join(f"{round(float(channel) * 255):02x}" for channel in color)


def _table() -> Float[np.ndarray, "256 3"]:
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.applyColorMap(ramp, cv2.COLORMAP_CIVIDIS)[:, 0, ::-1].astype(np.float64) / 255
