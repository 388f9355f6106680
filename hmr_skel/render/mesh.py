"""Draw a shaded mesh: smooth normals, one sun, light from the sky and the ground."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from hmr_skel.render.raster import rasterize


@dataclass(frozen=True)
class Light:
    """The lights. Strengths that sum to 1 expose a white surface fully."""

    direction: tuple[float, float, float] = (-0.4, -0.7, -0.6)  # towards the sun, camera frame (y down)
    sun: float = 0.65
    sky: float = 0.35  # from above
    ground: float = 0.2  # from below
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of the sun, RGB


@dataclass(frozen=True)
class Rendering:
    """A picture of only the mesh. Where `mask` is false, `rgb` and `facing` are 0 and `depth` is infinite."""

    rgb: Float[np.ndarray, "H W 3"]  # 0..1
    depth: Float[np.ndarray, "H W"]  # z, m
    mask: Bool[np.ndarray, "H W"]
    facing: Float[np.ndarray, "H W"]  # cosine of the angle between the surface normal and the direction to the camera

    def over(self, background: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
        """The mesh in front of a picture of the same size, 0..1."""
        return np.where(self.mask[..., None], self.rgb, background)


def render_mesh(
    vertices_cam: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], cam_int: Float[np.ndarray, "3 3"],
    width: int, height: int, colors: Float[np.ndarray, "#V 3"], light: Light | None = None,
) -> Rendering:  # fmt: skip
    """Render a mesh.

    Args:
        vertices_cam: metres, camera frame (x right, y down, z forward).
        faces: counter-clockwise seen from outside; faces seen from behind are left out.
        cam_int: pinhole intrinsics, px; pixel (0, 0) is the centre of the first pixel.
        width, height: of the picture, px.
        colors: RGB 0..1 per vertex, or one row for all.
        light: by default over the viewer's left shoulder.
    """
    light = light or Light()
    seen = rasterize(vertices_cam, faces, cam_int, width, height)
    corners = faces[seen.face]
    normals = vertex_normals(vertices_cam, faces)[corners]
    normals = _mixed(normals, seen.weights)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    albedo = _mixed(np.broadcast_to(colors, vertices_cam.shape).astype(np.float32)[corners], seen.weights)

    towards_sun = np.asarray(light.direction, np.float32)
    towards_sun = towards_sun / np.linalg.norm(towards_sun)
    sun = light.sun * (normals @ towards_sun).clip(0)[:, None] * np.asarray(light.color, np.float32)
    up = (0.5 - 0.5 * normals[:, 1])[:, None]
    shade = albedo * (sun + light.sky * up + light.ground * (1 - up))

    rgb = np.zeros((height * width, 3), np.float32)
    depth = np.full(height * width, np.inf, np.float32)
    mask = np.zeros(height * width, bool)
    facing = np.zeros(height * width, np.float32)
    rgb[seen.pixel] = shade.clip(0, 1)
    depth[seen.pixel] = seen.depth
    mask[seen.pixel] = True
    facing[seen.pixel] = -np.einsum("pc,pc->p", normals, _rays(seen.pixel, cam_int, width))
    shape = (height, width)
    return Rendering(rgb.reshape(*shape, 3), depth.reshape(shape), mask.reshape(shape), facing.reshape(shape))


def _rays(pixel: Int[np.ndarray, "P"], cam_int: Float[np.ndarray, "3 3"], width: int) -> Float[np.ndarray, "P 3"]:
    """Unit vectors from the camera through pixels (row * width + column)."""
    row, column = np.divmod(pixel, width)
    x = (column - cam_int[0, 2]) / cam_int[0, 0]
    y = (row - cam_int[1, 2]) / cam_int[1, 1]
    rays = np.stack((x, y, np.ones_like(x)), 1).astype(np.float32)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _mixed(values: Float[np.ndarray, "P 3 C"], weights: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P C"]:
    """Interpolate the values at the corners of faces; `.sum(1)` over so few takes five times as long."""
    return np.einsum("pkc,pk->pc", values, weights)


def vertex_normals(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """Unit normals, each the area-weighted mean of its faces' normals; zero for vertices without a face."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(face_normals[:, i], 3), len(vertices)) for i in range(3)], 1
    )
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)
