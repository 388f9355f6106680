"""OpenSim motion files (`.mot`): BSM's coordinates in degrees and metres, over time.

Format: OpenSim's documentation, "Motion (.mot) Files", form 2: a name, `nRows=`, `nColumns=`, comments, `endheader`,
then a line of labels and the data, all separated by tabs. The names are those of BSM, the skeleton inside SKEL (SKEL's
46 dofs are its coordinates), with the pelvis' translation added.

Signs and zeros are SKEL's: at zero the body stands in SMPL's T-pose. Nobody has compared them with the licensed
`bsm.osim` yet, whose own zero has the arms lowered. Every file says so.
"""

from pathlib import Path

import numpy as np
import torch

from hmr_skel.body.dofs import DOF_NAMES, limits
from hmr_skel.body.skel import Skel, root_dofs
from hmr_skel.convert.clips import UPRIGHT, SkelClip, require_frame
from hmr_skel.convert.continuity import without_jumps
from hmr_skel.convert.meshes import skel_joints
from hmr_skel.data.atomic import replacing
from hmr_skel.errors import UserError

PELVIS_TRANSLATION = ("pelvis_tx", "pelvis_ty", "pelvis_tz")
COLUMNS = ("time", *DOF_NAMES[:3], *PELVIS_TRANSLATION, *DOF_NAMES[3:])

_HEADER = """\
{name}
version=1
nRows={rows}
nColumns={columns}
inDegrees=yes

Units are S.I. units (second, meters, Newtons, ...)
Angles are in degrees.
Made by hmr-skel from {source}. Ground frame: x forward, y up, z right; pelvis_t* is SKEL's pelvis joint.
Coordinates carry the names of BSM and the signs and zeros of SKEL: zero is SMPL's T-pose.
They have not been verified against bsm.osim, whose zero has the arms lowered: mind shoulders and scapulae.
endheader
"""


def write_mot(clip: SkelClip, skel: Skel, path: Path) -> None:
    """Write one clip.

    Raises:
        UserError: the clip's frame is not known, several frames have no frame rate, or the file cannot be written.
    """
    time = clip.time
    if time is None:
        if len(clip) > 1:
            raise UserError(
                f"{clip.smpl.source} does not say how many frames a second it has, and a .mot has times. Say "
                "--frame-rate."
            )
        time = np.zeros(len(clip))
    q, pelvis = _in_ground_frame(clip, skel, require_frame(clip.smpl, "a .mot"))
    degrees = np.degrees(q.astype(np.float64))
    table = np.concatenate((time[:, None], degrees[:, :3], pelvis, degrees[:, 3:]), 1)
    header = _HEADER.format(name=clip.name, rows=len(table), columns=len(COLUMNS), source=clip.smpl.source)
    with replacing(path) as temporary, temporary.open("w", newline="\n") as file:
        file.write(header + "\t".join(COLUMNS) + "\n")
        np.savetxt(file, table, fmt="%.8f", delimiter="\t")


def _in_ground_frame(clip: SkelClip, skel: Skel, frame: str) -> tuple[np.ndarray, np.ndarray]:
    """q [N 46] with the pelvis' rotation in OpenSim's ground frame (x forward, y up, z right), and its place [N 3], m.

    OpenSim's axes are those of SKEL's pelvis dofs. They are the columns of N in SMPL's rest frame (x left, y up, z
    forward): a point p of the upright world W is at N^T W p there, and the pelvis' rotation P becomes (N^T W N) P.
    """
    shape = skel.prepare_shape(torch.from_numpy(clip.betas[:1]).to(skel.template))
    axes = shape.dof_frame[0, 0].double().cpu()  # N, the same for every shape
    turned = skel.local_rotmat(torch.from_numpy(clip.q).to(skel.template), shape)[:, 0].double().cpu()
    q = clip.q.copy()
    q[:, :3] = root_dofs(torch.from_numpy(UPRIGHT[frame]) @ turned, axes)
    if clip.smpl.moving:
        q[:, :3] = without_jumps(q, clip.smpl.starts(), limits("anatomical"))[:, :3]
    where = skel_joints(clip, skel)[:, 0].astype(np.float64) @ (axes.numpy().T @ UPRIGHT[frame]).T
    return q, where
