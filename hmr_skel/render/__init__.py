"""Pictures of meshes on the CPU."""

from hmr_skel.render.mesh import Light, Rendering, render_mesh

__all__ = ["Light", "Rendering", "render_mesh"]
