"""Convert a SKEL motion to SMPL, with added rotations that SMPL fits have and anatomy does not.

The bones of both models have identity world rotations in SMPL's T-pose, so an SMPL joint gets the world rotation of the
corresponding SKEL bone. Three regions have no such bone: spine and neck share their rotations, the forearm's twist is
divided between elbow and wrist, and a collar points to the shoulder that SKEL's scapula has moved.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS, SMPL_JOINTS, SMPL_PARENTS
from hmr_skel.body.lbs import chain
from hmr_skel.body.moving_joints import moving_offsets
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat, shortest_arc
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl

PERTURBATION_DEG = 5.0  # standard deviation of each perturbed axis
_ALL_AXES = (0, 1, 2)
# For each joint, the axes of its rest frame about which SMPL fits rotate and anatomy does not. In the T-pose knees bend
# about x and elbows about y, so these are the other two axes.
PERTURBED = {
    "left_knee": (1, 2), "right_knee": (1, 2), "left_elbow": (0, 2), "right_elbow": (0, 2),
    "left_collar": _ALL_AXES, "right_collar": _ALL_AXES, "left_ankle": _ALL_AXES, "right_ankle": _ALL_AXES,
    "left_wrist": _ALL_AXES, "right_wrist": _ALL_AXES,
}  # fmt: skip
NUM_PERTURBED_AXES = sum(len(axes) for axes in PERTURBED.values())

_BONE = {
    "pelvis": "pelvis", "left_hip": "femur_l", "right_hip": "femur_r", "spine1": "lumbar_body", "left_knee": "tibia_l",
    "right_knee": "tibia_r", "left_ankle": "calcn_l", "right_ankle": "calcn_r", "spine3": "thorax",
    "left_foot": "toes_l", "right_foot": "toes_r", "head": "head", "left_shoulder": "humerus_l",
    "right_shoulder": "humerus_r", "left_wrist": "hand_l", "right_wrist": "hand_r", "left_hand": "hand_l",
    "right_hand": "hand_r",
}  # fmt: skip
# For each SMPL joint, the two SKEL bones between which it is half way.
_BETWEEN = {
    "spine2": ("lumbar_body", "thorax"), "neck": ("thorax", "head"),
    "left_elbow": ("ulna_l", "radius_l"), "right_elbow": ("ulna_r", "radius_r"),
}  # fmt: skip
_COLLARS = {"left_collar": ("left_shoulder", "humerus_l"), "right_collar": ("right_shoulder", "humerus_r")}
_SHAPE_RIDGE = 10.0  # mm^2 of mean squared vertex distance per unit of mean squared betas: SKEL betas stay near 2


def converted_betas(smpl_betas: Float[Tensor, "*batch 10"], smpl: Smpl, skel: Skel) -> Float[Tensor, "*batch 10"]:
    """The betas of the SKEL body nearest to the same T-pose, by ridge regression over the centred vertices."""
    basis, target = (_centred(m.shapedirs.double().unflatten(-1, (-1, 3))) for m in (skel, smpl))
    gap = _centred((smpl.template - skel.template).double()).flatten()
    ridge = _SHAPE_RIDGE * 1e-6 * len(skel.template) / 10 * torch.eye(10, dtype=torch.float64)
    basis, target = basis.flatten(1), target.flatten(1)
    solved = torch.linalg.solve(basis @ basis.mT + ridge, basis @ torch.cat((target, gap[None])).mT)
    matrix, offset = solved[:, :10].to(smpl.template), solved[:, 10].to(smpl.template)
    return smpl_betas @ matrix.mT + offset


def skel_to_smpl(
    q: Float[Tensor, "*#batch 46"],
    skel_betas: Float[Tensor, "*#batch 10"],
    smpl_betas: Float[Tensor, "*#batch 10"],
    skel: Skel,
    smpl: Smpl,
) -> Float[Tensor, "*batch 23 3 3"]:
    """SMPL's local rotations for the body dofs of `q`, without the pelvis."""
    q = torch.cat((torch.zeros_like(q[..., :3]), q[..., 3:]), -1)
    shape = skel.prepare_shape(skel_betas)
    bones, positions = chain(skel.local_rotmat(q, shape), shape.offsets + moving_offsets(q, shape.joints), SKEL_PARENTS)
    rest_joints = smpl.shaped(smpl_betas)[1]

    def bone(name: str) -> Tensor:
        return bones[..., SKEL_JOINTS.index(name), :, :]

    world = {joint: bone(name) for joint, name in _BONE.items()}
    for joint, (start, end) in _BETWEEN.items():
        world[joint] = bone(start) @ _half(bone(start).mT @ bone(end))
    thorax = SKEL_JOINTS.index("thorax")
    for collar, (shoulder, humerus) in _COLLARS.items():
        index = SKEL_JOINTS.index(humerus)
        now = bones[..., thorax, :, :].mT @ (positions[..., index, :] - positions[..., thorax, :]).unsqueeze(-1)
        moved = now.squeeze(-1) - (shape.joints[..., index, :] - shape.joints[..., thorax, :])
        arm = rest_joints[..., SMPL_JOINTS.index(shoulder), :] - rest_joints[..., SMPL_JOINTS.index(collar), :]
        world[collar] = bone("thorax") @ shortest_arc(arm.expand_as(moved), arm + moved)
    stacked = torch.stack([world[joint] for joint in SMPL_JOINTS], -3)
    return stacked[..., list(SMPL_PARENTS[1:]), :, :].mT @ stacked[..., 1:, :, :]


def perturb(
    local: Float[Tensor, "*batch 23 3 3"], noise: Float[Tensor, "*batch channels"]
) -> Float[Tensor, "*batch 23 3 3"]:
    """Rotate the joints of `PERTURBED` about their axes by `noise` (standard normal) times 5 degrees."""
    rotvec = torch.zeros(*local.shape[:-1], dtype=local.dtype)
    channel = 0
    for joint, axes in PERTURBED.items():
        for axis in axes:
            rotvec[..., SMPL_JOINTS.index(joint) - 1, axis] = noise[..., channel]
            channel += 1
    assert channel == noise.shape[-1]
    return local @ rotvec_to_rotmat(torch.deg2rad(PERTURBATION_DEG * rotvec))


def _half(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    return rotvec_to_rotmat(rotmat_to_rotvec(rotmat) / 2)


def _centred(points: Float[Tensor, "*batch V 3"]) -> Float[Tensor, "*batch V 3"]:
    return points - points.mean(-2, keepdim=True)
