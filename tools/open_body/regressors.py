"""Joint regressors: joints as convex combinations of few skin vertices near them.

Non-negative least squares over random people; the rows sum to 1. The regressor then *is* the joint's definition. Also
the targets for the 19 extra keypoints and Human3.6M's 17 joints. Frame: y up, facing +z, x to the left, metres.
"""

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS
from tools.open_body.anny_source import AnnySource

CANDIDATES = 160
"""Skin vertices considered for one joint: the nearest ones in the mean body."""
SUM_WEIGHT = 30.0
"""How strongly a row is pulled to sum 1 in the fit, against metres of error; it is then normalised exactly."""
J19_NAMES = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top", "pelvis", "thorax", "spine",
    "jaw", "head",
)  # fmt: skip
H36M_NAMES = (
    "pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle", "spine", "neck", "jaw",
    "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
"""SPIN's order, whose map to the LSP joints is [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]."""

_LIMBS = {"hip": "femur", "knee": "tibia", "ankle": "talus", "shoulder": "humerus", "elbow": "ulna", "wrist": "hand"}


def fit_regressor(skin: np.ndarray, joints: np.ndarray, mirror: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Regressor [J V] from skins [N V 3] to joints [N J 3], mirror-symmetric.

    `mirror` [V] and `pairs` [J] give the mirrored vertex and the mirrored joint; a midline joint is its own pair.
    """
    from scipy.optimize import nnls

    mean_skin, mean_joints = skin.mean(0), joints.mean(0)
    rows = np.zeros((joints.shape[1], skin.shape[1]))
    for joint, pair in enumerate(pairs):
        if pair < joint:
            rows[joint] = rows[pair][mirror]
            continue
        near = np.argsort(((mean_skin - mean_joints[joint]) ** 2).sum(1), kind="stable")[:CANDIDATES]
        if pair == joint:
            near = np.unique(np.concatenate([near, mirror[near]]))
        system = skin[:, near].transpose(0, 2, 1).reshape(-1, len(near))
        # Each joint relative to its mean place: keeps the sum-to-one row well scaled.
        system = system - np.tile(mean_joints[joint], len(skin))[:, None]
        target = (joints[:, joint] - mean_joints[joint]).reshape(-1)
        system = np.concatenate([system, np.full((1, len(near)), SUM_WEIGHT)])
        weight, _ = nnls(system, np.append(target, SUM_WEIGHT))
        rows[joint, near] = weight
        if pair == joint:
            rows[joint] = (rows[joint] + rows[joint][mirror]) / 2
    rows[rows < 2e-3] = 0
    return rows / rows.sum(1, keepdims=True)


def mirrored_joints(names: tuple[str, ...]) -> np.ndarray:
    """[J] number of each joint's mirror image, from names like `left_hip` and `femur_l`."""
    other = {"left": "right", "right": "left", "l": "r", "r": "l"}
    return np.array([names.index("_".join(other.get(word, word) for word in name.split("_"))) for name in names])


def keypoint_targets(
    names: tuple[str, ...], source: AnnySource, skin: np.ndarray, heads: np.ndarray, skel_joints: np.ndarray
) -> np.ndarray:
    """Positions [N K 3] of the named keypoints for people with T-pose `skin` [N V 3], heads [N B 3], SKEL joints."""

    def bone(name: str) -> np.ndarray:
        return heads[:, source.bone(name)]

    def joint(name: str) -> np.ndarray:
        return skel_joints[:, SKEL_JOINTS.index(name)]

    shoulders = (joint("humerus_l") + joint("humerus_r")) / 2
    eyes = (bone("eye.L") + bone("eye.R")) / 2
    top = skin[np.arange(len(skin)), skin[..., 1].argmax(1)] * [0, 1, 1]
    middle = {
        "pelvis": (joint("femur_l") + joint("femur_r")) / 2,
        "neck": 0.5 * shoulders + 0.5 * bone("neck02"),
        "thorax": 0.7 * shoulders + 0.3 * bone("neck01"),
        "spine": (joint("lumbar_body") + joint("thorax")) / 2,
        "head_top": top,
        "head": 0.5 * bone("head") + 0.5 * top,
        "jaw": 0.45 * bone("head") + 0.55 * (eyes + np.array([0, -0.05, 0.02])),
    }
    targets = []
    for name in names:
        side, _, part = name.partition("_")
        targets.append(joint(f"{_LIMBS[part]}_{side[0]}") if side in ("left", "right") else middle[name])
    return np.stack(targets, axis=1)
