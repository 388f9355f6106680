"""The image encoder: a plain vision transformer (Dosovitskiy et al. 2021) as in ViTPose (Xu et al. 2022).

Crops are 256 x 192 px, patches 16 px with a margin of 2, which gives 16 x 12 = 192 tokens, row by row. There is no
class token, but slot 0 of the position table, which is meant for one, is added to every token. Parameters have the
names of the published ViTPose files.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hmr_skel.model.config import IMAGE_HEIGHT, IMAGE_WIDTH, PATCH_MARGIN, VitConfig
from hmr_skel.model.stem import KeypointStem, Tokens

_NORM_EPS = 1e-6


class Vit(nn.Module):
    """Make tokens from normalised crops."""

    def __init__(self, config: VitConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = activation_checkpointing
        self.patch_embed = (
            KeypointStem(config.stem_tokens, config.width, IMAGE_HEIGHT, IMAGE_WIDTH)
            if config.stem_tokens
            else PatchEmbed(config.width, config.patch)
        )
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.num_tokens, config.width))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(EncoderBlock(config.width, config.heads, rate) for rate in rates)
        self.last_norm = nn.LayerNorm(config.width, eps=_NORM_EPS)
        for block in self.blocks:
            block.apply(_init)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Float[Tensor, "B 3 256 192"]) -> Tokens:
        tokens, maps = self.patch_embed(images)
        tokens = tokens + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            tokens = checkpoint(block, tokens, use_reentrant=False) if recompute else block(tokens)
        return Tokens(self.last_norm(tokens), maps)


class PatchEmbed(nn.Module):
    """One linear map per patch."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch, padding=PATCH_MARGIN)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Tokens:
        return Tokens(self.proj(images).flatten(2).mT, None)


class EncoderBlock(nn.Module):
    """Attention, then a two-layer perceptron; each takes normalised tokens, and is added to them."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = Mlp(width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        x = x + self._sometimes(self.attn(self.norm1(x)))
        return x + self._sometimes(self.mlp(self.norm2(x)))

    def _sometimes(self, branch: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Stochastic depth (Huang et al. 2016): the branch is zero for some samples, and scaled up for the others."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * (keep / (1 - self.drop_path)).to(branch.dtype)


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """A two-layer perceptron with four times as many hidden features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return self.fc2(F.gelu(self.fc1(x)))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
