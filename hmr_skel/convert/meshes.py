"""SKEL's joints and meshes in a clip's frames, and meshes as files: `.glb` and `.obj`, metres, y up."""

from pathlib import Path

import numpy as np
import torch

from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.lbs import chain
from hmr_skel.body.moving_joints import moving_offsets
from hmr_skel.body.skel import Skel
from hmr_skel.convert.clips import UPRIGHT, SkelClip, require_frame
from hmr_skel.data.atomic import replacing
from hmr_skel.rows import SkelParams

PARTS = {"skin": (137, 195, 235, 110), "skeleton": (241, 191, 153, 255)}
"""Part -> its colour in a .glb, RGBA: the bones show through the skin."""

_CHUNK = 512  # rows whose shapes are in memory at once


def skel_joints(clip: SkelClip, skel: Skel) -> np.ndarray:
    """SKEL's joints float32 [N 24 3], m, in the clip's own frame. No vertex is posed."""
    found = np.empty((len(clip), 24, 3), np.float32)
    for first in range(0, len(clip), _CHUNK):
        rows = slice(first, first + _CHUNK)
        q, betas, transl = (torch.from_numpy(v[rows]).to(skel.template) for v in (clip.q, clip.betas, clip.transl))
        # A shape that all rows share is prepared once.
        shape = skel.prepare_shape(betas[:1] if (betas == betas[:1]).all() else betas)
        offsets = shape.offsets + moving_offsets(q, shape.joints)
        posed = chain(skel.local_rotmat(q, shape), offsets, SKEL_PARENTS)[1]
        found[rows] = (posed + transl.unsqueeze(1)).cpu().numpy()
    return found


@torch.no_grad()
def body_meshes(skel: Skel, params: SkelParams) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One body's skin and skeleton: vertices [V 3], m, in the frame of its parameters, and faces [F 3] of each."""
    at = params.to(skel.template.device, skel.template.dtype)[None]
    posed = skel(at.q, at.betas, at.transl, skeleton=True)
    assert posed.skeleton_vertices is not None
    return {
        "skin": (posed.vertices[0].cpu().numpy(), skel.faces),
        "skeleton": (posed.skeleton_vertices[0].cpu().numpy(), skel.skeleton_faces),
    }


def write_mesh(clip: SkelClip, row: int, skel: Skel, path: Path) -> None:
    """Write the meshes of one row; `path` ends in .glb or .obj.

    Raises:
        UserError: the clip's frame is not known, or the file cannot be written.
    """
    params = SkelParams(*(torch.from_numpy(v[row]) for v in (clip.q, clip.betas, clip.transl)))
    write_parts(body_meshes(skel, params), require_frame(clip.smpl, "a mesh file"), path)


def write_parts(parts: dict[str, tuple[np.ndarray, np.ndarray]], frame: str, path: Path) -> None:
    """Write meshes as named parts of one file.

    Args:
        parts: name in `PARTS` -> vertices [V 3], m, and faces [F 3].
        frame: camera, y-up or z-up: what the vertices are in. In the file y is up.
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
        mesh = trimesh.Trimesh(vertices @ UPRIGHT[frame].T.astype(vertices.dtype), faces, process=False)
        if kind == "glb":
            mode = "BLEND" if PARTS[name][3] < 255 else "OPAQUE"
            colour = PBRMaterial(name=name, baseColorFactor=PARTS[name], alphaMode=mode, metallicFactor=0.0)
            mesh.visual = TextureVisuals(material=colour)
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    content = scene.export(file_type=kind)
    with replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
