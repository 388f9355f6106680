"""Moves bones that stick out of the skin back in, smoothly. Metres."""

from dataclasses import replace

import numpy as np

from tools.open_body.bone_segments import Bone
from tools.open_body.rajagopal_meshes import Mesh

MARGIN = 0.004
"""Least depth below the skin that pushing in aims at."""
PUSH_ROUNDS = 12
NODE_SPACING = 0.01
PUSH_RADIUS = 0.03
"""Neighbourhood over which a push is spread, so that bones bend rather than dent."""


def push_inside(placed: list[Bone], skin: np.ndarray, faces: np.ndarray) -> list[Bone]:
    """Move what lies less than the margin below the skin inwards, spreading each push over its neighbourhood."""
    from scipy.sparse import csr_matrix, identity
    from scipy.spatial import KDTree

    points = np.concatenate([bone.mesh.vertices for bone in placed])
    dense, normals = _dense_skin(skin, faces)
    tree = KDTree(dense)
    # Pushes are spread over nodes, the centres of small cubes, and carried back to the points.
    cube = np.unique(np.round(points / NODE_SPACING).astype(int), axis=0, return_inverse=True)[1].reshape(-1)
    members = csr_matrix((np.ones(len(cube)), (cube, np.arange(len(cube)))))
    size = np.asarray(members.sum(1))
    nodes = members @ points / size
    near = KDTree(nodes).sparse_distance_matrix(KDTree(nodes), PUSH_RADIUS, output_type="coo_matrix").tocsr()
    near.data = np.square(1 - np.square(near.data / PUSH_RADIUS))
    near = near + identity(len(nodes), format="csr")
    gap, carriers = KDTree(nodes).query(points, k=3)
    carry = 1 / (gap + 0.002)
    carry = carry / carry.sum(1, keepdims=True)
    for _ in range(PUSH_ROUNDS):
        _, nearest = tree.query(points, k=4)
        depth = -((points[:, None] - dense[nearest]) * normals[nearest]).sum(2).mean(1)
        push = -normals[nearest].mean(1) * np.clip(MARGIN - depth, 0, 0.02)[:, None]
        pushed = (depth < MARGIN).astype(float)
        count = np.maximum(members @ pushed, 1e-9)[:, None]
        node_push, node_pushed = members @ push / count, np.minimum(1, 3 * (members @ pushed) / size[:, 0])
        # Averaged over the nodes that are pushed, faded out where few of the neighbours are.
        share = near @ node_pushed
        spread = near @ (node_push * node_pushed[:, None]) / np.maximum(share, 1e-9)[:, None]
        spread = spread * np.minimum(1, 2.5 * share / np.asarray(near.sum(1)).ravel())[:, None]
        points = points + 0.7 * (carry[:, :, None] * spread[carriers]).sum(1)
    result, start = [], 0
    for bone in placed:
        count = len(bone.mesh.vertices)
        result.append(replace(bone, mesh=Mesh(points[start : start + count], bone.mesh.faces)))
        start += count
    return result


def _dense_skin(skin: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and face centres with their outward normals."""
    corner = skin[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    at_vertices = np.zeros_like(skin)
    for i in range(3):
        np.add.at(at_vertices, faces[:, i], normal)
    normals = np.concatenate([at_vertices, normal])
    return np.concatenate([skin, corner.mean(1)]), normals / np.linalg.norm(normals, axis=1, keepdims=True)
