"""Measure whether bones lie inside the skin, on the posed meshes of any SKEL body."""

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

MARGIN = 0.002
"""Bone vertices more than this distance outside the skin count as outside, m."""
_NEAR_FACES = 8  # nearest by their centres; more faces change no distance by 0.1 mm
_CHUNK = 64  # points per batch of solid angles over all faces


def bones_outside(
    bones: Float[np.ndarray, "P 3"], skin: Float[np.ndarray, "V 3"], faces: np.ndarray
) -> Float[np.ndarray, "P"]:
    """How far each bone vertex lies outside the skin, m; 0 where it is inside.

    Args:
        bones: of one body, m, any frame (`SkelOutput.skeleton_vertices`).
        skin: of the same body, same frame (`SkelOutput.vertices`): closed, or nearly so.
        faces: [F 3] of the skin, counter-clockwise seen from outside.

    The winding number decides (Jacobson et al. 2013, "Robust inside-outside segmentation"). So where the skin passes
    through itself, as in the fold of a bent elbow, a point inside any part of the body is inside.
    """
    distance = on_skin(bones, skin, faces)[0].clip(0)
    doubtful = np.flatnonzero(distance)
    distance[doubtful[winding_number(np.asarray(bones)[doubtful], skin, faces) > 0.5]] = 0
    return distance


def on_skin(
    points: Float[np.ndarray, "P 3"], skin: Float[np.ndarray, "V 3"], faces: np.ndarray
) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "P 3"]]:
    """The signed distance of points from a skin, m, positive outside, and the unit normal of the nearest face."""
    corners = np.asarray(skin, np.float64)[faces]
    points = np.asarray(points, np.float64)
    near = corners[KDTree(corners.mean(1)).query(points, _NEAR_FACES)[1]]  # [P K 3 3]
    offset, edges = points[:, None, None] - near, np.roll(near, -1, 2) - near
    normal = np.cross(edges[:, :, 0], edges[:, :, 1])
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    height = (offset[:, :, 0] * normal).sum(2)
    above = ((np.cross(normal[:, :, None], edges) * offset).sum(3) >= 0).all(2)  # over the triangle
    share = ((offset * edges).sum(3) / (edges**2).sum(3)).clip(0, 1)
    beside = np.linalg.norm(offset - share[..., None] * edges, axis=3).min(2)
    distance = np.where(above, abs(height), beside)
    # If faces share the nearest point, the face that the point is over most steeply gives the right sign.
    best = np.lexsort((-abs(height), np.round(distance, 9)))[:, 0]
    row = np.arange(len(points))
    return np.copysign(distance[row, best], height[row, best]), normal[row, best]


def winding_number(points: Float[np.ndarray, "P 3"], skin: Float[np.ndarray, "V 3"], faces: np.ndarray) -> np.ndarray:
    """How often a skin surrounds each point: 0 outside, 1 inside, 2 where two parts overlap."""
    skin, points = np.asarray(skin, np.float64), np.asarray(points, np.float64)
    i, j, k = faces.T
    a, b, c = skin[i], skin[j], skin[k]
    # Solid angle of each face (Van Oosterom and Strackee 1983). The triple product is linear in the point.
    volume, area = (a * np.cross(b, c)).sum(1), np.cross(a, b) + np.cross(b, c) + np.cross(c, a)
    ab, bc, ca = (((p - r) ** 2).sum(1) for p, r in ((a, b), (b, c), (c, a)))
    result = np.empty(len(points))
    for first in range(0, len(points), _CHUNK):
        some = points[first : first + _CHUNK]
        square = ((skin - some[:, None]) ** 2).sum(2)
        sa, sb, sc = square[:, i], square[:, j], square[:, k]
        la, lb, lc = (np.sqrt(square)[:, corner] for corner in (i, j, k))
        scale = la * lb * lc + ((sa + sb - ab) * lc + (sb + sc - bc) * la + (sc + sa - ca) * lb) / 2
        result[first : first + _CHUNK] = np.arctan2(volume - some @ area.T, scale).sum(1) / (2 * np.pi)
    return result
