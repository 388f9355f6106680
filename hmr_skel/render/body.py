"""Make parts of a picture from SKEL bodies (skin, skeleton, bones under a skin), and colours from distances."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from hmr_skel.body.skel import Skel
from hmr_skel.render.scene import Part
from hmr_skel.rows import SkelParams

Show = Literal["skin", "skeleton", "both"]

SKIN = (0.45, 0.67, 0.84)
BONE = (0.96, 0.91, 0.80)
ANNOTATION = (0.70, 0.71, 0.74)
"""RGB of the fitted skin, of bones, and of an annotated mesh."""
VEIL = 0.17
"""Opacity of a skin that bones show through."""
# Darker means more, which also works in grey and for colour-blind readers; 0 is pale, so that shading stays visible.
_STOPS = ("#dde5ec", "#f2e2ae", "#f8bd62", "#ec7d38", "#c93a2c", "#7f0f2b")


def mesh_part(
    vertices: Float[np.ndarray, "V 3"], faces: np.ndarray, color: tuple[float, float, float], opacity: float = 1.0
) -> Part:
    """A mesh of one colour, RGB 0..1."""
    return Part(np.asarray(vertices, np.float32), faces, np.array([color], np.float32), opacity)


def body_parts(
    skel: Skel, params: SkelParams, show: Show = "both", color: tuple[float, float, float] = SKIN
) -> list[Part]:
    """One body as the parts of a picture.

    Args:
        skel: the model.
        params: of one body, without batch shape: q [46], betas [10], transl [3]; camera frame.
        show: the skin, the bones, or `both`: bones under a translucent skin.
        color: colour of the skin, RGB 0..1.
    """
    with torch.no_grad():
        at = params.to(skel.template.device, skel.template.dtype)
        posed = skel(at.q, at.betas, at.transl, skeleton=show != "skin")
    skin = mesh_part(posed.vertices.cpu().numpy(), skel.faces, color, 1.0 if show == "skin" else VEIL)
    if posed.skeleton_vertices is None:
        return [skin]
    bones = mesh_part(posed.skeleton_vertices.cpu().numpy(), skel.skeleton_faces, BONE)
    return [bones] if show == "skeleton" else [bones, skin]


def heat_colors(values: Float[np.ndarray, "*shape"], high: float) -> Float[np.ndarray, "*shape 3"]:
    """RGB 0..1 for values from 0 to `high`, in the same unit; values beyond get the colour of the end."""
    if not high > 0:
        raise ValueError(f"high is {high}, must be above 0")
    place = np.asarray(values, np.float64) / high
    at = np.linspace(0, 1, len(_STOPS))
    channels = np.array([[int(stop[i : i + 2], 16) / 255 for i in (1, 3, 5)] for stop in _STOPS])
    return np.stack([np.interp(place, at, channel) for channel in channels.T], -1).astype(np.float32)


def heat_stops(count: int = 9) -> list[str]:
    """Colours at even steps from 0 to `high`, as #rrggbb, for the gradient of a legend."""
    colors = np.round(heat_colors(np.linspace(0, 1, count), 1.0).astype(np.float64) * 255).astype(np.uint8)
    return [f"#{color.tobytes().hex()}" for color in colors]
