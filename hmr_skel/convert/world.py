"""The frames that results are given in, turned upright: what OpenSim and glTF expect is y up, in metres.

A camera's frame becomes y-up by half a turn about x, which takes the camera for level: the ground is then as tilted as
the camera was.
"""

import numpy as np
import torch

from fitting.root import root_dofs
from hmr_skel.body.dofs import limits
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.lbs import chain
from hmr_skel.body.moving_joints import moving_offsets
from hmr_skel.body.skel import Skel
from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.convert.continuity import without_jumps
from hmr_skel.convert.parameters import looks_like
from hmr_skel.errors import UserError

UPRIGHT = {
    "y-up": np.eye(3),
    "z-up": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "camera": np.diag([1.0, -1.0, -1.0]),
}
"""A frame's name -> the rotation from it to y-up."""

_CHUNK = 512  # rows whose shapes are in memory at once


def require_frame(clip: SmplClip, what: str) -> str:
    """The clip's frame. Raises `UserError` where it is not known, with what it looks like."""
    if clip.frame is not None:
        return clip.frame
    seems = looks_like(clip.pose)
    hint = f" These people stand as in a {seems} frame." if seems else ""
    raise UserError(
        f"{clip.source} does not say for sure which way is up, and {what} needs it.{hint} Say --frame camera (x "
        "right, y down, z forward), --frame y-up or --frame z-up."
    )


def skel_joints(clip: SkelClip, skel: Skel) -> np.ndarray:
    """SKEL's joints float32 [N 24 3], m, in the clip's own frame. No vertex is posed."""
    found = np.empty((len(clip), 24, 3), np.float32)
    for first in range(0, len(clip), _CHUNK):
        rows = slice(first, first + _CHUNK)
        q, betas, transl = (torch.from_numpy(v[rows]).to(skel.template) for v in (clip.q, clip.betas, clip.transl))
        # One shape in many poses is prepared once.
        shape = skel.prepare_shape(betas[:1] if (betas == betas[:1]).all() else betas)
        offsets = shape.offsets + moving_offsets(q, shape.joints)
        posed = chain(skel.local_rotmat(q, shape), offsets, SKEL_PARENTS)[1]
        found[rows] = (posed + transl.unsqueeze(1)).cpu().numpy()
    return found


def opensim_root(clip: SkelClip, skel: Skel, frame: str) -> tuple[np.ndarray, np.ndarray]:
    """The pelvis in OpenSim's ground frame (x forward, y up, z right): q [N 46] with its first three, and where it is.

    OpenSim's axes are those of SKEL's pelvis dofs, N, whose columns they are in SMPL's rest frame (x left, y up, z
    forward): a point of the upright world is N^T p there, and the pelvis' rotation P becomes (N^T W N) P.
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


def upright_vertices(points: np.ndarray, frame: str) -> np.ndarray:
    """Points [... 3] of the frame, in y-up."""
    return points @ UPRIGHT[frame].T.astype(points.dtype)
