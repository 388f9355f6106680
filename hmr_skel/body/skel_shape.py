"""The parts of SKEL that depend only on betas: rest joints, bone orientations, bone scales."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.lbs import picked
from hmr_skel.body.rotations import shortest_arc
from hmr_skel.shapes import Float

# The first joint below each joint, or 0.
CHILD = tuple(next((c for c, parent in enumerate(SKEL_PARENTS) if parent == j), 0) for j in range(24))
_LUMBAR, _THORAX = 11, 12
_ULNA_RADIUS = ((16, 17), (21, 22))  # the forearm bends at the ulna and ends at the end of the radius
_UNALIGNED = (0, 5, 10, 13, 18, 23)  # pelvis, toes, head, hands: no bone vector to align

# Some bones scale along one axis with a width of the skin: (joint, bone axis, skin coordinate, vertex, vertex), on
# SMPL's topology. These are head depth, height and width, and the palms.
_SKIN_SCALES = (
    (13, 0, 2, 410, 384), (13, 1, 1, 414, 384), (13, 2, 0, 196, 3708),
    (18, 0, 1, 6179, 6137), (18, 1, 0, 5670, 5906), (23, 0, 1, 6179, 6137), (23, 1, 0, 5670, 5906),
)  # fmt: skip
_THORAX_DEPTH = ((3027, 3495), (3027, 3506))  # the smaller ratio counts, so that the ribcage fits into the chest


@dataclass(frozen=True)
class SkelShape:
    """A SKEL body at rest, m."""

    rest: Float[Tensor, "*batch V 3"]  # T-pose skin before pose correctives
    joints: Float[Tensor, "*batch 24 3"]  # J
    offsets: Float[Tensor, "*batch 24 3"]  # o_j = J_j - J_parent
    bone_rotmat: Float[Tensor, "*batch 24 3 3"]  # K_j
    dof_frame: Float[Tensor, "*batch 24 3 3"]  # N_j = K_j A_j^T: maps the joint's OpenSim axes to the T-pose


def bone_orientation(
    offsets: Float[Tensor, "*batch 24 3"], learned: Float[Tensor, "24 3 3"], reference: Float[Tensor, "24 3"]
) -> Float[Tensor, "*batch 24 3 3"]:
    """K_j = D_j C_j, where D_j is the shortest arc from the learned bone vector C_j c_j to this body's b_j."""
    bone = _bone_vectors(offsets)
    bone[..., _THORAX, :] = bone[..., _LUMBAR, :]  # the thorax aligns its own vector c with the lumbar bone
    arc = shortest_arc((learned @ _bone_vectors(reference).unsqueeze(-1)).squeeze(-1).expand_as(bone), bone)
    eye = torch.eye(3, dtype=arc.dtype, device=arc.device)
    for joint in _UNALIGNED:
        arc[..., joint, :, :] = eye
    return arc @ learned


def _bone_vectors(offsets: Float[Tensor, "*batch 24 3"]) -> Float[Tensor, "*batch 24 3"]:
    vectors = picked(offsets, CHILD, -2)
    for ulna, radius in _ULNA_RADIUS:
        vectors[..., ulna, :] = vectors[..., ulna, :] + vectors[..., radius, :]
    return vectors


def bone_scales(
    offsets: Float[Tensor, "*batch 24 3"],
    reference: Float[Tensor, "24 3"],
    skin: Float[Tensor, "*batch V 3"],
    skin_template: Float[Tensor, "V 3"],
) -> Float[Tensor, "*batch 24 3"]:
    """The size of each bone relative to the template, along each axis of its own frame."""
    # Leaf joints have no reference length, which gives 0/0; their ratio is never used.
    length = reference.norm(dim=-1)
    ratio = offsets.norm(dim=-1) / torch.where(length > 0, length, torch.ones_like(length))
    one = torch.ones_like(ratio[..., 0])
    scale = torch.stack([ratio[..., child] if child else one for child in CHILD], -1)
    scale = scale.unsqueeze(-1).repeat_interleave(3, -1)
    for ulna, radius in _ULNA_RADIUS:
        scale[..., ulna, :] = scale[..., radius, :]
    # The ribcage scales with its distance from the lumbar body, the lumbar body with its height above the pelvis.
    scale[..., _THORAX, :] = scale[..., _LUMBAR, :]
    scale[..., _LUMBAR, :] = (offsets[..., _LUMBAR, 1].abs() / reference[_LUMBAR, 1].abs()).unsqueeze(-1)

    def width_ratio(coordinate: int, v1: int, v2: int) -> Tensor:
        # Pick the component before dividing: the others may be 0/0 on a symmetric body.
        shaped = skin[..., v1, coordinate] - skin[..., v2, coordinate]
        return shaped / (skin_template[v1, coordinate] - skin_template[v2, coordinate])

    for joint, axis, coordinate, v1, v2 in _SKIN_SCALES:
        scale[..., joint, axis] = width_ratio(coordinate, v1, v2)
    depth = torch.minimum(*(width_ratio(2, v1, v2) for v1, v2 in _THORAX_DEPTH))
    scale[..., _THORAX, 0] = depth
    scale[..., _LUMBAR, 0] = depth
    return scale
