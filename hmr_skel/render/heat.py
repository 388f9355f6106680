"""Distances as colours, the same in pictures, legends and the report: pale is nothing, dark red the scale's end."""

from typing import Any

import numpy as np
from jaxtyping import Float

# Darker is more, so that it reads in grey and by the colour-blind; pale at 0, so that shading shows on what is well.
_STOPS = ("#dde5ec", "#f2e2ae", "#f8bd62", "#ec7d38", "#c93a2c", "#7f0f2b")


def heat_colors(values: Float[np.ndarray, "*shape"], high: float) -> Float[np.ndarray, "*shape 3"]:
    """RGB 0..1 of values between 0 and `high` (in whatever unit both are); what lies beyond takes the end's colour."""
    if not high > 0:
        raise ValueError(f"high is {high}, must be above 0")
    place = np.asarray(values, np.float64) / high
    at = np.linspace(0, 1, len(_STOPS))
    channels = np.array([[int(stop[i : i + 2], 16) / 255 for i in (1, 3, 5)] for stop in _STOPS])
    return np.stack([np.interp(place, at, channel) for channel in channels.T], -1).astype(np.float32)


def heat_stops(count: int = 9) -> list[str]:
    """Colours at even steps from 0 to `high`, as #rrggbb, for a legend's gradient."""
    return [rgb_to_hex(color) for color in heat_colors(np.linspace(0, 1, count), 1.0)]


def rgb_to_hex(color: Any) -> str:
    """#rrggbb of RGB 0..1."""
    return "#" + "".join(f"{round(float(channel) * 255):02x}" for channel in color)
