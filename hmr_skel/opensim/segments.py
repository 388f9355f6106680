"""A body cut into the segments of its bones: bone meshes, and masses and inertias from the skin's volume."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.data.atomic import replacing
from hmr_skel.opensim.person import RestBody

# kg/m^3. Winter, "Biomechanics and Motor Control of Human Movement", table 4.1 (after Dempster); the lumbar body and
# the pelvis are his "abdomen and pelvis".
_DENSITY = {
    "pelvis": 1010, "femur": 1050, "tibia": 1090, "talus": 1100, "calcn": 1100, "toes": 1100, "lumbar_body": 1010,
    "thorax": 920, "head": 1110, "scapula": 1040, "humerus": 1070, "ulna": 1130, "radius": 1130, "hand": 1160,
}  # fmt: skip
DENSITY = tuple(float(_DENSITY[name.removesuffix("_r").removesuffix("_l")]) for name in SKEL_JOINTS)
"""The density of each bone's segment."""

_LEAST_VOLUME = 5e-5  # m^3. Bones that hardly any skin belongs to (the talus) get a ball of this size.


@dataclass(frozen=True)
class Segment:
    """What a bone carries, in its own frame: kg, m, kg m^2."""

    mass: float
    center: np.ndarray  # [3] of mass
    inertia: np.ndarray  # [3 3] about the center

    @property
    def inertia_entries(self) -> np.ndarray:
        """[6] xx, yy, zz, xy, xz, yz, as OpenSim and MuJoCo write it."""
        return self.inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]


def segments(person: RestBody, mass: float | None = None) -> list[Segment]:
    """The 24 segments. `mass`, kg, scales them to this total; without it the densities decide.

    The skin of the T-pose is cut where the bone with the largest skinning weight changes, and each cut is closed by a
    fan around its middle.
    """
    faces, weights = person.skel.faces, person.skel.weights.double().cpu().numpy()
    owner = weights[faces].sum(1).argmax(1)
    found = []
    for joint, density in enumerate(DENSITY):
        triangles = _closed(person.in_bone(person.rest, joint), faces[owner == joint])
        found.append(_solid(triangles, density))
    if mass is not None:
        factor = mass / sum(segment.mass for segment in found)
        found = [replace(s, mass=s.mass * factor, inertia=s.inertia * factor) for s in found]
    return found


def bone_meshes(person: RestBody) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Joint -> vertices [V 3], m, in the bone's frame, and faces [F 3] of the bone mesh that moves with it."""
    faces = person.skel.skeleton_faces
    owner = person.skel.bone_weights_rigid.double().cpu().numpy()[faces].sum(1).argmax(1)
    found = {}
    for joint in np.unique(owner).tolist():
        used, numbers = np.unique(faces[owner == joint], return_inverse=True)
        found[joint] = person.in_bone(person.bones[used], joint), numbers.reshape(-1, 3)
    return found


def write_bone_meshes(person: RestBody, model: Path) -> dict[int, str]:
    """Write the bone meshes as binary STL files into `Geometry/` beside a model. Returns joint -> name of its file.

    Raises:
        UserError: a file cannot be written.
    """
    import trimesh
    from trimesh.exchange.stl import export_stl

    files = {}
    for joint, (vertices, faces) in bone_meshes(person).items():
        files[joint] = f"{model.stem}_{SKEL_JOINTS[joint]}.stl"
        content = export_stl(trimesh.Trimesh(vertices, faces, process=False))
        with replacing(model.parent / "Geometry" / files[joint]) as temporary:
            temporary.write_bytes(content)
    return files


def _closed(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The triangles [T 3 3] of these faces, and a fan over each hole that cutting left."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    numbers = edges @ [len(points), 1]
    rim = edges[~np.isin(numbers, edges @ [1, len(points)])]  # those that no face goes along the other way
    together = coo_array((np.ones(len(rim)), (rim[:, 0], rim[:, 1])), shape=(len(points), len(points)))
    hole = connected_components(together, directed=False)[1]
    fans = [(points[end], points[start], points[rim[hole[rim[:, 0]] == hole[start], 0]].mean(0)) for start, end in rim]
    return np.concatenate((points[faces], np.reshape(fans, (-1, 3, 3))))


def _solid(triangles: np.ndarray, density: float) -> Segment:
    """Mass, center and inertia of what a closed surface [T 3 3] holds: a sum over tetrahedra from the origin."""
    a, b, c = triangles.transpose(1, 0, 2)
    volumes = np.einsum("ti,ti->t", a, np.cross(b, c)) / 6
    volume = float(volumes.sum())
    if volume < _LEAST_VOLUME:
        radius = (_LEAST_VOLUME * 3 / (4 * np.pi)) ** (1 / 3)
        center = triangles.reshape(-1, 3).mean(0) if len(triangles) else np.zeros(3)
        return Segment(density * _LEAST_VOLUME, center, 0.4 * density * _LEAST_VOLUME * radius**2 * np.eye(3))
    total = a + b + c
    center = (volumes[:, None] * total).sum(0) / 4 / volume
    second = sum(np.einsum("t,ti,tj->ij", volumes / 20, side, side) for side in (a, b, c, total))
    second = second - volume * np.outer(center, center)
    return Segment(density * volume, center, density * (np.trace(second) * np.eye(3) - second))
