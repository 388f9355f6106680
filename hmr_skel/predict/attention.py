"""What the decoder's three tokens look at in the image, layer by layer (the paper's Fig. S5)."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.errors import UserError
from hmr_skel.model.config import VitConfig
from hmr_skel.model.decoder import CrossAttention
from hmr_skel.model.network import Network

TOKENS = ("pose", "shape", "camera")
"""In the decoder's order."""

Attention = Float[Tensor, "T 3 rows columns"]
"""Of layer T, token and patch: shares that sum to 1 over the patches, means over the heads. On the CPU."""


def token_grid(config: VitConfig) -> tuple[int, int]:
    """Rows and columns of the encoder's tokens.

    Raises:
        UserError: they have no place in the image.
    """
    rows, columns = config.grid
    if config.stem_tokens or config.num_tokens != rows * columns:
        raise UserError(
            f"no attention maps: the {config.num_tokens} image tokens of this network have no place in the image, each "
            f"is made of all of it by a convolutional network (stem_tokens={config.stem_tokens}). Ask a network whose "
            "tokens are patches, one of recipe vit_b or the published one for instance."
        )
    return rows, columns


@contextmanager
def recording(network: Network, on: bool) -> Generator[Callable[[], list[Attention]], None, None]:
    """While it lasts, what the cross-attention of each layer does is kept; the yielded function gives it per sample.

    The weights are computed a second time: the network's own kernels do not give them.
    """
    layers: list[Tensor] = []

    def keep(module: CrossAttention, inputs: tuple[Tensor, Tensor]) -> None:
        layers.append(weights(module, *inputs).cpu())

    def found() -> list[Attention]:
        grid = token_grid(network.config.vit)
        return [maps.unflatten(-1, grid) for maps in torch.stack(layers, 1)]

    attentions = [module for module in network.decoder.modules() if isinstance(module, CrossAttention)] if on else []
    handles = [module.register_forward_pre_hook(keep) for module in attentions]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def weights(module: CrossAttention, tokens: Float[Tensor, "B T D"], image: Float[Tensor, "B N D"]) -> Tensor:
    """How much each token takes of each image token: [B T N], mean over the heads."""
    query = module.query(module.norm(tokens)).unflatten(-1, (module.heads, -1))
    key = module.key_value(image).chunk(2, -1)[0].unflatten(-1, (module.heads, -1))
    scores = torch.einsum("bthd,bnhd->bhtn", query, key) * query.shape[-1] ** -0.5
    return scores.softmax(-1).mean(1)
