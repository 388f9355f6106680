"""Joints out of a skin's vertices, SMPL's or SKEL's alike, as each benchmark regresses them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.body.assets import load_regressor
from hmr_skel.body.files import model_path
from hmr_skel.body.joints import KEYPOINTS_44, SMPL_JOINTS
from hmr_skel.body.keypoints import keypoints_44, load_points_matrix
from hmr_skel.body.smpl import Smpl
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import MODELS_FROM, REGRESSOR_FILES, JointRule


def model_file(folder: Path, name: str) -> Path:
    """A body model's file. Raises `UserError` where it is missing, with who has it."""
    try:
        return model_path(folder, name)
    except UserError as error:
        raise UserError(f"{error} It is from {MODELS_FROM[name]}.") from None


@dataclass(frozen=True)
class Regressor:
    """A linear map from vertices to joints; few vertices count."""

    matrix: Float[Tensor, "J S"]
    used: Tensor  # int64 [S] the vertices that it looks at
    is_keypoints: bool

    @classmethod
    def load(cls, rule: JointRule, body_models: Path, device: torch.device | str = "cpu") -> "Regressor":
        """Raises `UserError` where a file is missing, damaged or misshapen."""
        files = [model_file(body_models, name) for name in REGRESSOR_FILES[rule.regressor]]
        if rule.regressor == "smpl_neutral":
            matrix = Smpl.load(files[0]).joint_regressor
        elif rule.regressor == "keypoints_44":
            joints = torch.from_numpy(load_regressor(files[0], 24)).float()
            matrix = torch.cat((joints, load_points_matrix(files[1])))
        else:
            matrix = torch.from_numpy(load_regressor(files[0], 17 if rule.regressor == "h36m" else 24)).float()
        used = matrix.any(0).nonzero().squeeze(1)
        return cls(matrix[:, used].to(device), used.to(device), rule.regressor == "keypoints_44")

    def __call__(self, vertices: Float[Tensor, "*batch 6890 3"]) -> Float[Tensor, "*batch K 3"]:
        points = self.matrix @ vertices[..., self.used, :]
        return keypoints_44(points[..., :24, :], points[..., 24:, :]) if self.is_keypoints else points


_H36M_JOINTS = (
    "pelvis", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "spine", "thorax",
    "jaw", "head", "left shoulder", "left elbow", "left wrist", "right shoulder", "right elbow", "right wrist",
)  # fmt: skip


def joint_names(rule: JointRule) -> tuple[str, ...]:
    """Of all joints that the rule's regressor makes."""
    return {"h36m": _H36M_JOINTS, "keypoints_44": KEYPOINTS_44}.get(rule.regressor, SMPL_JOINTS)
