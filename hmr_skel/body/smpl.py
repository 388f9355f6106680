"""SMPL: from pose and shape to vertices, joints and keypoints.

`body/assets.py` reads the file (without chumpy), and `smplx` interprets its arrays. `body/lbs.py`, which SKEL also
uses, poses the body; a test compares it with smplx's own forward pass.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmr_skel.body.assets import SMPL_FILES, load_regressor, load_smpl_arrays
from hmr_skel.body.joints import OPENPOSE_25_FROM_SMPL_45, SMPL_PARENTS, SMPL_VERTEX_IDS
from hmr_skel.body.lbs import BodyModel, blend, bone_transforms, chain, picked, relative, skin
from hmr_skel.body.open_body.export import model_file
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.errors import UserError
from hmr_skel.shapes import Float


@dataclass(frozen=True)
class SmplOutput:
    """A posed body, m, in the frame of `global_orient` and `transl`."""

    vertices: Float[Tensor, "*batch 6890 3"]
    joints: Float[Tensor, "*batch 24 3"]


class Smpl(BodyModel):
    """SMPL with ten shape coefficients. Parameters as in smplx: axis-angle in radians, metres.

    Attributes: `template` [V 3], `shapedirs` [10 3V], `posedirs` [207 3V], `joint_regressor` [24 V], `weights` [V 24],
    `faces` (numpy int64 [F 3]).
    """

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        gender: str = "neutral",
    ) -> "Smpl":
        """Read `SMPL_{NEUTRAL,MALE,FEMALE}.pkl` (or `basicModel_*.pkl`).

        Args:
            path: the file; with `gender` its folder, or `open` for the open body.
            device: of the tensors.
            dtype: of the tensors.
            gender: neutral, male or female, where `path` is no file.

        Raises:
            UserError: the file is missing, damaged, or not an SMPL file.
        """
        import contextlib
        import io

        from smplx import SMPL
        from smplx.utils import Struct

        path = model_file(path, SMPL_FILES, gender)
        arrays = load_smpl_arrays(path)
        # Use ten coefficients, as label files have, even if the file has more. smplx prints a warning about that.
        with contextlib.redirect_stdout(io.StringIO()):
            model = SMPL(
                str(path), data_struct=Struct(**arrays), num_betas=10, dtype=torch.float64,
                create_betas=False, create_global_orient=False, create_body_pose=False, create_transl=False,
            )  # fmt: skip
        buffers: dict[str, Tensor] = dict(model.named_buffers())
        if tuple(buffers["parents"].tolist()) != SMPL_PARENTS:
            raise UserError(f"{path}: its kinematic tree is not SMPL's (parents {buffers['parents'].tolist()}).")
        tensors = {
            "template": buffers["v_template"],
            "shapedirs": buffers["shapedirs"].permute(2, 0, 1).flatten(1),
            "posedirs": buffers["posedirs"],
            "joint_regressor": buffers["J_regressor"],
            "weights": buffers["lbs_weights"],
        }
        faces = np.asarray(arrays["f"], dtype=np.int64)
        return cls({name: t.detach().to(device, dtype).contiguous() for name, t in tensors.items()}, faces)

    def forward(
        self,
        global_orient: Float[Tensor, "*batch 3"],
        body_pose: Float[Tensor, "*batch 23 3"],
        betas: Float[Tensor, "*batch 10"],
        transl: Float[Tensor, "*batch 3"],
    ) -> SmplOutput:
        """Vertices and joints from axis-angles (rad), betas and translation (m)."""
        local = rotvec_to_rotmat(torch.cat((global_orient.unsqueeze(-2), body_pose), -2))
        template, joints = self.shaped(betas)
        feature = local[..., 1:, :, :] - torch.eye(3, dtype=local.dtype, device=local.device)
        rest = template + blend(self.posedirs, feature.flatten(-3))
        rotmat, position = chain(local, relative(joints, SMPL_PARENTS), SMPL_PARENTS)
        vertices = skin(self.weights, bone_transforms(rotmat, position, joints), rest)
        return SmplOutput(vertices + transl.unsqueeze(-2), position + transl.unsqueeze(-2))


def load_points_matrix(j19_path: str | Path, dtype: torch.dtype = torch.float32) -> Float[Tensor, "40 6890"]:
    """The matrix over vertices of the 40 mesh points that the keypoints need: 21 vertices, then 19 regressed points.

    `SMPL_to_J19.pkl` (4D-Humans) has the regressor of the last 19 keypoints.

    Raises:
        UserError: the regressor file is missing, damaged, or has another shape.
    """
    regressed = torch.from_numpy(load_regressor(j19_path, 19)).to(dtype)
    vertices = torch.zeros(len(SMPL_VERTEX_IDS), regressed.shape[1], dtype=dtype)
    vertices[torch.arange(len(SMPL_VERTEX_IDS)), torch.tensor(SMPL_VERTEX_IDS)] = 1
    return torch.cat((vertices, regressed))


def keypoints_44(
    joints: Float[Tensor, "*batch 24 3"], points: Float[Tensor, "*batch 40 3"]
) -> Float[Tensor, "*batch 44 3"]:
    """The 44 keypoints of label files from SMPL's joints and the points of `load_points_matrix`, in their frame.

    The first 25 (OpenPose's) are joints and vertices, the last 19 are regressed.
    """
    all_45 = torch.cat((joints, points[..., :21, :]), -2)
    return torch.cat((picked(all_45, OPENPOSE_25_FROM_SMPL_45, -2), points[..., 21:, :]), -2)
