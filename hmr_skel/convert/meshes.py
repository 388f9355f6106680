"""Meshes of single frames: skin and skeleton as two named parts of a `.glb` or `.obj`, metres, y up."""

from pathlib import Path

import numpy as np
import torch

from hmr_skel.body.skel import Skel
from hmr_skel.convert.clips import SkelClip
from hmr_skel.convert.world import require_frame, upright_vertices
from hmr_skel.data.atomic import replacing
from hmr_skel.rows import SkelParams

PARTS = {"skin": (137, 195, 235, 110), "skeleton": (241, 191, 153, 255)}
"""Part -> its colour in a .glb, RGBA: the bones show through the skin."""


def write_mesh(clip: SkelClip, row: int, skel: Skel, path: Path) -> None:
    """Write the meshes of one row; `path` ends in .glb or .obj.

    Raises:
        UserError: the clip's frame is not known, or the file cannot be written.
    """
    write_parts(mesh_parts(clip, row, skel), require_frame(clip.smpl, "a mesh file"), path)


def write_parts(parts: dict[str, tuple[np.ndarray, np.ndarray]], frame: str, path: Path) -> None:
    """Write meshes, each a part of its own.

    Args:
        parts: name in `PARTS` -> vertices [V 3], m, and faces [F 3].
        frame: camera, y-up or z-up: of the vertices. In the file y is up.
        path: ends in .glb or .obj; it appears by rename.

    Raises:
        UserError: the file cannot be written.
    """
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    kind = path.suffix.lower().removeprefix(".")
    scene = trimesh.Scene()
    for name, (vertices, faces) in parts.items():
        mesh = trimesh.Trimesh(upright_vertices(vertices, frame), faces, process=False)
        if kind == "glb":
            mode = "BLEND" if PARTS[name][3] < 255 else "OPAQUE"
            colour = PBRMaterial(name=name, baseColorFactor=PARTS[name], alphaMode=mode, metallicFactor=0.0)
            mesh.visual = TextureVisuals(material=colour)
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    content = scene.export(file_type=kind)
    with replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def mesh_parts(clip: SkelClip, row: int, skel: Skel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vertices [V 3], m, in the clip's own frame, and faces [F 3], of the skin and the skeleton."""
    return body_meshes(skel, SkelParams(*(torch.from_numpy(v[row]) for v in (clip.q, clip.betas, clip.transl))))


@torch.no_grad()
def body_meshes(skel: Skel, params: SkelParams) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Vertices [V 3], m, in the frame of one body's parameters, and faces [F 3], of the skin and the skeleton."""
    at = params.to(skel.template.device, skel.template.dtype)[None]
    posed = skel(at.q, at.betas, at.transl, skeleton=True)
    assert posed.skeleton_vertices is not None
    return {
        "skin": (posed.vertices[0].cpu().numpy(), skel.faces),
        "skeleton": (posed.skeleton_vertices[0].cpu().numpy(), skel.skeleton_faces),
    }
