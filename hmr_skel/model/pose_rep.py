"""Convert SKEL's pose between 46 angles q, six numbers per joint ("rep") for a network, and joint rotations.

The rep of a joint with three dofs is the first two rows of its rotation matrix; that of a hinge is (cos q, -sin q, 0,
0, 0, 0); that of a wrist is its two angles. Unused numbers are zero in a target and ignored in a prediction. Rotations
are those of `hmr_skel.body.dofs`, in the joints' own (OpenSim) frames: P = Rot(axis_n, q_n) ... Rot(axis_1, q_1). The
definition is HSMR's (Xia et al. 2025).

Every gradient is finite, also at gimbal lock, at the zero rep, and where the six numbers span no plane.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hmr_skel.body.dofs import DOFS, NUM_DOFS
from hmr_skel.body.rotations import rotvec_to_rotmat

NUM_JOINTS = 24
_DOFS_OF = [[i for i, dof in enumerate(DOFS) if dof.joint == joint] for joint in range(NUM_JOINTS)]
BALL_JOINTS, WRIST_JOINTS, HINGE_JOINTS = (
    [joint for joint, dofs in enumerate(_DOFS_OF) if len(dofs) == count] for count in (3, 2, 1)
)

# In denominators, shorter vectors count as this long, which bounds the gradients by its inverse.
_MIN_LENGTH = 1e-3


def q_to_rotmat(q: Float[Tensor, "*batch 46"]) -> Float[Tensor, "*batch 24 3 3"]:
    """The joints' rotations, each in its own frame."""
    t = _tables(q.device, q.dtype)
    padded = torch.cat((q, torch.zeros_like(q[..., :1])), -1)
    first, second, third = rotvec_to_rotmat(padded[..., t.dofs].unsqueeze(-1) * t.axes).unbind(-3)
    return third @ second @ first


def q_to_rep(q: Float[Tensor, "*batch 46"]) -> Float[Tensor, "*batch 24 6"]:
    """The rep of a pose, which is the network's target."""
    t = _tables(q.device, q.dtype)
    ball = q_to_rotmat(q)[..., t.ball, :2, :].flatten(-2)
    hinge_q = q[..., t.hinge_dofs]
    hinge = torch.stack((hinge_q.cos(), -hinge_q.sin()), -1)
    used = (ball, q[..., t.wrist_dofs], hinge)
    padded = [torch.nn.functional.pad(part, (0, 6 - part.shape[-1])) for part in used]
    return torch.cat(padded, -2)[..., t.joint_order, :]


def rep_to_q(rep: Float[Tensor, "*batch 24 6"]) -> Float[Tensor, "*batch 46"]:
    """The pose of any rep, on the principal branch, rad.

    In a joint with three dofs, the middle one is in [-pi/2, pi/2]; the others, and hinges, are in (-pi, pi]; wrists are
    unbounded. At gimbal lock only the sum or difference of the outer two is determined; the rotation stays right.
    """
    t = _tables(rep.device, rep.dtype)
    return _assemble_q(_rotmat_to_ball_q(rows_to_rotmat(rep[..., t.ball, :])), rep)


def rep_to_rotmat(rep: Float[Tensor, "*batch 24 6"]) -> Float[Tensor, "*batch 24 3 3"]:
    """The joints' rotations, equal to those of `rep_to_q`, but computed without Euler angles."""
    t = _tables(rep.device, rep.dtype)
    ball = rows_to_rotmat(rep[..., t.ball, :])
    # The angles of the ball joints stay zero: their rotations are replaced.
    others = q_to_rotmat(_assemble_q(torch.zeros_like(ball[..., 0]), rep))
    joined = (ball, others[..., t.wrist, :, :], others[..., t.hinge, :, :])
    return torch.cat(joined, -3)[..., t.joint_order, :, :]


def rows_to_rotmat(six: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Make two vectors the rows of a rotation matrix by Gram-Schmidt (Zhou et al. 2019, there columns)."""
    first = _unit(six[..., :3])
    second = six[..., 3:]
    second = _unit(second - (first * second).sum(-1, keepdim=True) * first)
    return torch.stack((first, second, torch.linalg.cross(first, second)), -2)


def _assemble_q(ball_q: Float[Tensor, "*batch J 3"], rep: Float[Tensor, "*batch 24 6"]) -> Float[Tensor, "*batch 46"]:
    """q from the angles of the ball joints, and from the rep of wrists and hinges."""
    t = _tables(rep.device, rep.dtype)
    hinge = rep[..., t.hinge, :]
    hinge_q = _angle(-hinge[..., 1], hinge[..., 0])
    parts = (ball_q.flatten(-2), rep[..., t.wrist, :2].flatten(-2), hinge_q)
    return torch.cat(parts, -1)[..., t.dof_order]


def _rotmat_to_ball_q(rotmat: Float[Tensor, "*batch J 3 3"]) -> Float[Tensor, "*batch J 3"]:
    """The three dofs of each ball joint, in the order of q.

    If rows and columns are in the order of the axes in the joint's product, every joint is R = Rx(a) Ry(b) Rz(c), whose
    angles are those of q up to their sign.
    """
    t = _tables(rotmat.device, rotmat.dtype)
    r = rotmat[..., *t.permutation]
    a = _angle(-r[..., 1, 2], r[..., 2, 2])
    # The other two come from Rx(-a) R, which is right for any a, also at gimbal lock, where a is arbitrary.
    sine, cosine = a.sin().unsqueeze(-1), a.cos().unsqueeze(-1)
    second = cosine * r[..., 1, :] + sine * r[..., 2, :]
    third = cosine * r[..., 2, :] - sine * r[..., 1, :]
    b = _angle(r[..., 0, 2], third[..., 2])
    c = _angle(second[..., 0], second[..., 1])
    return torch.stack((c, b, a), -1) * t.ball_signs


def _angle(y: Float[Tensor, "*any"], x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """atan2 with a finite gradient at the origin: exact outside a circle of radius `_MIN_LENGTH`, damped inside."""
    y_value, x_value = y.detach(), x.detach()
    squared = (x_value**2 + y_value**2).clamp_min(_MIN_LENGTH**2)
    # The last term is zero and carries the gradient.
    return torch.atan2(y_value, x_value) + (x_value * y - y_value * x) / squared


def _unit(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    return v / (v * v).sum(-1, keepdim=True).clamp_min(_MIN_LENGTH**2).sqrt()


class _Tables(NamedTuple):
    ball: Int[Tensor, "10"]  # joints
    wrist: Int[Tensor, "2"]
    hinge: Int[Tensor, "12"]
    wrist_dofs: Int[Tensor, "2 2"]
    hinge_dofs: Int[Tensor, "12"]
    joint_order: Int[Tensor, "24"]  # from the order ball, wrist, hinge to the order of joints
    dof_order: Int[Tensor, "46"]  # likewise
    dofs: Int[Tensor, "24 3"]  # of each joint in order; 46 is a dof that is always zero
    axes: Float[Tensor, "24 3 3"]  # likewise
    permutation: tuple[Int[Tensor, "10 1 1"], Int[Tensor, "10 3 1"], Int[Tensor, "10 1 3"]]  # of rows and columns
    ball_signs: Float[Tensor, "10 3"]


# Cached constants: a new tensor in each call would be a copy to the device that the host waits for.
@lru_cache(maxsize=16)
def _tables(device: torch.device, dtype: torch.dtype) -> _Tables:
    axes, dofs = torch.zeros(NUM_JOINTS, 3, 3, dtype=torch.float64), torch.full((NUM_JOINTS, 3), NUM_DOFS)
    for joint, numbers in enumerate(_DOFS_OF):
        for order, dof in enumerate(numbers):
            axes[joint, order] = torch.tensor(DOFS[dof].axis, dtype=torch.float64)
            dofs[joint, order] = dof
    ball, wrist, hinge = (torch.tensor(joints) for joints in (BALL_JOINTS, WRIST_JOINTS, HINGE_JOINTS))
    hinge_dofs, wrist_dofs = dofs[hinge, 0], dofs[wrist, :2]
    # Rows and columns in the order of the product's axes, the last dof's first. An odd order is a reflection, which
    # changes the sign of every angle.
    order = axes[ball].abs().argmax(-1).flip(-1)
    parity = torch.eye(3, dtype=torch.float64)[order].det()
    tables = _Tables(
        ball=ball,
        wrist=wrist,
        hinge=hinge,
        wrist_dofs=wrist_dofs,
        hinge_dofs=hinge_dofs,
        joint_order=torch.cat((ball, wrist, hinge)).argsort(),
        dof_order=torch.cat((dofs[ball].flatten(), wrist_dofs.flatten(), hinge_dofs)).argsort(),
        dofs=dofs,
        axes=axes,
        permutation=(torch.arange(len(ball))[:, None, None], order[:, :, None], order[:, None, :]),
        ball_signs=axes[ball].sum(-1) * parity[:, None],
    )
    return _Tables(*(_moved(table, device, dtype) for table in tables))


def _moved(table, device: torch.device, dtype: torch.dtype):
    if isinstance(table, tuple):
        return tuple(_moved(part, device, dtype) for part in table)
    return table.to(device, dtype) if table.is_floating_point() else table.to(device)
