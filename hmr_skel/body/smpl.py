"""SMPL: pose and shape to vertices and joints.

The file is unpickled by `body/assets.py` (chumpy-era ones too, without chumpy), and `smplx` decides what its arrays
mean. Posing is `body/lbs.py`, which SKEL shares and which the fit takes apart: a test holds it to smplx's own forward
pass.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hmr_skel.body.assets import load_smpl_arrays
from hmr_skel.body.joints import SMPL_PARENTS
from hmr_skel.body.lbs import blend, bone_transforms, chain, picked, skin
from hmr_skel.body.rotations import rotvec_to_rotmat
from hmr_skel.errors import UserError
from hmr_skel.shapes import Float


@dataclass(frozen=True)
class SmplOutput:
    """Metres, in the frame of `global_orient` and `transl`."""

    vertices: Float[Tensor, "*batch 6890 3"]
    joints: Float[Tensor, "*batch 24 3"]


class Smpl(nn.Module):
    """SMPL with ten shape coefficients. Parameters as in smplx: axis-angle in radians, metres.

    Attributes: `template` [V 3], `shapedirs` [10 3V], `posedirs` [207 3V], `joint_regressor` [24 V], `weights` [V 24],
    `faces` (numpy int64 [F 3]).
    """

    template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    joint_regressor: Tensor
    joint_template: Tensor
    joint_shapedirs: Tensor
    weights: Tensor

    def __init__(self, arrays: dict[str, Tensor], faces: np.ndarray) -> None:
        super().__init__()
        self.faces = faces
        for name in ("template", "shapedirs", "posedirs", "joint_regressor", "weights"):
            # Model data belongs to its file, not to a checkpoint.
            self.register_buffer(name, arrays[name], persistent=False)
        # Joints are linear in betas: regressing the ten directions once spares a pass over the vertices per row.
        self.register_buffer("joint_template", self.joint_regressor @ self.template, persistent=False)
        directions = self.shapedirs.unflatten(-1, (-1, 3))
        self.register_buffer("joint_shapedirs", (self.joint_regressor @ directions).flatten(-2), persistent=False)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> "Smpl":
        """Read `SMPL_{NEUTRAL,MALE,FEMALE}.pkl` (or `basicModel_*.pkl`).

        Raises:
            UserError: the file is missing, damaged, or no SMPL file.
        """
        import contextlib
        import io

        from smplx import SMPL
        from smplx.utils import Struct

        arrays = load_smpl_arrays(path)
        # Ten coefficients whatever the file holds: the label files have ten. smplx prints a warning about that.
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

    def shaped(
        self, betas: Float[Tensor, "*batch 10"]
    ) -> tuple[Float[Tensor, "*batch 6890 3"], Float[Tensor, "*batch 24 3"]]:
        """Vertices and joints of the T-pose."""
        return (
            self.template + blend(self.shapedirs, betas),
            self.joint_template + blend(self.joint_shapedirs, betas),
        )

    def forward(
        self,
        global_orient: Float[Tensor, "*batch 3"],
        body_pose: Float[Tensor, "*batch 23 3"],
        betas: Float[Tensor, "*batch 10"],
        transl: Float[Tensor, "*batch 3"],
    ) -> SmplOutput:
        """Axis-angles, betas and translation to vertices and joints."""
        local = rotvec_to_rotmat(torch.cat((global_orient.unsqueeze(-2), body_pose), -2))
        template, joints = self.shaped(betas)
        feature = local[..., 1:, :, :] - torch.eye(3, dtype=local.dtype, device=local.device)
        rest = template + blend(self.posedirs, feature.flatten(-3))
        rotmat, position = chain(local, relative(joints, SMPL_PARENTS), SMPL_PARENTS)
        vertices = skin(self.weights, bone_transforms(rotmat, position, joints), rest)
        return SmplOutput(vertices + transl.unsqueeze(-2), position + transl.unsqueeze(-2))


def relative(joints: Float[Tensor, "*batch J 3"], parents: tuple[int, ...]) -> Float[Tensor, "*batch J 3"]:
    """Each joint's offset from its parent at rest; the root's from the origin."""
    moved = torch.cat((torch.zeros_like(joints[..., :1, :]), picked(joints, parents[1:], -2)), -2)
    return joints - moved
