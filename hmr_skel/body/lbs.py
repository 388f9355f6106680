"""What SMPL and SKEL share: blend shapes, the kinematic chain, linear blend skinning. Any leading batch shape; the
batch shapes of the arguments broadcast (one rest shape, many poses).

Source: Loper et al. 2015, "SMPL", equations 2-9; smplx `lbs.py` for the conventions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hmr_skel.shapes import Float


def blend(basis: Float[Tensor, "K N"], coefficients: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch N//3 3"]:
    """Vertex offsets of a linear basis laid out [K 3V], metres."""
    return (coefficients @ basis).unflatten(-1, (-1, 3))


def picked(values: Tensor, numbers: Sequence[int], dim: int) -> Tensor:
    """Entries `numbers` along `dim`. A Python list as an index would be copied to a GPU each time, which waits."""
    return torch.stack([values.select(dim, number) for number in numbers], dim)


def levels(parents: tuple[int, ...]) -> list[list[int]]:
    """Joints by depth, the root first: all joints of one level can be posed at once."""
    depth: list[int] = []
    for parent in parents:
        depth.append(0 if parent < 0 else depth[parent] + 1)
    return [[j for j, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]


def chain(
    local_rotmat: Float[Tensor, "*#batch J 3 3"],
    local_transl: Float[Tensor, "*#batch J 3"],
    parents: tuple[int, ...],
) -> tuple[Float[Tensor, "*batch J 3 3"], Float[Tensor, "*batch J 3"]]:
    """World rotation and position of every joint: R_j = R_parent L_j, p_j = p_parent + R_parent l_j."""
    # numpy's, as torch's own imports sympy, a second of CPU time.
    batch = np.broadcast_shapes(local_rotmat.shape[:-3], local_transl.shape[:-2])
    rotmat = local_rotmat.expand(*batch, -1, -1, -1)
    transl = local_transl.expand(*batch, -1, -1)
    # The root is its own world; every other entry is the local one until its level comes.
    world_r, world_p = list(rotmat.unbind(-3)), list(transl.unbind(-2))
    for level in levels(parents)[1:]:
        parent_r = torch.stack([world_r[parents[j]] for j in level], -3)
        parent_p = torch.stack([world_p[parents[j]] for j in level], -2)
        r = parent_r @ torch.stack([world_r[j] for j in level], -3)
        p = parent_p + (parent_r @ torch.stack([world_p[j] for j in level], -2).unsqueeze(-1)).squeeze(-1)
        for i, j in enumerate(level):
            world_r[j], world_p[j] = r[..., i, :, :], p[..., i, :]
    return torch.stack(world_r, -3), torch.stack(world_p, -2)


def bone_transforms(
    rotmat: Float[Tensor, "*batch J 3 3"],
    position: Float[Tensor, "*batch J 3"],
    rest_position: Float[Tensor, "*#batch J 3"],
) -> Float[Tensor, "*batch J 3 4"]:
    """G_j = [R_j | p_j - R_j J_j]: takes a rest point of bone j to the world."""
    offset = position - (rotmat @ rest_position.unsqueeze(-1)).squeeze(-1)
    return torch.cat((rotmat, offset.unsqueeze(-1)), -1)


def skin(
    weights: Float[Tensor, "V J"],
    transforms: Float[Tensor, "*#batch J 3 4"],
    rest: Float[Tensor, "*#batch V 3"],
) -> Float[Tensor, "*batch V 3"]:
    """v = sum_j w_vj G_j [x; 1]."""
    blended = (weights @ transforms.flatten(-2)).unflatten(-1, (3, 4))
    return (blended[..., :3] @ rest.unsqueeze(-1)).squeeze(-1) + blended[..., 3]
