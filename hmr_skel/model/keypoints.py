"""Pose SKEL with the parameters that a network predicts: skin, and the 44 keypoints of labels."""

from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hmr_skel.body.assets import load_regressor
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import keypoints_44, load_points_matrix
from hmr_skel.errors import UserError
from hmr_skel.model.network import autocast
from hmr_skel.rows import SkelParams


@dataclass(frozen=True)
class PosedBody:
    """A posed body, m, in the frame of the parameters' translation."""

    vertices: Float[Tensor, "*batch 6890 3"]
    keypoints: Float[Tensor, "*batch 44 3"]


class SkelKeypoints(nn.Module):
    """SKEL of one gender with the regressors of the keypoints. Frozen, float32, and not in checkpoints."""

    matrix: Tensor
    used_matrix: Tensor

    def __init__(
        self, skel: Skel, joints_matrix: Float[Tensor, "24 6890"], points_matrix: Float[Tensor, "40 6890"]
    ) -> None:
        super().__init__()
        self.skel = skel.requires_grad_(False)
        matrix = torch.cat((joints_matrix, points_matrix)).to(next(skel.buffers()))
        self.register_buffer("matrix", matrix, persistent=False)
        # Keypoints depend on a few hundred vertices. Training needs only keypoints, and poses only these vertices.
        used = matrix.any(0).nonzero().squeeze(1)
        self.register_buffer("used_matrix", matrix[:, used], persistent=False)
        self.used_skel = _with_vertices(skel, used)

    @classmethod
    def load(cls, directory: str | Path, gender: str = "male", device: str | torch.device = "cpu") -> "SkelKeypoints":
        """Read `skel_<gender>.pkl`, `J_regressor_SKEL_mix_<GENDER>.pkl` and `SMPL_to_J19.pkl`.

        Raises `UserError` if a file is missing or damaged.
        """
        directory = Path(directory)
        if gender not in ("male", "female"):
            raise UserError(f"there is no SKEL of gender {gender!r}. Expected male or female.")
        skel = Skel.load(directory / f"skel_{gender}.pkl", gender=gender)
        # HSMR publishes only the male regressor. Both meshes have the same topology, so the female body uses it too.
        regressor = directory / f"J_regressor_SKEL_mix_{gender.upper()}.pkl"
        if not regressor.exists():
            regressor = directory / "J_regressor_SKEL_mix_MALE.pkl"
        joints = torch.from_numpy(load_regressor(regressor, 24)).float()
        return cls(skel, joints, load_points_matrix(directory / "SMPL_to_J19.pkl")).to(device)

    @property
    def gender(self) -> str:
        assert self.skel.gender is not None
        return self.skel.gender

    def forward(self, params: SkelParams) -> PosedBody:
        """Skin and keypoints, always in float32, also under autocast."""
        with autocast(params.q.device.type, bf16=False):
            vertices = self.skel(params.q, params.betas, params.transl).vertices
            return PosedBody(vertices, _regress(self.matrix, vertices))

    def keypoints(self, params: SkelParams) -> Float[Tensor, "*batch 44 3"]:
        """Only the keypoints, which is much cheaper, m."""
        with autocast(params.q.device.type, bf16=False):
            vertices = self.used_skel(params.q, params.betas, params.transl).vertices
            return _regress(self.used_matrix, vertices)


def _regress(matrix: Float[Tensor, "64 V"], vertices: Float[Tensor, "*batch V 3"]) -> Float[Tensor, "*batch 44 3"]:
    points = matrix @ vertices
    return keypoints_44(points[..., :24, :], points[..., 24:, :])


def _with_vertices(skel: Skel, kept: Int[Tensor, "K"]) -> Skel:
    """The same body and joints, with only these vertices of the skin."""
    part = copy(skel)
    part._buffers = skel._buffers.copy()
    for name in ("template", "weights"):
        part._buffers[name] = skel.get_buffer(name)[kept]
    for name in ("shapedirs", "posedirs"):
        part._buffers[name] = skel.get_buffer(name).unflatten(-1, (-1, 3))[:, kept].flatten(-2)
    return part
