"""Mirrored people: the parameters of a posture in the mirror, and the error of SKEL's fit there.

The mirror is the plane x = 0, as when an image is flipped in its camera's frame. Neither body is exactly symmetric, so
the mirrored fit's error is close to the fit's own and not equal to it.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fitting.distances import mesh_distances_mm
from hmr_skel.body.dofs import MIRROR, MIRROR_SIGN
from hmr_skel.body.joints import SMPL_JOINTS
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.convert.fit import Bodies
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams

SAME_MM = 0.5
"""The distances that a dataset records and those measured with the same bodies differ by less (float32)."""
_OTHER_SIDE = {"left": "right", "right": "left"}
SMPL_MIRROR = tuple(
    SMPL_JOINTS.index("_".join(_OTHER_SIDE.get(word, word) for word in name.split("_"))) for name in SMPL_JOINTS
)
"""For each joint the one that takes its place in a mirrored body."""
_AXIAL = (1.0, -1.0, -1.0)  # a turn about x stays, those about y and z change sense
_POLAR = (-1.0, 1.0, 1.0)


def mirrored_q(q: np.ndarray) -> np.ndarray:
    """SKEL's dofs [N 46] of the mirrored posture."""
    return q[:, MIRROR] * np.asarray(MIRROR_SIGN, np.float32)


def mirrored_smpl(params: SmplParams, smpl: Smpl) -> SmplParams:
    """SMPL's parameters [N] of the mirrored posture: the same betas, and the pelvis joint at its mirrored place."""
    pose = torch.cat((params.global_orient.unsqueeze(-2), params.body_pose), -2)
    pose = pose[..., SMPL_MIRROR, :] * pose.new_tensor(_AXIAL)
    transl = _mirrored_transl(params.transl, smpl.shaped(params.betas)[1][..., 0, :])
    return SmplParams(pose[..., 0, :], pose[..., 1:, :], params.betas, transl)


def mirrored_skel(params: SkelParams, skel: Skel) -> SkelParams:
    """SKEL's parameters [N] of the mirrored posture: the same betas, and the pelvis joint at its mirrored place."""
    q = params.q[..., MIRROR] * params.q.new_tensor(MIRROR_SIGN)
    transl = _mirrored_transl(params.transl, skel.prepare_shape(params.betas).joints[..., 0, :])
    return SkelParams(q, params.betas, transl)


def _mirrored_transl(transl: Tensor, pelvis: Tensor) -> Tensor:
    return (pelvis + transl) * transl.new_tensor(_POLAR) - pelvis


def mirrored_largest_mm(rows: Mapping[str, np.ndarray], bodies: Bodies) -> np.ndarray:
    """Largest distance [N] of the mirrored fit from the mirrored annotation, mm.

    Args:
        rows: a dataset's columns smpl_pose, smpl_betas, smpl_transl, smpl_gender, skel_q, skel_betas, skel_transl,
            skel_gender and v2v_max_mm of [N] rows.
        bodies: the bodies that the rows were fitted with.

    Raises:
        UserError: these are other bodies, as they do not reproduce `v2v_max_mm`; or a model file is missing or damaged.
    """
    result = np.empty(len(rows["v2v_max_mm"]), np.float32)
    pairs = np.array([f"{a} {b}" for a, b in zip(rows["smpl_gender"], rows["skel_gender"], strict=True)])
    for pair in np.unique(pairs):
        members = np.flatnonzero(pairs == pair)
        model = bodies.model(*pair.split())
        annotated, fitted = _params(rows, members, bodies.device)
        _, there = mesh_distances_mm(annotated, fitted, model)
        off = np.abs(there.numpy() - rows["v2v_max_mm"][members]).max()
        if not off <= SAME_MM:
            raise UserError(
                f"{bodies.folder} holds other body models than the dataset was fitted with: the largest distances that "
                f"it records differ by up to {off:.1f} mm from theirs. Name the right folder with --body-models."
            )
        turned = mirrored_smpl(annotated, bodies.smpl(pair.split()[0])), mirrored_skel(fitted, model.skel)
        result[members] = mesh_distances_mm(*turned, model)[1]
    return result


def _params(rows: Mapping[str, np.ndarray], members: np.ndarray, device: torch.device) -> tuple[SmplParams, SkelParams]:
    def column(name: str) -> Tensor:
        return torch.from_numpy(rows[name][members]).to(device)

    pose = column("smpl_pose").reshape(-1, 24, 3)
    return (
        SmplParams(pose[:, 0], pose[:, 1:], column("smpl_betas"), column("smpl_transl")),
        SkelParams(column("skel_q"), column("skel_betas"), column("skel_transl")),
    )
