"""Rajagopal's bones sorted into SKEL's 24 segments, each in its joint's own frame.

Bone frames: x forward, y up, z to the right, metres.
"""

from dataclasses import dataclass, replace

import numpy as np

from tools.open_body.decimation import decimate
from tools.open_body.rajagopal_meshes import Mesh, compact, components, geometry_folder, read_ply
from tools.open_body.skeleton import HEAD_IN_TORSO, LUMBAR_IN_TORSO, SCAPULA_IN_TORSO, THORAX_IN_TORSO

KEPT_SHARE = 0.25
"""Share of the triangles that large bones keep."""
SMALLEST_THINNED = 400
"""Parts with fewer triangles are left alone: thinning the 246-triangle hip bones destroys them."""

PATELLA_IN_TIBIA = np.array([0.0443, -0.0144, 0.0013])
"""Rajagopal's patella at full extension, against the tibia's origin."""
FINGERS = ("index", "middle", "ring", "little")
CARPALS = ("pisiform", "lunate", "scaphoid", "triquetrum", "hamate", "capitate", "trapezoid", "trapezium")
TWIST_AT_THE_WRIST = 0.7
"""Share of the radius' motion that the ulna's far end follows; it falls to 0 at the elbow."""
HIGHEST_THORAX_CERVICAL = 0.468
"""Height in the torso frame above which neck bones belong to the head's segment (C4 and above)."""


@dataclass(frozen=True)
class Bone:
    """One anatomical bone of a right or middle segment."""

    name: str
    segment: str
    mesh: Mesh
    share_up: tuple[str, float | np.ndarray] | None = None
    """For vertebrae, clavicles, ulna: the other segment that moves it, and that one's share (of each vertex)."""
    torso: np.ndarray | None = None
    """For vertebrae and clavicles: the vertices in Rajagopal's torso frame, before they went into the joint's."""


def load_bones() -> list[Bone]:
    """All bones of the middle and right segments; the left ones are mirror images."""
    folder = geometry_folder()

    def ply(name: str) -> Mesh:
        return read_ply(folder / f"{name}.vtp.ply")

    bones = [
        Bone("sacrum", "pelvis", ply("sacrum")),
        Bone("hip_bone_r", "pelvis", ply("r_pelvis")),
        Bone("femur", "femur_r", ply("r_femur")),
        Bone("tibia", "tibia_r", ply("r_tibia")),
        Bone("fibula", "tibia_r", ply("r_fibula")),
        Bone("patella", "tibia_r", ply("r_patella").moved(PATELLA_IN_TIBIA)),
        Bone("talus", "talus_r", ply("r_talus")),
        Bone("foot", "calcn_r", ply("r_foot")),
        Bone("toes", "toes_r", ply("r_bofoot")),
        Bone("skull", "head", ply("hat_skull").moved(-HEAD_IN_TORSO)),
        Bone("jaw", "head", ply("hat_jaw").moved(-HEAD_IN_TORSO)),
        Bone("humerus", "humerus_r", ply("humerus_rv")),
        Bone("ulna", "ulna_r", ply("ulna_rv")),
        Bone("radius", "radius_r", ply("radius_rv")),
    ]
    hand = [*CARPALS, *(f"metacarpal{number}" for number in range(1, 6)), "thumb_proximal", "thumb_distal"]
    hand += [f"{finger}_{part}" for finger in FINGERS for part in ("proximal", "medial", "distal")]
    bones += [Bone(name, "hand_r", ply(f"{name}_rvs")) for name in hand]
    bones += [_spine_bone(number, piece) for number, piece in enumerate(components(ply("hat_spine")))]
    bones += [bone for number, piece in enumerate(components(ply("hat_ribs_scap"))) for bone in _chest(number, piece)]
    bones = [bone if bone.torso is not None else replace(bone, mesh=thin(bone.mesh)) for bone in bones]
    return [replace(bone, share_up=("radius_r", _twist(bone.mesh))) if bone.name == "ulna" else bone for bone in bones]


def _twist(ulna: Mesh) -> np.ndarray:
    """Share [V] of the radius' motion: the forearm's skin turns with the radius and would leave the ulna."""
    return TWIST_AT_THE_WRIST * np.clip(ulna.vertices[:, 1] / ulna.vertices[:, 1].min(), 0, 1)


def thin(mesh: Mesh) -> Mesh:
    """Simplify a large bone to a quarter of its triangles."""
    if len(mesh.faces) < SMALLEST_THINNED:
        return mesh
    every = np.arange(len(mesh.vertices))
    wanted = max(int(KEPT_SHARE * len(mesh.vertices)), SMALLEST_THINNED // 2)
    _, faces = decimate(mesh.vertices, mesh.faces, every, np.zeros(len(every), dtype=bool), wanted)
    return compact(Mesh(mesh.vertices, faces))


def _spine_bone(number: int, piece: Mesh) -> Bone:
    """A vertebra or disc: its segment by its height, and how far its neighbour's motion reaches into it."""
    piece = thin(piece)
    height = piece.vertices[:, 1].mean()
    if height < THORAX_IN_TORSO[1]:
        segment, origin = "lumbar_body", LUMBAR_IN_TORSO
        up = np.clip((height - LUMBAR_IN_TORSO[1]) / (THORAX_IN_TORSO[1] - LUMBAR_IN_TORSO[1]), 0, 1)
        down = np.clip((0.06 - height) / 0.08, 0, 1)
        share = ("thorax", 0.5 * float(up) ** 2) if up > 0.3 else ("pelvis", 0.6 * float(down))
    elif height < HIGHEST_THORAX_CERVICAL:
        segment, origin = "thorax", THORAX_IN_TORSO
        above = np.clip((height - 0.40) / (HEAD_IN_TORSO[1] - 0.40), 0, 1)
        below = np.clip((THORAX_IN_TORSO[1] + 0.04 - height) / 0.08, 0, 1)
        share = ("lumbar_body", 0.4 * float(below)) if below > 0 else ("head", float(above) ** 2)
    else:
        segment, origin = "head", HEAD_IN_TORSO
        below = np.clip((HEAD_IN_TORSO[1] - height) / (HEAD_IN_TORSO[1] - 0.40), 0, 1)
        share = ("thorax", float(below))
    return Bone(f"spine{number}", segment, piece.moved(-origin), share, piece.vertices)


def _chest(number: int, piece: Mesh) -> list[Bone]:
    """Scapulae and clavicles move with the scapula, ribs and breastbone with the thorax. The left ones are mirrored."""
    centre = piece.vertices.mean(0)
    if number < 2:
        return [Bone("scapula", "scapula_r", piece.moved(-SCAPULA_IN_TORSO))] if centre[2] > 0 else []
    if number in (3, 4):
        if centre[2] < 0:
            return []
        piece = thin(piece)
        medial = np.clip((SCAPULA_IN_TORSO[2] - piece.vertices[:, 2]) / (SCAPULA_IN_TORSO[2] - 0.015), 0, 1)
        return [Bone("clavicle", "scapula_r", piece.moved(-SCAPULA_IN_TORSO), ("thorax", medial), piece.vertices)]
    return [Bone(f"rib{number}", "thorax", piece.moved(-THORAX_IN_TORSO))]
