"""Targets for the evaluation regressors: the 19 extra keypoints and Human3.6M's 17 joints, on this body.

Frame: y up, facing +z, x to the left, metres.
"""

import numpy as np

from hmr_skel.body.joints import SKEL_JOINTS
from tools.open_body.anny_source import AnnySource

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
