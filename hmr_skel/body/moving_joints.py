"""The joints of SKEL whose position depends on their angles: scapulae glide on the ribcage, the spine bends in arcs.

The offsets here are added to a joint's rest offset from its parent, in the parent's frame, and vanish at zero angles.
The fit also needs their derivatives in closed form. Metres, radians.
"""

from math import pi, sqrt

import torch
from torch import Tensor

from hmr_skel.shapes import Float

# Joint, joint below it, first dof (bending), second dof (extension).
SPINE = ((11, 0, 17, 18), (12, 11, 20, 21), (13, 12, 23, 24))
# Joint, first dof (abduction), second dof (elevation), side: on the left both angles and the x component change sign.
SCAPULAE = ((14, 26, 27, 1.0), (19, 36, 37, -1.0))
MOVING_DOFS = (*(dof for _, _, *pair in SPINE for dof in pair), *(dof for _, *pair, _ in SCAPULAE for dof in pair))

MOVING_JOINTS = tuple(joint for joint, *_ in (*SPINE, *SCAPULAE))  # each has two of MOVING_DOFS, in this order

# Below this angle the arc is computed by its series, whose remaining terms are under 1e-15.
_SMALL_ARC = 0.02


def _sizes(joints: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Lengths of the spine's three arcs [*b 1], from scapula to scapula [*b], and from lumbar body to thorax [*b]."""
    lengths = [(joints[..., j, 1] - joints[..., below, 1]).abs().unsqueeze(-1) for j, below, *_ in SPINE]
    width, height = joints[..., 19, :] - joints[..., 14, :], joints[..., 12, :] - joints[..., 11, :]
    return lengths, width.norm(dim=-1), height.norm(dim=-1)


def moving_offsets(
    q: Float[Tensor, "*#batch 46"], joints: Float[Tensor, "*#batch 24 3"]
) -> Float[Tensor, "*batch 24 3"]:
    """The extra offset of every joint, m; zero except at the spine and the scapulae."""
    zero = torch.zeros_like(q[..., 0] + joints[..., 0, 0])
    columns = [torch.stack((zero, zero, zero), -1)] * 24
    lengths, width, height = _sizes(joints)
    for (joint, _, bend, extend), length in zip(SPINE, lengths, strict=True):
        (side, up_side), (back, up_back) = arc(q[..., bend]), arc(q[..., extend])
        columns[joint] = length * torch.stack((-side, up_side + up_back, -back), -1)
    rest = sqrt(0.5)  # cos(-pi/4) = -sin(-pi/4), the scapula at rest
    for joint, abduct, elevate, sign in SCAPULAE:
        a, e = sign * q[..., abduct], sign * q[..., elevate] - pi / 4
        x = -sign * width / 4 * (e.cos() * a.cos() - rest)
        y = -height / 2 * (e.sin() + rest)
        columns[joint] = torch.stack((x, y, width / 4 * a.sin()), -1)
    return torch.stack(columns, -2)


def moving_velocities(
    q: Float[Tensor, "*#batch 46"], joints: Float[Tensor, "*#batch 24 3"]
) -> Float[Tensor, "*batch 10 3"]:
    """d offset / d q for the dofs `MOVING_DOFS`, in the frame of the joint's parent."""
    columns = []
    lengths, width, height = _sizes(joints)
    for (_, _, bend, extend), length in zip(SPINE, lengths, strict=True):
        (side, up_side), (back, up_back) = arc_rate(q[..., bend]), arc_rate(q[..., extend])
        zero = torch.zeros_like(side)
        columns.append(length * torch.stack((-side, up_side, zero), -1))
        columns.append(length * torch.stack((zero, up_back, -back), -1))
    for _, abduct, elevate, sign in SCAPULAE:
        a, e = sign * q[..., abduct], sign * q[..., elevate] - pi / 4
        # On the left, the signs of a and e in the chain rule cancel that of x.
        x_by_a, z_by_a = width / 4 * e.cos() * a.sin(), sign * width / 4 * a.cos()
        x_by_e, y_by_e = width / 4 * e.sin() * a.cos(), -sign * height / 2 * e.cos()
        by_a = torch.stack((x_by_a, torch.zeros_like(x_by_a), z_by_a), -1)
        by_e = torch.stack((x_by_e, y_by_e, torch.zeros_like(x_by_e)), -1)
        columns += [by_a, by_e]
    return torch.stack(columns, -2)


def arc(angle: Tensor) -> tuple[Tensor, Tensor]:
    """(1 - cos t)/t and sin(t)/t - 1: how far the end of an arc of unit length moves when it bends by t."""
    t2 = angle * angle
    small = angle.abs() < _SMALL_ARC
    safe = torch.where(small, torch.ones_like(angle), angle)
    across = torch.where(small, angle * (0.5 - t2 / 24 + t2**2 / 720), 2 * (safe / 2).sin() ** 2 / safe)
    along = torch.where(small, -t2 / 6 + t2**2 / 120 - t2**3 / 5040, safe.sin() / safe - 1)
    return across, along


def arc_rate(angle: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of `arc`."""
    t2 = angle * angle
    small = angle.abs() < _SMALL_ARC
    safe = torch.where(small, torch.ones_like(angle), angle)
    sine, cosine = safe.sin(), safe.cos()
    across = torch.where(small, 0.5 - t2 / 8 + t2**2 / 144, sine / safe - 2 * (safe / 2).sin() ** 2 / safe**2)
    along = torch.where(small, angle * (-1 / 3 + t2 / 30 - t2**2 / 840), cosine / safe - sine / safe**2)
    return across, along
