"""Clips of SKEL as OpenSim's and MuJoCo's files: turned to OpenSim's ground frame, with one person's body."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hmr_skel.body.dofs import limits
from hmr_skel.body.skel import Skel, root_dofs
from hmr_skel.convert.clips import UPRIGHT, SkelClip, require_frame
from hmr_skel.convert.continuity import without_jumps
from hmr_skel.convert.meshes import skel_joints
from hmr_skel.errors import UserError
from hmr_skel.opensim.bsm import write_mot_for_bsm
from hmr_skel.opensim.markers import SETS, marker_places, marker_set
from hmr_skel.opensim.mjcf import write_mjcf
from hmr_skel.opensim.osim import write_osim
from hmr_skel.opensim.person import Motion, RestBody
from hmr_skel.opensim.tables import write_mot, write_trc


@dataclass(frozen=True, kw_only=True)
class OpenSimOptions:
    """What the user wants of OpenSim's and MuJoCo's files."""

    markers: str | None = None
    """A key of `SETS`: the markers of an .osim or a .trc. None: the first."""
    mass: float | None = None
    """kg, of an .osim or an .xml; None: what the body's volume weighs."""
    coordinates: str | None = None
    """skel or bsm: whose coordinates a .mot is for. None: skel, those of the person's own model."""

    def check(self, format: str) -> None:
        """Raise `UserError` where an option is given that files of this format have no use for."""
        given = (
            ("markers", self.markers, ("osim", "trc")),
            ("mass", self.mass, ("osim", "xml")),
            ("coordinates", self.coordinates, ("mot",)),
        )
        for flag, value, formats in given:
            if value is not None and format not in formats:
                raise UserError(f"--{flag} is for .{' and .'.join(formats)}, and the output is {format}. Leave it out.")


def write_opensim(clip: SkelClip, skel: Skel, path: Path, options: OpenSimOptions) -> list[Path]:
    """Write a moving clip, or one row, as `path` says: .mot, .trc, or a model with the motion beside it.

    An .osim has a .mot beside it, an .xml a `-qpos.npz`. Returns the written files, without the meshes of a model.
    """
    motion, person = motion_of(clip, skel), RestBody.of(skel, clip.betas[0])
    kind = path.suffix.lower()
    if kind == ".xml":
        qpos = qpos_file(path)
        write_mjcf(person, motion, path, qpos, options.mass)
        return [path, qpos]
    markers = marker_set(options.markers or SETS[0], skel)
    if kind == ".osim":
        mot = path.with_suffix(".mot")
        write_mot(motion, mot)
        write_osim(person, markers, path, motion, options.mass)
        return [path, mot]
    if kind == ".trc":
        write_trc(motion, [marker.name for marker in markers], marker_places(person, motion, markers), path)
    elif options.coordinates == "bsm":
        write_mot_for_bsm(person, motion, path)
    else:
        write_mot(motion, path)
    return [path]


def qpos_file(path: Path) -> Path:
    """The motion beside an .xml."""
    return path.with_name(f"{path.stem}-qpos.npz")


def motion_of(clip: SkelClip, skel: Skel) -> Motion:
    """A clip in OpenSim's ground frame. A single frame without a rate is at time 0.

    OpenSim's axes are those of SKEL's pelvis dofs. They are the columns of N in SMPL's rest frame (x left, y up, z
    forward): a point p of the upright world W is at N^T W p there, and the pelvis' rotation P becomes (N^T W N) P.

    Raises:
        UserError: the clip's frame is not known.
    """
    turn = UPRIGHT[require_frame(clip.smpl, "OpenSim")]
    shape = skel.prepare_shape(torch.from_numpy(clip.betas[:1]).to(skel.template))
    axes = shape.dof_frame[0, 0].double().cpu()  # N, the same for every shape
    parts = torch.from_numpy(clip.q).to(skel.template).split(4096)  # the rotations of all joints take room
    turned = torch.cat([skel.local_rotmat(q, shape)[:, 0] for q in parts]).double().cpu()
    q = clip.q.copy()
    q[:, :3] = root_dofs(torch.from_numpy(turn) @ turned, axes)
    if clip.smpl.moving:
        q[:, :3] = without_jumps(q, clip.smpl.starts(), limits("anatomical"))[:, :3]
    ground = axes.numpy().T @ turn
    where = skel_joints(clip, skel)[:, 0].astype(np.float64) @ ground.T
    time = np.zeros(len(clip)) if clip.time is None else clip.time
    from_input = ground @ (np.eye(4) if clip.smpl.from_input is None else clip.smpl.from_input[0])[:3]
    rate = float(clip.smpl.row_rate or 1.0)
    return Motion(clip.name, clip.smpl.source, time, q, where, rate, from_input, clip.gaps)
