"""Bone geometry of the Rajagopal 2015 model, from the `nimblephysics` wheel ((c) 2015 Stanford, MIT).

Every mesh is in its OpenSim body's frame: x forward, y up, z to the right, metres.
"""

import pathlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mesh:
    vertices: np.ndarray
    """[V 3] metres."""
    faces: np.ndarray
    """[F 3]."""

    def moved(self, offset: np.ndarray) -> "Mesh":
        return Mesh(self.vertices + offset, self.faces)


def geometry_folder() -> pathlib.Path:
    """Folder of the PLY files inside the installed wheel, which is not imported: it would load a physics engine."""
    import importlib.util

    spec = importlib.util.find_spec("nimblephysics")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("nimblephysics is not installed: install the `builder` extra")
    return pathlib.Path(spec.submodule_search_locations[0]) / "models/rajagopal_data/Geometry"


def read_ply(path: pathlib.Path) -> Mesh:
    """Binary little-endian PLY with float vertices and polygons of any size, cut into triangle fans."""
    data = path.read_bytes()
    header, _, body = data.partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    if "format binary_little_endian 1.0" not in lines:
        raise RuntimeError(f"{path.name}: expected a binary little-endian PLY")
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    properties = [line for line in lines if line.startswith("property float")]
    width = len(properties)
    vertices = np.frombuffer(body, "<f4", counts["vertex"] * width).reshape(-1, width)[:, :3]
    at, faces = counts["vertex"] * width * 4, []
    for _ in range(counts["face"]):
        size = body[at]
        corners = np.frombuffer(body, "<i4", size, at + 1)
        faces += [(corners[0], corners[i], corners[i + 1]) for i in range(1, size - 1)]
        at += 1 + 4 * size
    return weld(Mesh(vertices.astype(np.float64), np.array(faces)))


def weld(mesh: Mesh) -> Mesh:
    """Merge equal vertices, drop degenerate and repeated faces."""
    vertices, inverse = np.unique(np.round(mesh.vertices, 7), axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[mesh.faces]
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[keep]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return compact(Mesh(vertices, faces[np.sort(first)]))


def compact(mesh: Mesh) -> Mesh:
    """Drop vertices that no face uses."""
    used, inverse = np.unique(mesh.faces, return_inverse=True)
    return Mesh(mesh.vertices[used], inverse.reshape(-1, 3))


def components(mesh: Mesh) -> list[Mesh]:
    """Connected pieces, largest first."""
    label = component_labels(len(mesh.vertices), mesh.faces)
    order = np.argsort(-np.bincount(label[mesh.faces[:, 0]], minlength=label.max() + 1), kind="stable")
    pieces = [mesh.faces[label[mesh.faces[:, 0]] == number] for number in order]
    return [compact(Mesh(mesh.vertices, faces)) for faces in pieces if len(faces)]


def component_labels(num_vertices: int, faces: np.ndarray) -> np.ndarray:
    """[V] number of the connected piece that each vertex belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(num_vertices, num_vertices))
    return connected_components(graph, directed=False)[1]
