"""What a benchmark compares predictions with, batch by batch: a posed SMPL, or the label's keypoints."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr_skel.body.files import SMPL_FILES
from hmr_skel.body.smpl import Smpl
from hmr_skel.evaluate.align import points_of
from hmr_skel.evaluate.benchmarks import Benchmark
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.evaluate.regressors import Regressor, model_file

MIN_CONFIDENCE_2D = 0.5
"""2D keypoints count above it (HMR2's PCK)."""


@dataclass(frozen=True)
class Truth:
    """Of a batch. None where the benchmark has none. 3D in metres, along the camera's axes, at any place."""

    complete: Bool[Tensor, "B"]
    """Rows that have all of it; the others are left out."""
    joints: Float[Tensor, "B J 3"] | None = None
    vertices: Float[Tensor, "B 6890 3"] | None = None
    mesh_root: Float[Tensor, "B 3"] | None = None
    """The root of `vertices`; None: that of `joints`."""
    keypoints_2d: Float[Tensor, "B 44 2"] | None = None
    """Crop coordinates in [-0.5, 0.5]."""
    valid_2d: Bool[Tensor, "B 44"] | None = None


class GroundTruth:
    """Makes it, with the models that it takes."""

    def __init__(self, benchmark: Benchmark, rows: BenchmarkRows, body_models: Path, device: torch.device) -> None:
        """Raises `UserError` where a model file is missing or damaged."""
        self.benchmark, self.device = benchmark, device
        self.regressor = Regressor.load(benchmark.joints, body_models, device)
        needed = () if rows.smpl_gender is None else dict.fromkeys(rows.smpl_gender.tolist())
        self.smpl = {
            gender: Smpl.load(model_file(body_models, SMPL_FILES[gender])).to(device) for gender in needed
        }  # fmt: skip

    @torch.no_grad()
    def __call__(self, rows: BenchmarkRows) -> Truth:
        """Of some rows."""
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
        # MOYO's joints are those that SMPL's kinematic chain has, not regressed ones.
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
