"""Blend shapes, the kinematic chain and linear blend skinning, which SMPL and SKEL share.

Arguments may have any leading batch shapes, which broadcast (one rest shape, many poses).

Source: Loper et al. 2015, "SMPL", equations 2-9; conventions as in smplx `lbs.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hmr_skel.shapes import Float


def blend(basis: Float[Tensor, "K N"], coefficients: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch N//3 3"]:
    """Vertex offsets, m, from a linear basis [K 3V]."""
    return (coefficients @ basis).unflatten(-1, (-1, 3))


def picked(values: Tensor, numbers: Sequence[int], dim: int) -> Tensor:
    """Entries `numbers` along `dim`. Indexing with a Python list would copy it to the GPU, and wait, each time."""
    return torch.stack([values.select(dim, number) for number in numbers], dim)


def levels(parents: tuple[int, ...]) -> list[list[int]]:
    """The joints by depth, the root first. All joints of a level can be posed at once."""
    depth: list[int] = []
    for parent in parents:
        depth.append(0 if parent < 0 else depth[parent] + 1)
    return [[j for j, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]


def chain(
    local_rotmat: Float[Tensor, "*#batch J 3 3"], local_transl: Float[Tensor, "*#batch J 3"], parents: tuple[int, ...]
) -> tuple[Float[Tensor, "*batch J 3 3"], Float[Tensor, "*batch J 3"]]:
    """World rotation and position of every joint: R_j = R_parent L_j, p_j = p_parent + R_parent l_j."""
    # numpy's function, since torch's imports sympy, which takes a second.
    batch = np.broadcast_shapes(local_rotmat.shape[:-3], local_transl.shape[:-2])
    rotmat = local_rotmat.expand(*batch, -1, -1, -1)
    transl = local_transl.expand(*batch, -1, -1)
    # The root's local values are its world values; the others are replaced level by level.
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
    """G_j = [R_j | p_j - R_j J_j], which maps a rest point of bone j to the world."""
    offset = position - (rotmat @ rest_position.unsqueeze(-1)).squeeze(-1)
    return torch.cat((rotmat, offset.unsqueeze(-1)), -1)


def skin(
    weights: Float[Tensor, "V J"], transforms: Float[Tensor, "*#batch J 3 4"], rest: Float[Tensor, "*#batch V 3"]
) -> Float[Tensor, "*batch V 3"]:
    """Linear blend skinning: v = sum_j w_vj G_j [x; 1]."""
    blended = (weights @ transforms.flatten(-2)).unflatten(-1, (3, 4))
    return (blended[..., :3] @ rest.unsqueeze(-1)).squeeze(-1) + blended[..., 3]


def relative(joints: Float[Tensor, "*batch J 3"], parents: tuple[int, ...]) -> Float[Tensor, "*batch J 3"]:
    """Each joint's offset from its parent at rest; for the root, from the origin."""
    moved = torch.cat((torch.zeros_like(joints[..., :1, :]), picked(joints, parents[1:], -2)), -2)
    return joints - moved


class BodyModel(nn.Module):
    """The content of a model file with V vertices, as tensors; SMPL and SKEL add their own.

    Attributes: `template` [V 3], `shapedirs` [10 3V], `posedirs` [P 3V], `joint_regressor` [24 V], `weights` [V 24],
    `faces` (numpy int64 [F 3]), and for the joints `joint_template` [24 3] and `joint_shapedirs` [10 72].
    """

    template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    joint_regressor: Tensor
    weights: Tensor
    joint_template: Tensor
    joint_shapedirs: Tensor

    def __init__(self, arrays: dict[str, Tensor], faces: np.ndarray) -> None:
        super().__init__()
        self.faces = faces
        for name, array in arrays.items():
            # Model data belongs to its file, not to a checkpoint.
            self.register_buffer(name, array, persistent=False)
        # Joints are linear in betas: regressing the ten directions once saves a pass over the vertices per row.
        self.register_buffer("joint_template", self.joint_regressor @ self.template, persistent=False)
        directions = self.shapedirs.unflatten(-1, (-1, 3))
        self.register_buffer("joint_shapedirs", (self.joint_regressor @ directions).flatten(-2), persistent=False)

    def shaped(
        self, betas: Float[Tensor, "*batch 10"]
    ) -> tuple[Float[Tensor, "*batch V 3"], Float[Tensor, "*batch 24 3"]]:
        """Vertices and joints of the T-pose."""
        return (
            self.template + blend(self.shapedirs, betas),
            self.joint_template + blend(self.joint_shapedirs, betas),
        )
