"""Meshes as the input: vertices in files, or posed by another body's parameters, and SMPL's parameters of them.

What is fitted is the mesh itself. SMPL's parameters are estimated from it: they say where the fit starts, where SKEL's
root is, and what the output's `smpl_*` columns hold.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fitting.meshes import NO_BODY, Inverse, root
from hmr_skel.convert.clips import SmplClip
from hmr_skel.convert.known import ANY_KEYS
from hmr_skel.convert.mesh_rows import MeshArray, MeshRows
from hmr_skel.convert.parameters import LENGTHS, numbers, plain
from hmr_skel.convert.people import recognise
from hmr_skel.data.annotations import GENDER_OF, to_genders, to_texts
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.convert.fit import Bodies
    from hmr_skel.convert.reading import ReadOptions

VERTEX_KEYS = ("vertices", "verts", "smpl_vertices", "pred_vertices", "v")
"""Keys of vertices [T V 3] in files without a pose."""
ENDINGS = (".obj", ".ply")
_FEWEST = 1000  # vertices of a body
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
        (int(clip.number[i]), f"its mesh is no body in SMPL's topology ({apart[i] * 1000:.0f} mm off)")
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
        pelvis[rows] = smpl.shaped(torch.from_numpy(clip.betas[rows]).to(smpl.template))[1][:, 0].cpu().double()
    return pelvis


def mesh_array(contents: Any) -> tuple[str, np.ndarray] | None:
    """The key and the vertices [T V 3] of a file that holds meshes and no pose; None of any other."""
    if not isinstance(contents, Mapping):
        return None
    alone = list(contents) == ["pose"]  # an array alone is read as a pose
    if not alone and recognise(contents) is not None:
        return None
    for key in ("pose",) if alone else VERTEX_KEYS:
        if key in contents:
            array = plain(contents[key])
            shape = np.shape(array)
            if len(shape) in (2, 3) and shape[-1] == 3 and shape[-2] >= _FEWEST:
                return key, np.asarray(array).reshape(-1, *shape[-2:])
    return None


def mesh_clip(
    array: np.ndarray, contents: Mapping, path: Path, options: "ReadOptions", per_file: bool = False
) -> SmplClip:
    """A clip of vertices [T V 3]. Raises `UserError` where they can hardly be in metres."""
    count = len(array)
    if not count:
        raise UserError(f"{path}: has no mesh. Expected vertices [T 6890 3].")
    sides = [np.ptp(np.asarray(mesh, np.float64), axis=0).max() for mesh in array[:: max(count // 10, 1)]]
    side = float(np.nanmedian(sides))
    if options.units.lengths is None and not _TALL[0] < side < _TALL[1] and np.isfinite(side):
        raise UserError(
            f"{path}: the bodies are {side:.3g} long, which is not metres. Say --lengths cm or --lengths mm (or "
            "--lengths m, if it is)."
        )
    scale = np.full(3, LENGTHS[options.units.lengths or "m"], np.float32)
    if options.left_handed:
        scale[0] *= -1
    said = to_genders(to_texts(np.ravel(plain(contents["gender"]))))[0] if "gender" in contents else "neutral"
    gender = options.smpl_gender or said
    if gender not in GENDER_OF:
        raise UserError(f"{path}: 'gender' is {gender!r}. Expected neutral, male or female: say --smpl-gender.")
    rate = next((contents[key] for key in ANY_KEYS["rate"] if key in contents), None)
    rate = options.frame_rate if rate is None else float(numbers(rate, f"{path}: frames a second").ravel()[0])
    nothing = np.full((count, 24, 3), np.nan, np.float32)
    return SmplClip(
        name=path.stem,
        source=path.name,
        file=path.stem,
        pose=nothing,
        betas=nothing[:, :10, 0],
        transl=nothing[:, 0],
        gender=np.full(count, gender, object),
        number=np.arange(count),
        moving=count > 1 and options.rows in (None, "frames"),
        frame=options.frame,
        frame_rate=rate,
        per_file=per_file,
        mesh=MeshRows.of(MeshArray(path.name, array, scale), count),
    )


def read_mesh_file(path: Path) -> np.ndarray:
    """The vertices [V 3] of an .obj or a .ply, in the file's order. Raises `UserError` where there are none."""
    try:
        content = path.read_bytes()
        vertices = _ply(content) if content.startswith(b"ply") else _obj(content)
    except (ValueError, IndexError, KeyError, OSError, StopIteration) as error:
        raise UserError(f"{path}: cannot be read as a mesh: {error}. Expected an .obj or .ply with vertices.") from None
    if len(vertices) < _FEWEST:
        raise UserError(f"{path}: has {len(vertices)} vertices. Expected a body's mesh.")
    return vertices


def _obj(content: bytes) -> np.ndarray:
    # trimesh would split vertices at the seams of a texture, and so change their order.
    lines = re.findall(rb"^v[ \t]+(\S+)[ \t]+(\S+)[ \t]+(\S+)", content, re.MULTILINE)
    return np.array(lines, np.bytes_).astype(np.float32).reshape(-1, 3)


def _ply(content: bytes) -> np.ndarray:
    """Vertices of a .ply, text or binary, in its order."""
    import trimesh

    loaded = trimesh.load(io.BytesIO(content), file_type="ply", process=False)
    return np.asarray(loaded.vertices, np.float32)  # ty: ignore[missing-attribute]
