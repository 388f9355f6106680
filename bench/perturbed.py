"""Made-up SMPL predictions: real poses, changed until they are as far off as predictions are."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.lbs import blend, chain, relative
from hmr_skel.body.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from hmr_skel.evaluate.metrics import mpjpe_mm
from hmr_skel.rows import SmplParams

KINDS = {
    "noise": "every joint turned by a random rotation, anatomical or not",
    "other pose": "every joint but the root turned part of the way to another frame's pose",
}
_STEPS = 14


def perturbed(params: SmplParams, kind: str, smpl: Smpl, target_mm: float, seed: int = 0) -> SmplParams:
    """The parameters with poses changed so that the 24 joints are off by `target_mm` in the mean over rows, root in
    place. One amount of change for all rows, found by bisection.

    Args:
        params: of N rows.
        kind: one of `KINDS`.
        smpl: the model that they are for.
        target_mm: MPJPE.
        seed: of the draws.

    Raises `UserError` where no amount of this kind of change reaches the target.
    """
    pose = rotvec_to_rotmat(torch.cat((params.global_orient.unsqueeze(1), params.body_pose), 1))
    way = {"noise": _noise, "other pose": _to_another}[kind](pose, torch.Generator().manual_seed(seed))
    offsets = relative(smpl.joint_template + blend(smpl.joint_shapedirs, params.betas), SMPL_PARENTS)
    truth = chain(pose, offsets, SMPL_PARENTS)[1]

    def off(amount: float) -> float:
        moved = chain(pose @ rotvec_to_rotmat(amount * way), offsets, SMPL_PARENTS)[1]
        return mpjpe_mm(moved, truth, 0).double().mean().item()

    low, high = 0.0, 1.0
    if off(high) < target_mm:
        raise UserError(f"poses changed by {kind!r} are never {target_mm:g} mm off. Choose a smaller --off.")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) < target_mm else (low, middle)
    rotvec = rotmat_to_rotvec(pose @ rotvec_to_rotmat(high * way))
    return replace(params, global_orient=rotvec[:, 0], body_pose=rotvec[:, 1:])


def _noise(pose: Float[Tensor, "N 24 3 3"], generator: torch.Generator) -> Float[Tensor, "N 24 3"]:
    return torch.randn(len(pose), 24, 3, generator=generator)


def _to_another(pose: Float[Tensor, "N 24 3 3"], generator: torch.Generator) -> Float[Tensor, "N 24 3"]:
    way = rotmat_to_rotvec(pose.mT @ pose[torch.randperm(len(pose), generator=generator)])
    way[:, 0] = 0
    return way
