"""Draw opaque and translucent meshes in one antialiased picture, alone or over a photograph.

The rasteriser (`raster.py`) uses numpy and needs no display, OpenGL or ray-tracing library. It draws a skin and a
skeleton (45,000 faces) several times per second on one core. Meshes are rendered finer than the picture and averaged,
only in the pixels that they cover, so that the size of a photograph does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from hmr_skel.render.camera import Camera, View, frame
from hmr_skel.render.mesh import Light, Rendering, render_mesh
from hmr_skel.render.raster import NEAR

PAPER = (0.965, 0.965, 0.96)
"""The default background, RGB."""
STUDIO = Light(direction=(-0.45, -0.65, -0.75), sun=0.7, sky=0.5, ground=0.34, color=(1.0, 0.98, 0.95))
"""A soft light, with which no part of a body is lost in shadow."""
EVEN = Light(direction=STUDIO.direction, sun=0.44, sky=0.6, ground=0.46)
"""A light for colours that mean numbers, without glare and with little shadow."""
_MOST_SAMPLES = 3_000_000  # samples drawn at once, so that a large photograph does not fill memory
_MOST_GRAZING = 0.12  # cosine to the viewer below which a shell does not get denser


@dataclass(frozen=True)
class Part:
    """A mesh to be drawn."""

    vertices: Float[np.ndarray, "V 3"]  # m, camera frame (x right, y down, z forward)
    faces: Int[np.ndarray, "F 3"]  # counter-clockwise seen from outside
    colors: Float[np.ndarray, "#V 3"]  # RGB 0..1 per vertex, or one row for all
    opacity: float = 1.0
    """1 hides everything behind. Below 1 the mesh is a thin shell, of which only the nearest wall shows: it has this
    opacity where it faces the viewer, and is denser towards its outline."""

    def at(self, vertices: Float[np.ndarray, "V 3"]) -> "Part":
        """The same part with other vertices."""
        return replace(self, vertices=vertices)


def portrait(
    parts: Sequence[Part], view: View = "front", width: int = 512, height: int = 512,
    around: Float[np.ndarray, "N 3"] | None = None, background: tuple[float, float, float] = PAPER,
    light: Light = STUDIO,
) -> UInt8[np.ndarray, "H W 3"]:  # fmt: skip
    """Parts alone in a picture that they fill.

    Args:
        parts: m, in a camera's frame (y down); where they stand in it does not matter.
        view: `front` is the direction that the camera of that frame looks in; `side`, `back` and `top` turn the body.
        width, height: of the picture, px.
        around: vertices to be framed, so that several pictures are alike; those of the parts if not given.
        background: RGB 0..1.
        light: where it comes from, in the frame of the picture.
    """
    if around is None:
        around = np.concatenate([part.vertices for part in parts])
    framing = frame(around, view, width, height)
    placed = [part.at(framing.place(part.vertices)) for part in parts]
    return draw(placed, framing.camera, background, light=light)


def overlay(
    photograph: UInt8[np.ndarray, "H W 3"], parts: Sequence[Part], cam_int: Float[np.ndarray, "3 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Parts over the photograph that they are annotated in.

    Args:
        photograph: RGB.
        parts: m, in the photograph's camera frame.
        cam_int: the photograph's intrinsics, px.
    """
    height, width = photograph.shape[:2]
    return draw(parts, Camera(np.asarray(cam_int, np.float64), width, height), photograph)


def draw(
    parts: Sequence[Part], camera: Camera, background: UInt8[np.ndarray, "H W 3"] | tuple[float, float, float] = PAPER,
    supersample: int = 2, light: Light = STUDIO,
) -> UInt8[np.ndarray, "H W 3"]:  # fmt: skip
    """Draw parts in front of a background. Opaque parts hide one another by depth, translucent ones are blended over.

    Args:
        parts: in any order.
        camera: gives the picture's size.
        background: an RGB picture of the camera's size (it is not written to), or one colour 0..1.
        supersample: samples per pixel along each axis.
        light: where it comes from.

    Raises `ValueError` where the background is not of the camera's size.
    """
    shape = (camera.height, camera.width, 3)
    if isinstance(background, tuple):
        picture = np.empty(shape, np.uint8)
        picture[:] = np.round(np.asarray(background) * 255)
    elif background.shape != shape:
        raise ValueError(f"the background is {background.shape}, the camera's picture {shape}")
    else:
        picture = background.copy()
    box = _box(parts, camera)
    if box is None:
        return picture
    left, top, width, height = box
    rows = max(_MOST_SAMPLES // (width * supersample**2), 1)
    for first in range(top, top + height, rows):
        band = min(rows, top + height - first)
        fine = camera.window(left, first, width, band).finer(supersample)
        layers = cv2.resize(_layers(parts, fine, light), (width, band), interpolation=cv2.INTER_AREA)
        behind = picture[first : first + band, left : left + width]
        behind[:] = np.round(layers[..., :3] * 255 + behind * (1 - layers[..., 3:]))
    return picture


def _layers(parts: Sequence[Part], camera: Camera, light: Light) -> Float[np.ndarray, "H W 4"]:
    """RGB times alpha, and alpha, of all parts together."""
    rendered = [
        render_mesh(part.vertices, part.faces, camera.cam_int, camera.width, camera.height, part.colors, light)
        for part in parts
    ]
    depth = np.full((camera.height, camera.width), np.inf, np.float32)
    result = np.zeros((camera.height, camera.width, 4), np.float32)
    for part, layer in zip(parts, rendered, strict=True):
        if part.opacity >= 1:
            nearer = layer.depth < depth
            depth[nearer] = layer.depth[nearer]
            result[nearer, :3] = layer.rgb[nearer]
            result[nearer, 3] = 1
    shells = [(layer, _density(layer, part.opacity)) for part, layer in zip(parts, rendered, strict=True)
              if part.opacity < 1]  # fmt: skip
    if not shells:
        return result
    # Far to near, pixel by pixel: shells may interlock.
    order = np.argsort(np.stack([-layer.depth for layer, _ in shells]), axis=0) if len(shells) > 1 else None
    for rank in range(len(shells)):
        for number, (layer, alpha) in enumerate(shells):
            shown = layer.depth < depth
            if order is not None:
                shown &= order[rank] == number
            a = alpha[shown][:, None]
            color = np.concatenate((layer.rgb[shown], np.ones_like(a)), 1)
            result[shown] = color * a + result[shown] * (1 - a)
    return result


def _density(layer: Rendering, opacity: float) -> Float[np.ndarray, "H W"]:
    """The opacity of a shell where it is seen aslant: light crosses more of it."""
    return 1 - (1 - opacity) ** (1 / layer.facing.clip(_MOST_GRAZING, 1))


def _box(parts: Sequence[Part], camera: Camera) -> tuple[int, int, int, int] | None:
    """Left, top, width, height of the pixels that the parts may cover; None where they are out of the picture."""
    points = [part.vertices[part.vertices[:, 2] > NEAR] for part in parts]
    points = np.concatenate([np.zeros((0, 3), np.float32), *points])
    if not len(points):
        return None
    pixels = camera.project(points)
    left, top = np.maximum(np.floor(pixels.min(0)) - 1, 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(pixels.max(0)) + 2, (camera.width, camera.height)).astype(int).tolist()
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None
