"""The two kinds of picture: a body alone, seen from any side, and a body over the photograph that it was found in."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from hmr_skel.render.camera import Camera, View, frame
from hmr_skel.render.mesh import Light
from hmr_skel.render.scene import PAPER, STUDIO, Part, draw


def portrait(
    parts: Sequence[Part],
    view: View = "front",
    width: int = 512,
    height: int = 512,
    around: Float[np.ndarray, "N 3"] | None = None,
    background: tuple[float, float, float] = PAPER,
    supersample: int = 2,
    light: Light = STUDIO,
) -> UInt8[np.ndarray, "H W 3"]:
    """Parts alone in a picture that they fill.

    Args:
        parts: m, in a camera's frame (y down); where they stand in it does not matter.
        view: `front` is the direction that the camera of that frame looks in; `side`, `back` and `top` turn the body.
        width, height: of the picture, px.
        around: vertices to be framed, so that several pictures are alike; those of the parts if not given.
        background: RGB 0..1.
        supersample: samples per pixel along each axis.
        light: where it comes from, in the frame of the picture.
    """
    if around is None:
        around = np.concatenate([part.vertices for part in parts])
    framing = frame(around, view, width, height)
    placed = [part.at(framing.place(part.vertices)) for part in parts]
    return draw(placed, framing.camera, background, supersample, light)


def overlay(
    photograph: UInt8[np.ndarray, "H W 3"],
    parts: Sequence[Part],
    cam_int: Float[np.ndarray, "3 3"],
    supersample: int = 2,
) -> UInt8[np.ndarray, "H W 3"]:
    """Parts over the photograph that they are annotated in.

    Args:
        photograph: RGB.
        parts: m, in the photograph's camera frame.
        cam_int: the photograph's intrinsics, px.
        supersample: samples per pixel along each axis.
    """
    height, width = photograph.shape[:2]
    return draw(parts, Camera(np.asarray(cam_int, np.float64), width, height), photograph, supersample)
