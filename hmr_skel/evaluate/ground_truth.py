"""The ground truth of a batch, a posed SMPL or keypoints of the label; and joints from a skin.

The regressor of a benchmark gives joints from the vertices of SMPL's and of SKEL's skin.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr_skel.body.assets import SMPL_FILES, load_regressor, model_path
from hmr_skel.body.joints import KEYPOINTS_44, SMPL_JOINTS
from hmr_skel.body.smpl import Smpl, keypoints_44, load_points_matrix
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import MODELS_FROM, REGRESSOR_FILES, Benchmark, JointRule
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.evaluate.metrics import points_of


def model_file(folder: Path, name: str) -> Path:
    """The file of a body model. Raises `UserError`, which names its source, if it is missing."""
    try:
        return model_path(folder, name)
    except UserError as error:
        raise UserError(f"{error} Get it from {MODELS_FROM[name]}.") from None


@dataclass(frozen=True)
class Regressor:
    """A linear map from vertices to joints, which uses few vertices."""

    matrix: Float[Tensor, "J S"]
    used: Tensor  # int64 [S] the vertices that it uses
    is_keypoints: bool

    @classmethod
    def load(cls, rule: JointRule, body_models: Path, device: torch.device | str = "cpu") -> "Regressor":
        """Read a regressor. Raises `UserError` if a file is missing, damaged, or has another shape."""
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
    """The names of all joints of the rule's regressor."""
    return {"h36m": _H36M_JOINTS, "keypoints_44": KEYPOINTS_44}.get(rule.regressor, SMPL_JOINTS)


MIN_CONFIDENCE_2D = 0.5
"""The confidence above which a 2D keypoint counts (HMR2's PCK)."""


@dataclass(frozen=True)
class Truth:
    """The ground truth of a batch, or None. 3D values are in m, along the camera's axes, at any position."""

    complete: Bool[Tensor, "B"]
    """Whether a row has the whole ground truth; other rows are left out."""
    joints: Float[Tensor, "B J 3"] | None = None
    vertices: Float[Tensor, "B 6890 3"] | None = None
    mesh_root: Float[Tensor, "B 3"] | None = None
    """The root of `vertices`, m; None: the root of `joints`."""
    keypoints_2d: Float[Tensor, "B 44 2"] | None = None
    """Crop coordinates in [-0.5, 0.5]."""
    valid_2d: Bool[Tensor, "B 44"] | None = None


class GroundTruth:
    """Computes the ground truth of rows, and holds the body models for it."""

    def __init__(self, benchmark: Benchmark, rows: BenchmarkRows, body_models: Path, device: torch.device) -> None:
        """Load the models. Raises `UserError` if a model file is missing or damaged."""
        self.benchmark, self.device = benchmark, device
        self.regressor = Regressor.load(benchmark.joints, body_models, device)
        needed = () if rows.smpl_gender is None else dict.fromkeys(rows.smpl_gender.tolist())
        self.smpl = {one: Smpl.load(model_file(body_models, SMPL_FILES[one])).to(device) for one in needed}

    @torch.no_grad()
    def __call__(self, rows: BenchmarkRows) -> Truth:
        """The ground truth of a batch of rows."""
        everyone = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        if rows.keypoints_2d is not None:
            points = torch.from_numpy(rows.keypoints_2d).to(self.device)
            center, side = (torch.from_numpy(a).to(self.device) for a in (rows.center, rows.side))
            in_crop = (points[..., :2] - center[:, None]) / side[:, None, None]
            return Truth(everyone, keypoints_2d=in_crop, valid_2d=points[..., 2] > MIN_CONFIDENCE_2D)
        rule = self.benchmark.joints
        if rows.keypoints_3d is not None:
            points = torch.from_numpy(rows.keypoints_3d).to(self.device)
            complete = (points_of(points, (*rule.root, *rule.scored))[..., 3] > 0).all(1)
            return Truth(complete, joints=points[..., :3])
        vertices, kinematic = self._posed(rows)
        # MOYO uses the joints of SMPL's kinematic chain, not regressed ones.
        own = self.benchmark.truth == "neutral_smpl"
        return Truth(everyone, joints=kinematic if own else self.regressor(vertices), vertices=vertices)

    def _posed(self, rows: BenchmarkRows) -> tuple[Float[Tensor, "B 6890 3"], Float[Tensor, "B 24 3"]]:
        assert rows.smpl_gender is not None
        params = rows.smpl_params().to(self.device)
        vertices = torch.empty(len(rows), 6890, 3, device=self.device)
        joints = torch.empty(len(rows), 24, 3, device=self.device)
        for gender, smpl in self.smpl.items():
            some = torch.from_numpy(np.flatnonzero(rows.smpl_gender == gender)).to(self.device)
            if len(some):
                one = params[some]
                posed = smpl(one.global_orient, one.body_pose, one.betas, one.transl)
                vertices[some], joints[some] = posed.vertices, posed.joints
        return vertices, joints
