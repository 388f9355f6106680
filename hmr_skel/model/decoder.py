"""Estimates of pose, shape and camera; the heads that make them, and the decoder that corrects them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hmr_skel.body.dofs import HSMR_MEAN_Q
from hmr_skel.model.camera import CropGeometry, crop_camera_to_transl
from hmr_skel.model.config import DecoderConfig
from hmr_skel.model.pose_rep import q_to_rep, rep_to_q
from hmr_skel.rows import SkelParams

# The mean of HSMR's labels (HSMR, MIT licence). These betas are in the shape space of the licensed male SKEL.
HSMR_MEAN_BETAS = (0.0722, 0.4987, 0.4030, -0.0092, 0.2598, -0.6516, 0.3040, -0.5180, 0.4776, 0.2177)
HSMR_MEAN_CAMERA = (0.9, 0.0, 0.0)


@dataclass(frozen=True)
class Estimate:
    """One stage's estimate for a batch of crops."""

    rep: Float[Tensor, "B 24 6"]  # the pose, see pose_rep
    betas: Float[Tensor, "B 10"]
    camera: Float[Tensor, "B 3"]  # s, tx, ty: weak perspective in the crop, whose half width is 1 / s metres

    def corrected(self, residual: "Estimate") -> "Estimate":
        return Estimate(self.rep + residual.rep, self.betas + residual.betas, self.camera + residual.camera)

    def skel_params(self, geometry: CropGeometry) -> SkelParams:
        """The body in the frame of the camera that `geometry` describes."""
        return SkelParams(rep_to_q(self.rep), self.betas, crop_camera_to_transl(self.camera, geometry))


class Heads(nn.Module):
    """Turn features into corrections of an estimate, and hold the mean body that the first estimate starts from.

    The coarse estimate and all layers of the decoder share one instance.
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
        """The corrections by the features of pose, betas and camera."""
        return Estimate(self.pose(pose).unflatten(-1, (24, 6)), self.betas(betas), self.camera(camera))

    def mean(self, batch: int) -> Estimate:
        """The mean body."""
        return Estimate(
            self.mean_rep.expand(batch, 24, 6), self.mean_betas.expand(batch, 10), self.mean_camera.expand(batch, 3)
        )


def _mlp(width: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))


CUE_WIDTH = 3  # hmr_skel.model.camera.camera_cue


class Decoder(nn.Module):
    """Corrects a first estimate by looking at the image."""

    def __init__(self, width: int, config: DecoderConfig, *, camera: bool, refine: bool, looped: bool) -> None:
        super().__init__()
        self.depth = config.depth
        self.refine = refine
        cue = CUE_WIDTH if camera else 0
        self.embed_pose = nn.Linear(144 + cue, width)
        self.embed_betas = nn.Linear(10 + cue, width)
        self.embed_camera = nn.Linear(3 + cue, width)
        # As in the published network: one vector for all three tokens, and only for the first layer.
        self.position = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.layers = nn.ModuleList(DecoderLayer(width, config) for _ in range(1 if looped else config.depth))

    def forward(
        self, image: Float[Tensor, "B N D"], start: Estimate, cue: Float[Tensor, "B 3"] | None, heads: Heads
    ) -> list[Estimate]:
        """The estimates after each layer; without refinement only the last one."""
        estimates = []
        estimate = start
        tokens = self.embed(estimate, cue) + self.position
        for i in range(self.depth):
            tokens = self.layers[i % len(self.layers)](tokens, image)
            last = i == self.depth - 1
            if self.refine or last:
                estimate = estimate.corrected(heads(*tokens.unbind(1)))
                estimates.append(estimate)
            if self.refine and not last:
                tokens = self.embed(estimate, cue)
        return estimates

    def embed(self, estimate: Estimate, cue: Float[Tensor, "B 3"] | None) -> Float[Tensor, "B 3 D"]:
        """Pose, betas and camera as tokens, each beside the camera cue."""
        parts = [estimate.rep.flatten(1), estimate.betas, estimate.camera]
        if cue is not None:
            parts = [torch.cat((part, cue), -1) for part in parts]
        embeddings = (self.embed_pose, self.embed_betas, self.embed_camera)
        return torch.stack([embed(part) for embed, part in zip(embeddings, parts, strict=True)], 1)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the image, then a perceptron; each takes normalised tokens, and is added to them."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(width, config)
        self.cross_attention = CrossAttention(width, config)
        self.feed_forward = FeedForward(width, config.hidden)

    def forward(self, tokens: Float[Tensor, "B T D"], image: Float[Tensor, "B N D"]) -> Float[Tensor, "B T D"]:
        tokens = tokens + self.self_attention(tokens)
        tokens = tokens + self.cross_attention(tokens, image)
        return tokens + self.feed_forward(tokens)


class SelfAttention(nn.Module):
    """Attention among the tokens."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        query, key, value = self.qkv(self.norm(tokens)).chunk(3, -1)
        return self.out(_attend(query, key, value, self.heads))


class CrossAttention(nn.Module):
    """Attention to the image's tokens, which the encoder has already normalised."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, tokens: Float[Tensor, "B T D"], image: Float[Tensor, "B N D"]) -> Float[Tensor, "B T D"]:
        key, value = self.key_value(image).chunk(2, -1)
        return self.out(_attend(self.query(self.norm(tokens)), key, value, self.heads))


class FeedForward(nn.Module):
    """A two-layer perceptron per token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.fc2(F.gelu(self.fc1(self.norm(tokens))))


def _attend(
    query: Float[Tensor, "B T E"], key: Float[Tensor, "B N E"], value: Float[Tensor, "B N E"], heads: int
) -> Float[Tensor, "B T E"]:
    split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
