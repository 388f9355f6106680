"""Joint regressors: joints as convex combinations of few skin vertices near them.

Non-negative least squares over random people; the rows sum to 1. The regressor then *is* the joint's definition.
"""

import numpy as np

CANDIDATES = 160
"""Skin vertices considered for one joint: the nearest ones in the mean body."""
SUM_WEIGHT = 30.0
"""How strongly a row is pulled to sum 1 in the fit, against metres of error; it is then normalised exactly."""


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
