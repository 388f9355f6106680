"""Find annotations that are not human poses, by bones that are turned further than in ordinary motion.

SMPL's joints turn about any axis, SKEL's as in a skeleton. The rotation between the local rotations of the two shows
how far the fit could not follow a joint of SMPL. Ordinary motion needs some of it (an annotated elbow has part of the
forearm's twist); the table below says how much, per joint and axis. It has no hands, forearms and scapulae. Forearms
have another rule: an elbow or wrist of SMPL is often twisted, but not beyond a right angle, and not on both sides
together. The rules do not depend on any particular pose.
"""

import torch
from torch import Tensor

from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS, SKEL_TO_SMPL, SMPL_JOINTS, SMPL_PARENTS
from hmr_skel.body.lbs import picked
from hmr_skel.body.rotations import rotmat_to_rotvec

PUSH = 2e-3
"""The bound of push, m^2/rad. In real motion (CMU, 4,759 frames) 1 row in 700 exceeds it, in the default set none."""

# Lower and upper bounds, degrees, about x, y, z of the T-pose, for left joints about x, -y, -z. They are the range in
# 4,759 frames of CMU motion capture (two people) and in 2,048 rows of the default dataset, over both sides, widened
# about its middle by a fifth, or by 5 degrees to each side if that is more.
_ORDINARY = {
    "femur": ((-10, 11), (-22, 21), (-23, 14)),
    "tibia": ((-14, 9), (-20, 20), (-20, 21)),
    "talus": ((-22, 22), (-55, 63), (-47, 40)),
    "toes": ((-47, 35), (-11, 7), (-27, 27)),
    "lumbar_body": ((-27, 50), (-25, 25), (-33, 33)),
    "thorax": ((-53, 30), (-34, 34), (-31, 31)),
    "head": ((-40, 38), (-22, 22), (-31, 31)),
    "humerus": ((-44, 60), (-68, 54), (-60, 66)),
    "ulna": ((-89, 105), (-14, 25), (-23, 22)),
}
_TWIST, _BOTH = 95.0, 110.0
"""Bounds, degrees, of the twist about x: of one elbow or wrist (at most 78 in the same rows), and of both sides
together (at most 85 and 96 in the same rows)."""
_PAIRS = [SMPL_JOINTS.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("elbow", "wrist")]

_OWN = [j for j, name in enumerate(SKEL_JOINTS) if name.removesuffix("_r").removesuffix("_l") in _ORDINARY]
_SMPL = [SKEL_TO_SMPL[j] for j in _OWN]
_ABOVE = [SKEL_TO_SMPL[SKEL_PARENTS[j]] for j in _OWN]


class Signs:
    """Measures how far bones are turned, with the tables on one device."""

    def __init__(self, device: torch.device) -> None:
        ranges = [_ORDINARY[SKEL_JOINTS[j].removesuffix("_r").removesuffix("_l")] for j in _OWN]
        self.low, self.high = torch.tensor(ranges, dtype=torch.float64, device=device).unbind(-1)
        left = [SKEL_JOINTS[j].endswith("_l") for j in _OWN]
        self.mirror = torch.tensor([(1.0, -1.0, -1.0) if is_left else (1.0,) * 3 for is_left in left]).to(self.low)

    def __call__(self, local: Tensor, rotmat: Tensor) -> Tensor:
        """How far each row's worst bone [B] is turned beyond ordinary motion, deg; 0: none is.

        Args:
            local: [B 24 3 3] local rotations of SKEL's joints, float64.
            rotmat: [B 24 3 3] world rotations of SMPL's bones.
        """
        rotmat = rotmat.to(local)
        wanted = picked(rotmat, _ABOVE, 1).mT @ picked(rotmat, _SMPL, 1)
        apart = torch.rad2deg(rotmat_to_rotvec(picked(local, _OWN, 1).mT @ wanted)) * self.mirror
        bones = torch.maximum(self.low - apart, apart - self.high).flatten(1).amax(1)
        forearms = picked(rotmat, [SMPL_PARENTS[j] for j in _PAIRS], 1).mT @ picked(rotmat, _PAIRS, 1)
        twist = torch.rad2deg(rotmat_to_rotvec(forearms))[..., 0]
        both = (twist[:, :2] + twist[:, 2:]).abs().amax(1) - _BOTH
        return torch.maximum(bones, torch.maximum(twist.abs().amax(1) - _TWIST, both)).clamp_min(0)
