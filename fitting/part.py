"""The dofs that a stage moves, their joints, and who hangs below whom."""

import torch

from fitting.kinematics import Kinematics
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_PARENTS, subtree
from hmr_skel.body.moving_joints import MOVING_DOFS, MOVING_JOINTS


class MovingPart:
    """The dofs that a stage moves, their joints, and who hangs below whom. On one device."""

    def __init__(self, dofs: list[int], kinematics: Kinematics) -> None:
        device = kinematics.unit.device
        joints = sorted({DOF_JOINTS[k] for k in dofs})
        self.dofs = torch.tensor(dofs, device=device)
        self.joints = torch.tensor(joints, device=device)
        self.bones = sorted({bone for joint in joints for bone in subtree(SKEL_PARENTS, joint)})
        # Each joint has room for three dofs; `slots` are those in use.
        self.slots = torch.tensor(
            [3 * joints.index(DOF_JOINTS[k]) + int(kinematics.dof_order[k]) for k in dofs], device=device
        )
        below = [[float(bone in subtree(SKEL_PARENTS, joint)) for bone in range(24)] for joint in joints]
        self.below = torch.tensor(below, device=device)  # [J 24]
        # outer[k, l]: dof k turns dof l's axis (it sits above it in the tree, or later in the same joint), or is l.
        above = [[_is_outer(k, inner, kinematics) for inner in dofs] for k in dofs]
        self.outer = torch.tensor(above, dtype=torch.float64, device=device)
        own = torch.tensor([DOF_JOINTS[k] for k in dofs], device=device)
        self.outer_own = self.outer * (own[:, None] == own)
        moving = [(i, j) for i, j in enumerate(MOVING_JOINTS) if j in joints]
        self.moving = torch.tensor([i for i, _ in moving], dtype=torch.long, device=device)
        self.moving_rows = torch.tensor([joints.index(j) for _, j in moving], dtype=torch.long, device=device)
        pairs = [[dofs.index(k) for k in MOVING_DOFS[2 * i : 2 * i + 2]] for i, _ in moving]
        self.moving_slots = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2)


def _is_outer(k: int, inner: int, kinematics: Kinematics) -> bool:
    if DOF_JOINTS[k] == DOF_JOINTS[inner]:
        return int(kinematics.dof_order[k]) >= int(kinematics.dof_order[inner])
    return DOF_JOINTS[inner] in subtree(SKEL_PARENTS, DOF_JOINTS[k])
