"""One person's body at rest and in motion, for the writers of OpenSim files: numpy, float64."""

from dataclasses import dataclass

import numpy as np
import torch

from hmr_skel.body.skel import Skel


@dataclass(frozen=True)
class RestBody:
    """A SKEL body in the T-pose, m."""

    skel: Skel
    betas: np.ndarray  # float32 [10]
    rest: np.ndarray  # [V 3] the skin
    joints: np.ndarray  # [24 3] J
    offsets: np.ndarray  # [24 3] o_j = J_j - J_parent
    bone_rotmat: np.ndarray  # [24 3 3] K_j: the bones' axes
    dof_frame: np.ndarray  # [24 3 3] N_j: the axes of the joints' dofs
    bones: np.ndarray  # [Vb 3] the bone meshes

    @classmethod
    @torch.no_grad()
    def of(cls, skel: Skel, betas: np.ndarray) -> "RestBody":
        """The body with betas [10]."""
        shape = skel.prepare_shape(torch.from_numpy(betas).to(skel.template))
        arrays = (shape.rest, shape.joints, shape.offsets, shape.bone_rotmat, shape.dof_frame, skel.bone_rest(shape))
        return cls(skel, betas, *(values.double().cpu().numpy() for values in arrays))

    def in_bone(self, points: np.ndarray, joint: int) -> np.ndarray:
        """Points [N 3] of the T-pose, m, in the frame of a bone."""
        return (points - self.joints[joint]) @ self.bone_rotmat[joint]


@dataclass(frozen=True)
class Motion:
    """One person's N frames in OpenSim's ground frame: x forward, y up, z right; metres, radians, seconds."""

    name: str
    source: str  # the file that the motion came from, for the headers
    time: np.ndarray  # [N]
    q: np.ndarray  # [N 46], the pelvis' three angles from the ground
    pelvis: np.ndarray  # [N 3] SKEL's pelvis joint
    frame_rate: float  # frames per second
    from_input: np.ndarray  # [3 4] maps points (x, y, z, 1) of the source's frame to the ground
    gaps: str = ""  # where frames are missing, in words
