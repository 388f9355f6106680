"""The decoder: three tokens (pose, betas, camera) that read the image's tokens, layer by layer.

With refinement, every layer corrects the estimate, and the next layer's tokens are made anew from it: nothing else is
carried from layer to layer, and gradients flow through all of them. Without, the tokens themselves go from layer to
layer and the last ones correct the estimate once, as in HSMR.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hmr_skel.model.config import DecoderConfig
from hmr_skel.model.head import Estimate, Heads

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
        # One vector for all three tokens, seen by the first layer only: so in the published network.
        self.position = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.layers = nn.ModuleList(DecoderLayer(width, config) for _ in range(1 if looped else config.depth))

    def forward(
        self, image: Float[Tensor, "B N D"], start: Estimate, cue: Float[Tensor, "B 3"] | None, heads: Heads
    ) -> list[Estimate]:
        """The estimates after each layer; without refinement the last one only."""
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
    """Tokens attend to one another, then to the image, then pass a perceptron; each on normalised tokens, added."""

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
    """Among the tokens."""

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
    """From the tokens to the image, whose tokens the encoder has normalised already."""

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
