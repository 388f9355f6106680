"""Meshes as the input: vertices in files, or posed by another body's parameters, and SMPL's parameters of them.

What is fitted is the mesh itself. SMPL's parameters are estimated from it: they say where the fit starts, where SKEL's
root is, and what the output's `smpl_*` columns hold.
"""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fitting.meshes import NO_BODY, Inverse, root
from hmr_skel.convert.clips import SmplClip
from hmr_skel.convert.files import FEWEST_VERTICES
from hmr_skel.convert.mesh_rows import MeshArray
from hmr_skel.convert.parameters import LENGTHS, Fields, Parameters, Units, check_metres, numbers, vectors
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.convert.fit import Bodies

ENDINGS = (".obj", ".ply")
_CHUNK = 256  # meshes in memory at once
_TALL = (0.3, 4.0)  # m: the longest side of a body's box


def with_parameters(clip: SmplClip, bodies: "Bodies") -> SmplClip:
    """A clip of meshes with the parameters of SMPL that are nearest to them; any other clip as it is.

    Where `transl` is the place of the root joint, it becomes SMPL's: it moves that joint from its place in the T-pose.

    Rows whose mesh is not finite or no body are left out and named. Raises `UserError` where that is all of them.
    """
    if clip.at_pelvis:
        transl = (clip.transl - rest_pelvis(clip, bodies)).astype(np.float32)
        return replace(clip, transl=transl, at_pelvis=False)
    if clip.mesh is None or clip.mesh.rotmat is not None or not len(clip):
        return clip
    if len(set(clip.gender.tolist())) > 1:
        raise UserError(f"{clip.source}: its meshes are of several genders. Expected one: say --smpl-gender.")
    smpl = bodies.smpl(clip.gender[0])
    inverse, found = Inverse(smpl), []
    for first in range(0, len(clip), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(clip)))
        params, apart = inverse(clip.mesh.take(rows).read(bodies).to(bodies.device))
        found.append([values.cpu() for values in (*vars(params).values(), *root(params, smpl), apart)])
    columns = (torch.cat(values).numpy() for values in zip(*found, strict=True))
    orient, pose, betas, transl, rotmat, place, apart = columns
    good = apart < NO_BODY
    if not good.any():
        raise UserError(
            f"{clip.source}: its meshes are {np.median(apart) * 1000:.0f} mm from the nearest body of SMPL. Expected "
            "vertices in SMPL's order, in metres: were vertices reordered or merged as the file was written? Is it "
            "mirrored (--left-handed)?"
        )
    note = (
        f"{clip.source}: what is fitted is the mesh; smpl_pose, smpl_betas and smpl_transl are estimated from it (mean "
        f"distance {apart[good].mean() * 1000:.1f} mm)"
    )
    left = tuple(
        (
            int(clip.number[i]),
            f"its mesh is no body in SMPL's topology ({apart[i] * 1000:.0f} mm off)"
            if np.isfinite(apart[i])
            else "its mesh is not finite",
        )
        for i in np.flatnonzero(~good)
    )
    solved = replace(
        clip,
        pose=np.concatenate((orient[:, None], pose), 1),
        betas=betas,
        transl=transl,
        mesh=replace(clip.mesh, rotmat=rotmat, place=place),
        notes=(*clip.notes, note),
    )
    return replace(solved.take(good), left_out=(*clip.left_out, *left))


def rest_pelvis(clip: SmplClip, bodies: "Bodies") -> np.ndarray:
    """SMPL's root joint [T 3] in the T-pose of each row's shape."""
    pelvis = np.empty((len(clip), 3))
    for gender in set(clip.gender.tolist()):
        rows = np.flatnonzero(clip.gender == gender)
        smpl = bodies.smpl(gender)
        betas = torch.from_numpy(clip.betas[rows]).to(smpl.template)  # no meshes of so many rows
        pelvis[rows] = (smpl.joint_template[0] + betas @ smpl.joint_shapedirs[:, :3]).cpu().double()
    return pelvis


def read_meshes(fields: Fields, where: str, units: Units, left_handed: bool) -> tuple[Parameters, MeshArray]:
    """Vertices, and parameters that are not known yet. Raises `UserError` where they can hardly be in metres."""
    array = numbers(fields["vertices"][1], f"{where}: {fields['vertices'][0]!r}")
    array = array.reshape(-1, *array.shape[-2:])
    count = len(array)
    if not count:
        raise UserError(f"{where}: has no mesh. Expected vertices [T 6890 3].")
    sides = [np.ptp(np.asarray(mesh, np.float64), axis=0).max() for mesh in array[:: max(count // 10, 1)]]
    side = float(np.median([side for side in sides if np.isfinite(side)] or [1.0]))
    if units.lengths is None and not _TALL[0] < side < _TALL[1]:
        raise UserError(
            f"{where}: the bodies are {side:.3g} long, which is not metres. Say --lengths cm or --lengths mm (or "
            "--lengths m, if it is)."
        )
    scale = np.full(3, LENGTHS[units.lengths or "m"], np.float32)
    if left_handed:
        scale[0] *= -1
    moved = vectors(fields["transl"], where, count).astype(np.float32) if "transl" in fields else None
    notes = [] if moved is None else check_metres(moved * scale, where, "camera", None, False, sure=True)
    if moved is None and fields["vertices"][0] == "pred_vertices":
        notes = [f"{where}: no translation, 'pred_cam_t', beside 'pred_vertices': the body stays at the origin"]
    nothing = np.full((count, 24, 3), np.nan, np.float32)
    mesh = MeshArray(Path(where).name, array, scale, moved)
    return Parameters(nothing, nothing[:, :10, 0], nothing[:, 0], 0, tuple(notes)), mesh


def read_mesh_file(path: Path) -> np.ndarray:
    """The vertices [V 3] of an .obj or a .ply, in the file's order. Raises `UserError` where there are none."""
    import trimesh

    try:
        content = path.read_bytes()
        if content.startswith(b"ply"):
            vertices = trimesh.load(io.BytesIO(content), file_type="ply", process=False).vertices  # ty: ignore[missing-attribute]
        else:  # trimesh would split vertices at the seams of a texture, and so change their order
            vertices = np.array(re.findall(rb"^v[ \t]+(\S+)[ \t]+(\S+)[ \t]+(\S+)", content, re.MULTILINE), np.bytes_)
        vertices = vertices.astype(np.float32).reshape(-1, 3)
    except (ValueError, IndexError, KeyError, OSError, StopIteration) as error:
        raise UserError(f"{path}: cannot be read as a mesh: {error}. Expected an .obj or .ply with vertices.") from None
    if len(vertices) < FEWEST_VERTICES:
        raise UserError(f"{path}: has {len(vertices)} vertices. Expected a body's mesh.")
    return vertices
