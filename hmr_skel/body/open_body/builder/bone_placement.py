"""Fits the bones into one gender's mean skin in T-pose, then takes them back into their own frames.

Skin frame: y up, facing +z, x to the left, metres. Every bone starts where SKEL's rest transform of Rajagopal's mesh puts
it; head, hands and feet are then fitted to the skin, and what still sticks out is pushed in smoothly.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hmr_skel.body.open_body.builder.bone_segments import FINGERS, Bone
from hmr_skel.body.open_body.builder.joint_centres import SKEL_JOINTS, SKEL_PARENTS
from hmr_skel.body.open_body.builder.posing import rotation_between
from hmr_skel.body.open_body.builder.rajagopal_meshes import Mesh
from hmr_skel.body.open_body.builder.skeleton import HEAD_IN_TORSO, MIRROR_SKIN, THORAX_IN_TORSO, Chain

MARGIN = 0.004
"""Least depth below the skin that pushing in aims at."""
NECK_BEND = (0.31, 0.50)
"""Heights in the torso frame (T6, atlas) between which the spine goes over from the ribcage's place to the skull's."""
PUSH_ROUNDS = 12
NODE_SPACING = 0.01
PUSH_RADIUS = 0.03
"""Neighbourhood over which a push is spread, so that bones bend rather than dent."""


@dataclass(frozen=True)
class PlacedBones:
    """All bones of a body, right, middle and mirrored left."""

    vertices: np.ndarray
    """[K 3] in the skin frame, mean body."""
    local: np.ndarray
    """[K 3] each in its segment's bone frame, before SKEL's scaling."""
    faces: np.ndarray
    """[L 3]."""
    joint: np.ndarray
    """[K] segment."""
    weights: np.ndarray
    """[K 24] posing weights."""


@dataclass(frozen=True)
class HandLandmarks:
    """Points of the mean body's right hand that the finger bones are fitted to."""

    wrist: np.ndarray
    knuckles: np.ndarray
    """[5 3 3]: finger (thumb first), joint from the palm out."""
    tips: np.ndarray
    """[5 3]."""


def place_bones(
    bones: list[Bone], chain: Chain, joints: np.ndarray, skin: np.ndarray, faces: np.ndarray, marks: HandLandmarks
) -> PlacedBones:
    """Place `bones` in the mean body with SKEL joints [24 3] and `skin` [V 3]."""
    scale = rest_scales(chain, joints)
    placed = []
    for bone in bones:
        joint = SKEL_JOINTS.index(bone.segment)
        start = scale[joint] * bone.mesh.vertices @ chain.orientations[joint].T + joints[joint]
        placed.append(replace(bone, mesh=Mesh(start, bone.mesh.faces)))

    def rest(segment: str, origin: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        joint = SKEL_JOINTS.index(segment)
        return lambda torso: scale[joint] * (torso - origin) @ chain.orientations[joint].T + joints[joint]

    placed = fit_head(placed, skin, rest("thorax", THORAX_IN_TORSO), rest("head", HEAD_IN_TORSO))
    placed = fit_hand(placed, bones, chain.orientations[SKEL_JOINTS.index("hand_r")], marks)
    placed = push_inside(placed, skin, faces)

    vertices, local, all_faces, joint_of, weights, count = [], [], [], [], [], 0
    for bone in placed:
        sides = [(bone.mesh, bone.segment, bone.share_up)]
        if bone.segment.endswith("_r") or bone.name.endswith("_r"):
            mirrored = Mesh(bone.mesh.vertices @ MIRROR_SKIN, bone.mesh.faces[:, ::-1])
            sides.append((mirrored, bone.segment.removesuffix("_r") + "_l" * bone.segment.endswith("_r"), bone.share_up))
        for mesh, segment, shared in sides:
            joint = SKEL_JOINTS.index(segment)
            vertices.append(mesh.vertices)
            local.append((mesh.vertices - joints[joint]) @ chain.orientations[joint] / scale[joint])
            all_faces.append(mesh.faces + count)
            joint_of.append(np.full(len(mesh.vertices), joint))
            row = np.eye(24)[joint]
            if shared is not None:
                row = (1 - shared[1]) * row + shared[1] * np.eye(24)[SKEL_JOINTS.index(shared[0])]
            weights.append(np.tile(row, (len(mesh.vertices), 1)))
            count += len(mesh.vertices)
    return PlacedBones(*(np.concatenate(parts) for parts in (vertices, local, all_faces, joint_of, weights)))


def rest_scales(chain: Chain, joints: np.ndarray) -> np.ndarray:
    """SKEL's bone scales [24] at the mean body, where every ratio of skin distances is 1."""
    parents = np.array(SKEL_PARENTS)
    offsets = joints - np.where(parents[:, None] >= 0, joints[parents], 0)
    ratio = np.linalg.norm(offsets, axis=1) / np.linalg.norm(chain.offsets, axis=1)
    scale = np.ones(24)
    for joint in range(24):
        children = np.flatnonzero(parents == joint)
        if len(children):
            scale[joint] = ratio[children[0]]
    at = {name: index for index, name in enumerate(SKEL_JOINTS)}
    scale[at["ulna_r"]], scale[at["ulna_l"]] = scale[at["radius_r"]], scale[at["radius_l"]]
    lumbar = at["lumbar_body"]
    scale[at["thorax"]] = scale[lumbar]
    scale[lumbar] = abs(offsets[lumbar, 1]) / abs(chain.offsets[lumbar, 1])
    # Two axes of the thorax and lumbar scales are replaced: along x both take the skin's ratio, 1 at the mean body.
    result = np.tile(scale[:, None], (1, 3))
    result[[lumbar, at["thorax"]], 0] = 1.0
    for name, axes in (("head", (0, 1, 2)), ("hand_r", (0, 1)), ("hand_l", (0, 1))):
        result[at[name], list(axes)] = 1.0
    return result


def fit_head(placed: list[Bone], skin: np.ndarray, to_thorax: Callable, to_head: Callable) -> list[Bone]:
    """Scale skull and jaw to the cranium, 7 mm below the skin, and bend the neck so that it meets them.

    `to_thorax` and `to_head` take points of Rajagopal's torso frame to the skin frame as the thorax and head do.
    """
    skull = next(bone for bone in placed if bone.name == "skull").mesh.vertices
    top = skin[:, 1].max()

    def box(points: np.ndarray, high: float) -> tuple[float, float, float]:
        band = points[(points[:, 1] < high - 0.04) & (points[:, 1] > high - 0.075)]
        return float(band[:, 2].min()), float(band[:, 2].max()), float(abs(band[:, 0]).max())

    back, front, half_width = box(skin[abs(skin[:, 0]) < 0.15], top)
    bone_back, bone_front, bone_width = box(skull, skull[:, 1].max())
    depth = (front - back - 0.014) / (bone_front - bone_back)
    width = (half_width - 0.007) / bone_width
    scale = np.array([width, (depth + width) / 2, depth])
    origin = np.array([0.0, skull[:, 1].max(), (bone_back + bone_front) / 2])
    target = np.array([0.0, top - 0.007, (back + front) / 2])

    def fitted(bone: Bone) -> np.ndarray:
        if bone.segment == "head" and bone.torso is None:
            return (bone.mesh.vertices - origin) * scale + target
        if bone.torso is None or bone.segment == "lumbar_body":
            return bone.mesh.vertices
        share = np.clip((bone.torso[:, 1:2] - NECK_BEND[0]) / (NECK_BEND[1] - NECK_BEND[0]), 0, 1)
        share = share * share * (3 - 2 * share)
        with_skull = (to_head(bone.torso) - origin) * scale + target
        return (1 - share) * to_thorax(bone.torso) + share * with_skull

    return [replace(bone, mesh=Mesh(fitted(bone), bone.mesh.faces)) for bone in placed]


def fit_hand(placed: list[Bone], original: list[Bone], turn: np.ndarray, marks: HandLandmarks) -> list[Bone]:
    """Lay every finger bone between the skin's finger joints, the palm's bones by one similarity."""
    raw = {bone.name: bone.mesh.vertices for bone in original if bone.segment == "hand_r"}
    chains = [("metacarpal1", "thumb_proximal", "thumb_distal")]
    chains += [
        (f"metacarpal{number}", *(f"{finger}_{part}" for part in ("proximal", "medial", "distal")))
        for number, finger in enumerate(FINGERS, start=2)
    ]
    ends = {name: _ends(raw[name]) for names in chains for name in names}
    # Palm: wrist and knuckles of Rajagopal's hand onto the skin's.
    source = np.stack([np.zeros(3), *(ends[names[0]][1] for names in chains[1:])])
    target = np.stack([marks.wrist, *marks.knuckles[1:, 0]])
    rotation, scale, shift = similarity(source, target)
    moved = {name: scale * points @ rotation.T + shift for name, points in raw.items()}
    for finger, names in enumerate(chains):
        joints = [*marks.knuckles[finger], marks.tips[finger]]
        if finger == 0:
            segments = list(zip(names, joints[:-1], joints[1:], strict=True))
        else:
            base = scale * ends[names[0]][0] @ rotation.T + shift
            segments = list(zip(names, [base, *joints[:-1]], joints, strict=True))
        for name, start, end in segments:
            moved[name] = _between(raw[name], *ends[name], start, end, rotation)
    return [
        replace(bone, mesh=Mesh(moved[bone.name], bone.mesh.faces)) if bone.name in moved else bone for bone in placed
    ]


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Rotation, scale and shift that take points [N 3] to points [N 3] best (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    fix = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ fix @ vt
    scale = float((s * np.diag(fix)).sum() / (a**2).sum())
    return rotation, scale, target.mean(0) - scale * rotation @ source.mean(0)


def push_inside(placed: list[Bone], skin: np.ndarray, faces: np.ndarray) -> list[Bone]:
    """Move what lies less than the margin below the skin inwards, spreading each push over its neighbourhood."""
    from scipy.sparse import csr_matrix, identity
    from scipy.spatial import cKDTree

    points = np.concatenate([bone.mesh.vertices for bone in placed])
    dense, normals = _dense_skin(skin, faces)
    tree = cKDTree(dense)
    # Pushes are spread over nodes, the centres of small cubes, and carried back to the points.
    cube = np.unique(np.round(points / NODE_SPACING).astype(int), axis=0, return_inverse=True)[1].reshape(-1)
    members = csr_matrix((np.ones(len(cube)), (cube, np.arange(len(cube)))))
    size = np.asarray(members.sum(1))
    nodes = members @ points / size
    near = cKDTree(nodes).sparse_distance_matrix(cKDTree(nodes), PUSH_RADIUS, output_type="coo_matrix").tocsr()
    near.data = np.square(1 - np.square(near.data / PUSH_RADIUS))
    near = near + identity(len(nodes), format="csr")
    gap, carriers = cKDTree(nodes).query(points, k=3)
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


def _ends(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Near and far end of a finger bone: centres of its outer tenths along its long axis, counted from the wrist."""
    centred = points - points.mean(0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    axis = axis * np.sign(axis @ points.mean(0))
    along = centred @ axis
    low, high = np.quantile(along, [0.1, 0.9])
    # The outermost points themselves give the length, the tenths the place across it.
    near, far = points[along <= low].mean(0), points[along >= high].mean(0)
    near = near + axis * (along.min() - (near - points.mean(0)) @ axis)
    far = far + axis * (along.max() - (far - points.mean(0)) @ axis)
    return near, far


def _between(
    points: np.ndarray, near: np.ndarray, far: np.ndarray, start: np.ndarray, end: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """The bone laid from `start` to `end`, with a small gap at both joints."""
    length = 0.96 * np.linalg.norm(end - start) / np.linalg.norm(far - near)
    rotation = rotation_between(turn @ (far - near), end - start) @ turn
    across = np.clip(length, 0.8, 1.1)
    axis = (far - near) / np.linalg.norm(far - near)
    offset = points - near
    along = (offset @ axis)[:, None] * axis
    return start + 0.02 * (end - start) + (length * along + across * (offset - along)) @ rotation.T
