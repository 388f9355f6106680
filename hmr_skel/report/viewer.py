"""What the page's 3D viewer shows: rows as packed meshes, and the library that draws them.

The library is three.js (MIT) with its trackball, as trimesh ships it inside the wheel that we depend on anyway: nothing
is vendored here and nothing is fetched when the page opens.
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
from hmr_skel.report.bodies import Posed

_TEMPLATE = "templates/viewer.zip"
_LIBRARY = re.compile(r"<script>(.*?THREE\.TrackballControls=TrackballControls;\}\)\(\);)", re.DOTALL)


def three_js() -> str:
    """The source of three.js and its TrackballControls, as globals; its licence line is at its head.

    Raises `RuntimeError` where the installed trimesh holds it in another form.
    """
    from trimesh import resources

    content = resources.get_bytes(_TEMPLATE)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        page = archive.read("viewer.html.template").decode()
    if (match := _LIBRARY.search(page)) is None:
        raise RuntimeError(f"trimesh's {_TEMPLATE} holds no three.js with TrackballControls where it used to")
    return match[1].replace("</script", "<\\/script")


def pack_scene(title: str, posed: Posed, facts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One row for the viewer: vertices y up, centred, in 16 bits each (0.05 mm), and what is said beside them."""
    meshes = {"skin": posed.skin, "bones": posed.bones}
    if posed.target is not None:
        meshes["target"] = posed.target
    every = np.concatenate(list(meshes.values()))
    low, high = every.min(0), every.max(0)
    centre, step = (low + high) / 2, float((high - low).max()) / 65534  # so that the ends fit as well
    return {
        "title": title,
        "facts": list(facts),
        "step": step,
        "meshes": {
            name: _base64(np.round((vertices - centre) * (1, -1, -1) / step).astype("<i2"))
            for name, vertices in meshes.items()
        },
    }


def pack_faces(skel: Skel) -> dict[str, Any]:
    """The faces that all rows of a gender share."""
    return {name: _faces(faces) for name, faces in (("skin", skel.faces), ("bones", skel.skeleton_faces))}


def _faces(faces: Int[np.ndarray, "F 3"]) -> dict[str, Any]:
    wide = int(faces.max()) > 65535
    return {"bits": 32 if wide else 16, "data": _base64(faces.astype("<u4" if wide else "<u2"))}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
