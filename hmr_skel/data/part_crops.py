"""Boxes around a part of the body: training samples like the photographs that show no more than that.

The rule of the published code (SKEL-CF, after 4D-Humans): what is visible decides which parts may be chosen, and a
part's box is the tight one around its annotated keypoints, widened. One difference: there, `head` keeps two of the four
shoulder keypoints; here it keeps none.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_WIDEN = 1.2
_MIN_SIDE = 4.0  # px

# The 44 keypoints by the part of the body that they are on (hmr_skel.body.joints.KEYPOINTS_44).
_HEAD, _NECK, _TRUNK, _PELVIS = (0, 15, 16, 17, 18, 38, 42, 43), (1, 37), (40, 41), (8, 39)
_SHOULDER_R, _SHOULDER_L, _HIP_R, _HIP_L = (2, 33), (5, 34), (9, 27), (12, 28)
_ELBOW_WRIST_R, _ELBOW_WRIST_L = (3, 4, 31, 32), (6, 7, 35, 36)
_LOWER_LEG_R, _LOWER_LEG_L = (10, 11, 22, 23, 24, 25, 26), (13, 14, 19, 20, 21, 29, 30)

_ABOVE_KNEES = (
    *(*_HEAD, *_NECK, *_TRUNK, *_PELVIS, *_HIP_R, *_HIP_L),
    *(*_SHOULDER_R, *_SHOULDER_L, *_ELBOW_WRIST_R, *_ELBOW_WRIST_L),
)
# (OpenPose's, LSP's) keypoints: both arms from the shoulders, both legs from the knees.
_LIMBS = (
    *((2, 33), (3, 32), (4, 31), (5, 34), (6, 35), (7, 36)),
    *((10, 26), (11, 25), (13, 29), (14, 30)),
)
_KNEES_ANKLES = (10, 11, 13, 14, 25, 26, 29, 30)
_HEAD_AND_NEIGHBOURS = (*_HEAD, *_NECK, 33, 34)


@dataclass(frozen=True)
class PartCrop:
    """What a box is drawn around."""

    keypoints: tuple[int, ...]
    margin: float  # times the widened box


HIPS = PartCrop(_ABOVE_KNEES, 1.1)  # down to the hips
SHOULDERS = PartCrop((*_HEAD, *_NECK, *_SHOULDER_R, *_SHOULDER_L), 1.2)
HEAD = PartCrop((*_HEAD, *_NECK), 1.3)
TORSO = PartCrop((*_NECK, *_SHOULDER_R, *_SHOULDER_L, *_TRUNK, *_PELVIS, *_HIP_R, *_HIP_L), 1.1)
ARM_R = PartCrop((*_SHOULDER_R, *_ELBOW_WRIST_R), 1.1)
ARM_L = PartCrop((*_SHOULDER_L, *_ELBOW_WRIST_L), 1.1)
LEGS = PartCrop((*_PELVIS, *_HIP_R, *_HIP_L, *_LOWER_LEG_R, *_LOWER_LEG_L), 1.1)
LEG_R = PartCrop((*_HIP_R, *_LOWER_LEG_R), 1.1)
LEG_L = PartCrop((*_HIP_L, *_LOWER_LEG_L), 1.1)

# A part by a number from [0, 1): parts that stand twice are chosen twice as often.
WHOLE_BODY = (HIPS, HIPS, SHOULDERS, HEAD, TORSO, ARM_R, ARM_L, LEGS, LEG_R, LEG_L)
UPPER_BODY = (SHOULDERS, HEAD, TORSO, ARM_R, ARM_L)


def part_box(keypoints_2d: Float[np.ndarray, "44 3"], choice: float) -> tuple[Float[np.ndarray, "2"], float] | None:
    """Centre (px) and side (px) of the box around the part that `choice`, from [0, 1), means for this person.

    None where too little of the person is annotated for any part, or of the part that was chosen.
    """
    confidence = np.where(np.isfinite(keypoints_2d).all(-1), keypoints_2d[:, 2], 0)
    seen = confidence > 0
    if all(seen[list(pair)].any() for pair in _LIMBS):
        parts = WHOLE_BODY
    elif not seen[list(_KNEES_ANKLES)].any() and seen[list(_HEAD_AND_NEIGHBOURS)].sum() >= 2:
        parts = UPPER_BODY
    else:
        return None
    part = parts[int(choice * len(parts))]
    kept = [k for k in part.keypoints if seen[k]]
    if confidence[kept].sum() <= 1:
        return None
    low, high = keypoints_2d[kept, :2].min(0), keypoints_2d[kept, :2].max(0)
    side = float((high - low).max()) * _WIDEN * part.margin
    return ((low + high) / 2, side) if side >= _MIN_SIDE else None
