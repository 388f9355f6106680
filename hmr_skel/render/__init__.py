"""Draw meshes on the CPU, without a display."""

from hmr_skel.render.body import ANNOTATION, BONE, SKIN, body_parts, heat_colors, mesh_part
from hmr_skel.render.camera import Camera, View, frame
from hmr_skel.render.mesh import Light, Rendering, render_mesh
from hmr_skel.render.scene import PAPER, Part, draw, overlay, portrait

__all__ = [
    "ANNOTATION", "BONE", "PAPER", "SKIN", "Camera", "Light", "Part", "Rendering", "View", "body_parts", "draw",
    "frame", "heat_colors", "mesh_part", "overlay", "portrait", "render_mesh",
]  # fmt: skip
