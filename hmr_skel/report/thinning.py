"""Bone meshes with fewer vertices, for the page's 3D viewer: SKEL's skeleton has about 247,000, 2 MB a row."""

import numpy as np
from jaxtyping import Int

from hmr_skel.body.skel import Skel

MOST_VERTICES = 40_000
"""Of the bones in the viewer: eight rows and two genders stay under 6 MB, and the page under 10 with its pictures."""
_FINEST_M = 0.001
_COARSER = 1.25


def thin_bones(skel: Skel, most: int = MOST_VERTICES) -> tuple[Int[np.ndarray, "K"], Int[np.ndarray, "F 3"]]:
    """The vertices to keep of the bone meshes, and the faces between them.

    Those of one bone that share a cell of a grid become one of them; the grid is as fine as the number allows, and
    meshes that are small enough stay as they are.

    Args:
        skel: the model.
        most: vertices at most.
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
