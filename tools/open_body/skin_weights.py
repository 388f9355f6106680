"""Skin weights for SMPL's and SKEL's joints, from Anny's 104 bones and from heights along the spine.

Limbs: Anny's bones are merged into the joint that carries them. Trunk, neck and head: Anny's weights of all trunk bones
are pooled and shared out along the spine again, because the two models cut it at other heights than Anny does.
"""

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS, SMPL_JOINTS
from tools.open_body.anny_source import AnnySource

SMOOTHING_ROUNDS = 3
MOST_JOINTS = 4
"""Joints that may move one vertex, as in the real models."""

SMPL_SPINE = ("pelvis", "spine1", "spine2", "spine3", "neck", "head")
SMPL_BLENDS = (0.075, 0.07, 0.06, 0.045, 0.035)
"""Half-widths (m) of the blends along y at spine1, spine2, spine3, neck, head."""
SKEL_SPINE = ("pelvis", "lumbar_body", "thorax", "head")
SKEL_BLENDS = (0.08, 0.085, 0.055)


def smpl_weights(source: AnnySource, skin: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """[V 24] weights for SMPL, for the mean skin [V 3] and its joints [24 3]."""
    weights = spine_weights(source, skin, joints)
    for side, letter in (("left", "L"), ("right", "R")):
        for part, bones in SMPL_LIMBS.items():
            weights[:, SMPL_JOINTS.index(f"{side}_{part}")] = _pool(source, [f"{bone}.{letter}" for bone in bones])
    return finish_weights(weights, source.faces, source.mirror)


def spine_weights(source: AnnySource, skin: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """[V 24]: only the columns of SMPL's pelvis, spine, neck and head, not yet smoothed."""
    columns = [SMPL_JOINTS.index(name) for name in SMPL_SPINE]
    return _spine(source, skin, columns, joints[columns[1:], 1], SMPL_BLENDS)


def skel_weights(source: AnnySource, skin: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """[V 24] weights for SKEL's joints, for the mean skin [V 3] and its SKEL joints [24 3]."""
    columns = [SKEL_JOINTS.index(name) for name in SKEL_SPINE]
    levels = joints[columns[1:], 1]
    # The head's joint is the skull base: the neck's skin bends over its whole length below it.
    levels[2] -= 0.03
    weights = _spine(source, skin, columns, levels, SKEL_BLENDS)
    for side, letter in (("l", "L"), ("r", "R")):

        def pool(*bones: str, letter: str = letter) -> np.ndarray:
            return _pool(source, [f"{bone}.{letter}" for bone in bones])

        def add(name: str, amount: np.ndarray, side: str = side) -> None:
            weights[:, SKEL_JOINTS.index(f"{name}_{side}" if name != "thorax" else name)] += amount

        add("femur", pool("upperleg01", "upperleg02"))
        add("tibia", pool("lowerleg01", "lowerleg02"))
        foot, ankle = pool("foot"), joints[SKEL_JOINTS.index(f"talus_{side}")]
        # The talus has little skin of its own: a band around the ankle.
        talus = 0.5 * _step(skin[:, 1], ankle[1] - 0.03, 0.03)
        add("talus", foot * talus)
        add("calcn", foot * (1 - talus))
        add("toes", pool(*_TOES))
        add("thorax", 0.6 * pool("clavicle"))
        add("scapula", 0.4 * pool("clavicle") + pool("shoulder01"))
        add("humerus", pool("upperarm01", "upperarm02"))
        elbow, wrist = (joints[SKEL_JOINTS.index(f"{name}_{side}"), 0] for name in ("ulna", "hand"))
        along = np.clip((skin[:, 0] - elbow) / (wrist - elbow), 0, 1)
        # Forearm skin turns with the radius more and more towards the wrist.
        radius = np.clip((along - 0.1) / 0.75, 0, 1)
        forearm = pool("lowerarm01", "lowerarm02")
        add("ulna", forearm * (1 - radius))
        add("radius", forearm * radius)
        add("hand", pool("wrist", *_METACARPALS, *_FINGERS))
    return finish_weights(weights, source.faces, source.mirror)


def finish_weights(weights: np.ndarray, faces: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Smooth over the mesh, keep each vertex' largest weights, normalise; a midline vertex keeps both of a tie."""
    from scipy.sparse import coo_matrix

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(weights),) * 2).tocsr()
    degree = np.asarray(graph.sum(1))
    for _ in range(SMOOTHING_ROUNDS):
        weights = 0.5 * weights + 0.5 * (graph @ weights) / degree
    smallest = np.sort(weights, axis=1)[:, -MOST_JOINTS][:, None]
    weights = np.where((weights >= smallest - 1e-9) & (weights > 4e-3), weights, 0)
    return weights / weights.sum(1, keepdims=True)


def _pool(source: AnnySource, bones: tuple[str, ...] | list[str]) -> np.ndarray:
    return source.weights[:, [source.bone(name) for name in bones if name in source.bones]].sum(1)


def _step(value: np.ndarray, centre: float, half_width: float) -> np.ndarray:
    t = np.clip((value - centre) / (2 * half_width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _spine(
    source: AnnySource, skin: np.ndarray, columns: list[int], levels: np.ndarray, half_widths: tuple[float, ...]
) -> np.ndarray:
    """[V 24]: the trunk's weights shared out to S+1 stacked joints, with smooth borders at the heights `levels` [S]."""
    height = skin[:, 1]
    above = np.stack([np.ones_like(height), *(_step(height, y, w) for y, w in zip(levels, half_widths, strict=True))])
    above = np.minimum.accumulate(above, axis=0)
    weights = np.zeros((len(skin), 24))
    weights[:, columns] = (_pool(source, TRUNK_BONES) * np.concatenate([above[:-1] - above[1:], above[-1:]])).T
    return weights


TRUNK_BONES = (
    "root", "pelvis.L", "pelvis.R", "spine05", "spine04", "spine03", "spine02", "spine01", "neck01", "neck02",
    "neck03", "head", "eye.L", "eye.R",
)  # fmt: skip
_TOES = tuple(f"toe{toe}-{bone}" for toe in range(1, 6) for bone in range(1, 4))
_METACARPALS = tuple(f"metacarpal{finger}" for finger in range(1, 5))
_FINGERS = tuple(f"finger{finger}-{bone}" for finger in range(1, 6) for bone in range(1, 4))
SMPL_LIMBS = {
    "hip": ("upperleg01", "upperleg02"),
    "knee": ("lowerleg01", "lowerleg02"),
    "ankle": ("foot",),
    "foot": _TOES,
    "collar": ("clavicle", "shoulder01"),
    "shoulder": ("upperarm01", "upperarm02"),
    "elbow": ("lowerarm01", "lowerarm02"),
    "wrist": ("wrist", *_METACARPALS),
    "hand": _FINGERS,
}
"""Anny's bones, without their side, that each of SMPL's limb joints carries."""
