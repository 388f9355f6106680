"""Estimates of pose, shape and camera, and the three small heads that make and correct them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr_skel.body.dofs import HSMR_MEAN_Q
from hmr_skel.model.camera import CropGeometry, crop_camera_to_transl
from hmr_skel.model.pose_rep import q_to_rep, rep_to_q
from hmr_skel.rows import SkelParams

# The mean of HSMR's labels (HSMR, MIT licence). These betas belong to the licensed male SKEL's shape space.
HSMR_MEAN_BETAS = (0.0722, 0.4987, 0.4030, -0.0092, 0.2598, -0.6516, 0.3040, -0.5180, 0.4776, 0.2177)
HSMR_MEAN_CAMERA = (0.9, 0.0, 0.0)


@dataclass(frozen=True)
class Estimate:
    """One stage's answer for a batch of crops."""

    rep: Float[Tensor, "B 24 6"]  # of the pose, see pose_rep
    betas: Float[Tensor, "B 10"]
    camera: Float[Tensor, "B 3"]  # s, tx, ty: weak perspective in the crop; its half width is 1 / s metres

    def corrected(self, residual: "Estimate") -> "Estimate":
        return Estimate(self.rep + residual.rep, self.betas + residual.betas, self.camera + residual.camera)

    def skel_params(self, geometry: CropGeometry) -> SkelParams:
        """The body in the frame of the camera that `geometry` describes."""
        return SkelParams(rep_to_q(self.rep), self.betas, crop_camera_to_transl(self.camera, geometry))


class Heads(nn.Module):
    """Features to corrections of an estimate, and the mean body that the first estimate starts from.

    One instance serves the coarse estimate and every layer of the decoder.
    """

    mean_rep: Tensor
    mean_betas: Tensor
    mean_camera: Tensor

    def __init__(
        self,
        width: int,
        hidden: int,
        mean_q: Sequence[float] = HSMR_MEAN_Q,
        mean_betas: Sequence[float] = HSMR_MEAN_BETAS,
        mean_camera: Sequence[float] = HSMR_MEAN_CAMERA,
    ) -> None:
        super().__init__()
        self.pose = _mlp(width, hidden, 144)
        self.betas = _mlp(width, hidden, 10)
        self.camera = _mlp(width, hidden, 3)
        self.register_buffer("mean_rep", q_to_rep(torch.tensor(mean_q, dtype=torch.float64)).float())
        self.register_buffer("mean_betas", torch.tensor(mean_betas, dtype=torch.float32))
        self.register_buffer("mean_camera", torch.tensor(mean_camera, dtype=torch.float32))

    def forward(
        self, pose: Float[Tensor, "B D"], betas: Float[Tensor, "B D"], camera: Float[Tensor, "B D"]
    ) -> Estimate:
        """The correction that each feature asks for."""
        return Estimate(self.pose(pose).unflatten(-1, (24, 6)), self.betas(betas), self.camera(camera))

    def mean(self, batch: int) -> Estimate:
        """The mean body."""
        return Estimate(
            self.mean_rep.expand(batch, 24, 6), self.mean_betas.expand(batch, 10), self.mean_camera.expand(batch, 3)
        )


def _mlp(width: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))
