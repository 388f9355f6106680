"""The settings of a network as plain values, so that recipes, `--help` and tables need no torch."""

from dataclasses import dataclass, field

from hmr_skel.errors import UserError

IMAGE_HEIGHT, IMAGE_WIDTH = 256, 192
PATCH_MARGIN = 2  # px of zeros around the image, ViTPose's choice


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """A size of the encoder."""

    width: int
    """Features of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads; must divide the width."""
    drop_path: float = 0.0
    """Chance that training skips the last block's branches for a sample; it rises linearly from 0 at block 0."""
    patch: int = 16
    """Side of a patch, px. The published weights have 16; 32 gives a quarter of the tokens."""
    stem_tokens: int = 0
    """If not 0, a small network that finds keypoints (`hmr_skel.model.stem`) makes so many tokens."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.stem_tokens < 0:
            raise ValueError(f"stem_tokens is {self.stem_tokens}, must not be negative")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path is {self.drop_path}, must be in [0, 1)")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        height, width = (
            (side + 2 * PATCH_MARGIN - self.patch) // self.patch + 1 for side in (IMAGE_HEIGHT, IMAGE_WIDTH)
        )
        return height, width

    @property
    def num_tokens(self) -> int:
        return self.stem_tokens or self.grid[0] * self.grid[1]


def token_grid(config: VitConfig) -> tuple[int, int]:
    """Rows and columns of the encoder's tokens. Raises `UserError` if these have no place in the image."""
    if config.stem_tokens:
        raise UserError(
            f"no attention maps: the {config.num_tokens} image tokens of this network have no place in the image, "
            f"since a convolutional network makes each from the whole image (stem_tokens={config.stem_tokens}). Use a "
            "network whose tokens are patches, for instance one of recipe vit_b or the published one."
        )
    return config.grid


VIT_SIZES = {
    "tiny": VitConfig(width=192, depth=6, heads=3),
    "vit_b": VitConfig(width=768, depth=12, heads=12, drop_path=0.3),
    "vit_l": VitConfig(width=1024, depth=24, heads=16, drop_path=0.5),
    "vit_h": VitConfig(width=1280, depth=32, heads=16, drop_path=0.55),  # the paper's
}


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder's size."""

    depth: int = 6
    """Number of layers."""
    heads: int = 8
    """Attention heads."""
    head_width: int = 64
    """Features of an attention head."""
    hidden: int = 1024
    """Hidden features of a layer's perceptron."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The parts of the network. The defaults are the paper's."""

    vit: VitConfig = VIT_SIZES["vit_h"]
    """The image encoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder; its width is the encoder's."""
    head_hidden: int = 256
    """Hidden features of the heads."""
    camera: bool = True
    """Use the camera's intrinsics and the box. Off ("w/o Cam"): treat every crop as a photo with f = 5000 px."""
    coarse: bool = True
    """Estimate from the encoder's tokens first. Off ("w/o C2F"): the decoder starts from the mean body."""
    refine: bool = True
    """Let every decoder layer correct the estimate. Off ("w/o Refine"): only the last layer does."""
    correction: int = 0
    """If not 0, a last correction (`hmr_skel.model.correction`) with so many hidden features; needs a stem."""
    looped: bool = False
    """Use the same decoder layer several times ("Looped Decoder")."""

    @property
    def stage_names(self) -> list[str]:
        """What the estimates of a prediction are, in their order."""
        depth = self.decoder.depth
        layers = [f"decoder layer {i} of {depth}" for i in range(1, depth + 1)] if self.refine else ["decoder"]
        start = "coarse estimate" if self.coarse else "mean body"
        return [start, *layers, *(["correction by keypoints"] if self.correction else [])]
