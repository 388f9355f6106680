"""Write a motion for full-body models with BSM's coordinate names, with only the verified coordinates.

They are compared in OpenSim with the public `CompleteHumanModel.osim` (by `tests/opensim`; docs/opensim.md has the
table): pelvis, hips, knees and feet have SKEL's signs, but these models turn about z, x, y, and SKEL about y, x, z of
the same axes. So this module computes new angles with which the model's bones turn as SKEL's. It leaves out spine and
arms, whose zeros and axes differ.
"""

from pathlib import Path

import numpy as np
import torch

from hmr_skel.body.dofs import DOF_NAMES, LEG_L, LEG_R, PELVIS
from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS
from hmr_skel.opensim.joints import PELVIS_TRANSLATION
from hmr_skel.opensim.person import Motion, RestBody
from hmr_skel.opensim.tables import write_mot_table

VERIFIED = (*DOF_NAMES[PELVIS], *PELVIS_TRANSLATION, *DOF_NAMES[LEG_R], *DOF_NAMES[LEG_L])
"""The coordinates in the file."""
_MODEL = (
    "For models like CompleteHumanModel.osim, with BSM's coordinates: pelvis, hips, knees and feet, whose signs and "
    "zeros were\ncompared with it. For spine and arms, use markers (.trc) and inverse kinematics."
)
# The axis of each joint in its parent bone, as in CompleteHumanModel.osim, whose left ankle is mirrored.
_HINGES = {
    "tibia_r": (0.0, 0.0, -1.0), "talus_r": (-0.10501355, -0.17402245, 0.97912632),
    "calcn_r": (0.78717961, 0.60474746, -0.12094949), "toes_r": (0.58095440, 0.0, -0.81393611),
}  # fmt: skip


def write_mot_for_bsm(person: RestBody, motion: Motion, path: Path) -> None:
    """Write the verified coordinates, in degrees and metres.

    Raises:
        UserError: the file cannot be written.
    """
    angles = np.degrees(np.unwrap(bsm_angles(person, motion.q), axis=0))
    table = np.concatenate((motion.time[:, None], angles[:, :3], motion.pelvis, angles[:, 3:]), 1)
    write_mot_table(motion, ("time", *VERIFIED), table, _MODEL, path)


@torch.no_grad()
def bsm_angles(person: RestBody, q: np.ndarray) -> np.ndarray:
    """The angles of pelvis and legs [N 17], rad, in the order of `VERIFIED`, from SKEL's q [N 46] in the ground."""
    like = person.skel.template
    shape = person.skel.prepare_shape(torch.from_numpy(person.betas).to(like))
    local = person.skel.local_rotmat(torch.from_numpy(q).to(like), shape).double().cpu().numpy()
    above = np.stack([person.bone_rotmat[p] if p >= 0 else person.dof_frame[0] for p in SKEL_PARENTS])
    turned = above.transpose(0, 2, 1) @ local @ person.bone_rotmat  # [N 24 3 3] each bone in its parent

    columns = list(_zxy(turned[:, 0]))
    for side, sign in (("r", 1.0), ("l", -1.0)):
        flexion, adduction, rotation = _zxy(turned[:, SKEL_JOINTS.index(f"femur_{side}")])
        columns += [flexion, sign * adduction, sign * rotation]
        for name, (x, y, z) in _HINGES.items():
            joint = SKEL_JOINTS.index(f"{name[:-2]}_{side}")
            columns.append(_about(turned[:, joint], np.array([sign * x, sign * y, z])))
    return np.stack(columns, 1)


def _zxy(rotmat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The angles a, b, c of Rz(a) Rx(b) Ry(c), rad."""
    m = rotmat
    second = np.arctan2(m[:, 2, 1], np.hypot(m[:, 2, 0], m[:, 2, 2]))
    return np.arctan2(-m[:, 0, 1], m[:, 1, 1]), second, np.arctan2(-m[:, 2, 0], m[:, 2, 2])


def _about(rotmat: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The angle, rad, of the rotation about a unit axis that is nearest to each rotation."""
    x, y, z = rotmat[:, 2, 1] - rotmat[:, 1, 2], rotmat[:, 0, 2] - rotmat[:, 2, 0], rotmat[:, 1, 0] - rotmat[:, 0, 1]
    along = np.einsum("i,nij,j->n", axis, rotmat, axis)
    return np.arctan2(np.stack((x, y, z), 1) @ axis, np.trace(rotmat, axis1=1, axis2=2) - along)
