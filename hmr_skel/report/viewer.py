"""The content of the page's 3D viewer: rows as packed meshes, and the library that draws them.

The library is three.js (MIT) with its trackball, from the wheel of trimesh, which hmr-skel depends on. So this project
has no copy of it, and the page fetches nothing.
"""

import base64
import io
import re
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from hmr_skel.body.skel import Skel
from hmr_skel.report.bodies import PosedRow

MOST_VERTICES = 40_000
"""The most bone vertices in the viewer, with which eight rows and two genders stay under 6 MB, and the page under 10
MB. SKEL's skeleton has about 247,000, which take 2 MB per row."""
_FINEST_M, _COARSER = 0.001, 1.25
_TEMPLATE = "templates/viewer.zip"
_LIBRARY = re.compile(r"<script>(.*?THREE\.TrackballControls=TrackballControls;\}\)\(\);)", re.DOTALL)


def three_js() -> str | None:
    """The source of three.js and its TrackballControls, as globals, with the licence at its beginning. None if the
    installed trimesh does not have it in the known form."""
    from trimesh import resources

    try:
        content = resources.get_bytes(_TEMPLATE)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            page = archive.read("viewer.html.template").decode()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    match = _LIBRARY.search(page)
    return None if match is None else match[1].replace("</script", "<\\/script")


def pack_scene(
    title: str, posed: PosedRow, bones: Int[np.ndarray, "K"], facts: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Pack a row for the viewer: vertices y up, centred, in 16 bits each (0.05 mm), and the text beside them.

    Args:
        title: the title of the row.
        posed: its meshes.
        bones: the shown vertices of the bones, from `thin_bones`.
        facts: terms and their values.
    """
    meshes = {"skin": posed.skin, "bones": posed.bones[bones]}
    if posed.target is not None:
        meshes["target"] = posed.target
    every = np.concatenate(list(meshes.values()))
    low, high = every.min(0), every.max(0)
    centre, step = (low + high) / 2, float((high - low).max()) / 65534  # so that the ends fit
    return {
        "title": title,
        "facts": list(facts),
        "step": step,
        "meshes": {
            name: _base64(np.round((vertices - centre) * (1, -1, -1) / step).astype("<i2"))
            for name, vertices in meshes.items()
        },
    }


def pack_faces(skel: Skel, bones: Int[np.ndarray, "F 3"]) -> dict[str, Any]:
    """The faces that all rows of a gender share, as integers of `bits`; those of the bones come from `thin_bones`."""
    packed = {}
    for name, faces in (("skin", skel.faces), ("bones", bones)):
        bits = 32 if faces.max() > 65535 else 16
        packed[name] = {"bits": bits, "data": _base64(faces.astype(f"<u{bits // 8}"))}
    return packed


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def thin_bones(skel: Skel, most: int = MOST_VERTICES) -> tuple[Int[np.ndarray, "K"], Int[np.ndarray, "F 3"]]:
    """The bone vertices to keep, and the faces between them.

    The vertices of a bone in one cell of a grid become one vertex. The grid is as fine as `most` allows; meshes that
    are small enough stay as they are.

    Args:
        skel: the model.
        most: the most vertices to keep.
    """
    points = skel.bone_template.double().cpu().numpy()
    if len(points) <= most:
        return np.arange(len(points)), skel.skeleton_faces
    bone = skel.bone_weights_rigid.argmax(1).cpu().numpy()
    side = _FINEST_M
    while True:
        cells = np.column_stack((bone, np.floor((points - points.min(0)) / side).astype(np.int64)))
        keys = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(0) + 1))
        _, kept, place = np.unique(keys, return_index=True, return_inverse=True)
        if len(kept) <= most:
            break
        side *= _COARSER
    faces = place[skel.skeleton_faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    _, once = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return kept, faces[np.sort(once)]
