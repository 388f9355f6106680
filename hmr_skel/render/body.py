"""SKEL bodies as parts of a picture: skin, skeleton, or bones under a translucent skin."""

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
"""RGB of the fitted skin, of bones, and of a mesh that was annotated."""
VEIL = 0.17
"""Opacity of a skin that bones show through."""


def mesh_part(
    vertices: Float[np.ndarray, "V 3"], faces: np.ndarray, color: tuple[float, float, float], opacity: float = 1.0
) -> Part:
    """A mesh of one colour, RGB 0..1."""
    return Part(np.asarray(vertices, np.float32), faces, np.array([color], np.float32), opacity)


def body_parts(
    skel: Skel,
    params: SkelParams,
    show: Show = "both",
    color: tuple[float, float, float] = SKIN,
) -> list[Part]:
    """One body as the parts of a picture.

    Args:
        skel: the model.
        params: of one body, without a batch shape: q [46], betas [10], transl [3]; camera frame.
        show: the skin, the bones, or `both`: bones under a translucent skin.
        color: of the skin, RGB 0..1.
    """
    with torch.no_grad():
        at = params.to(skel.template.device, skel.template.dtype)
        posed = skel(at.q, at.betas, at.transl, skeleton=show != "skin")
    skin = mesh_part(posed.vertices.cpu().numpy(), skel.faces, color, 1.0 if show == "skin" else VEIL)
    if posed.skeleton_vertices is None:
        return [skin]
    bones = mesh_part(posed.skeleton_vertices.cpu().numpy(), skel.skeleton_faces, BONE)
    return [bones] if show == "skeleton" else [bones, skin]
