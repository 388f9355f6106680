"""Rotations of any batch shape: matrices act on column vectors, `rotvec` is the axis times the angle, rad.

Where a function is finite, its gradient is finite too, also at the zero rotation.
"""

import torch
from torch import Tensor

from hmr_skel.shapes import Float

# Below this squared angle the Rodrigues coefficients are computed by their series, whose next term is under 1e-12.
_SMALL_ANGLE_SQUARED = 1e-4


def skew(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix [v]x with [v]x p = v x p."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def rotvec_to_rotmat(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula I + a [v]x + b [v]x^2 with a = sin(t)/t and b = (1 - cos(t))/t^2, t = |v|."""
    squared = (rotvec * rotvec).sum(-1)
    small = squared < _SMALL_ANGLE_SQUARED
    # `where` passes gradients through both branches, so the unused one must be finite as well.
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - squared / 6 + squared**2 / 120, angle.sin() / angle)
    # 1 - cos(t) = 2 sin(t/2)^2 loses no digits where cos(t) is near 1.
    b = torch.where(small, 0.5 - squared / 24 + squared**2 / 720, 2 * (angle / 2).sin() ** 2 / safe)
    outer = rotvec.unsqueeze(-1) * rotvec.unsqueeze(-2)
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    diagonal = (1 - b * squared)[..., None, None] * eye  # [v]x^2 = v v^T - |v|^2 I
    return diagonal + a[..., None, None] * skew(rotvec) + b[..., None, None] * outer


def rotmat_to_rotvec(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The rotation vector of length at most pi, computed from the largest component of the quaternion (Shepperd)."""
    r, trace = rotmat, rotmat.diagonal(dim1=-2, dim2=-1).sum(-1)
    x, y, z = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    squares = [1 + 2 * r[..., i, i] - trace for i in range(3)]
    # The four columns are 4 q_i q for i = w, x, y, z; the one with the largest q_i^2 is divided by its root.
    pairs = (
        (1 + trace, x, y, z), (x, squares[0], xy, xz), (y, xy, squares[1], yz), (z, xz, yz, squares[2])
    )  # fmt: skip
    table = torch.stack([torch.stack(row, -1) for row in pairs], -2)
    best = table.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quat = table.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quat = quat / quat.norm(dim=-1, keepdim=True)
    quat = torch.where(quat[..., :1] < 0, -quat, quat)
    w, xyz = quat[..., 0], quat[..., 1:]
    squared = (xyz * xyz).sum(-1)
    small = squared < 1e-10
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    factor = torch.where(small, 2 / w.clamp_min(0.5), 2 * torch.atan2(sine, w) / sine)
    return factor.unsqueeze(-1) * xyz


def shortest_arc(a: Float[Tensor, "*batch 3"], b: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The smallest rotation that takes the direction of `a` to the direction of `b`.

    Opposite directions have no smallest rotation: the result is then finite but not a rotation.
    """
    a = torch.nn.functional.normalize(a, dim=-1)
    b = torch.nn.functional.normalize(b, dim=-1)
    axis = skew(torch.linalg.cross(a, b))
    cosine = (a * b).sum(-1)
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    return eye + axis + axis @ axis / (1 + cosine).clamp_min(1e-7)[..., None, None]
