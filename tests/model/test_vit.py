"""The encoder: published sizes, its positions, its randomness, its options."""

import pytest
import torch

from hmr_skel.model.config import VIT_SIZES, VitConfig
from hmr_skel.model.vit import EncoderBlock, Vit
from tests.model.conftest import SMALL_VIT


def test_parameter_counts():
    # ViT-H: published; L and B: ViT's without class token and head, with our position table.
    for size, millions in (("vit_h", 630.91), ("vit_l", 303.3), ("vit_b", 85.8)):
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in Vit(VIT_SIZES[size]).parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_slot_zero_of_the_positions_is_added_to_every_token():
    vit = Vit(SMALL_VIT)
    seen = []
    vit.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 256, 192)
    vit(images)
    expected = vit.patch_embed(images).tokens + vit.pos_embed[:, 1:] + vit.pos_embed[:, 0]
    torch.testing.assert_close(seen[0], expected)
    assert vit.pos_embed.shape[1] == SMALL_VIT.num_tokens + 1


def test_attention_is_the_textbooks():
    torch.manual_seed(0)
    attention = EncoderBlock(32, 4, 0.0).attn
    x = torch.randn(2, 5, 32)
    q, k, v = (part.reshape(2, 5, 4, 8).transpose(1, 2) for part in attention.qkv(x).split(32, -1))
    weights = (q * 8**-0.5 @ k.mT).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 5, 32))
    torch.testing.assert_close(attention(x), expected)


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    block = EncoderBlock(8, 1, 0.4)
    branch = torch.ones(20_000, 1, 1)
    dropped = block._sometimes(branch)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 1 / 0.6]))
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert block.eval()._sometimes(branch) is branch
    with torch.device("meta"):
        rates = [block.drop_path for block in Vit(VIT_SIZES["vit_h"]).blocks]
    assert rates == pytest.approx([0.55 * i / 31 for i in range(32)])


def test_activation_checkpointing_changes_no_gradient():
    """Drop path included: the recomputation draws the same numbers again."""
    config = VitConfig(width=32, depth=3, heads=2, patch=32, drop_path=0.5)
    torch.manual_seed(0)
    vit = Vit(config).train()
    images = torch.randn(4, 3, 256, 192)

    def gradients(recompute: bool) -> list[torch.Tensor]:
        vit.activation_checkpointing = recompute
        vit.zero_grad()
        torch.manual_seed(1)
        vit(images).tokens.square().sum().backward()
        return [parameter.grad.clone() for parameter in vit.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)


@pytest.fixture
def stemmed() -> Vit:
    torch.manual_seed(0)
    return Vit(VitConfig(width=32, depth=1, heads=2, stem_tokens=5))


def test_a_convolutional_stem_makes_few_tokens_and_says_where_keypoints_are(stemmed):
    images = torch.randn(2, 3, 256, 192)
    tokens, maps = stemmed(images)
    assert tokens.shape == (2, 5, 32)
    torch.testing.assert_close(stemmed(images[:1]).tokens, tokens[:1], rtol=1e-4, atol=1e-5)  # rows stay apart
    assert maps.shape == (2, 44, 16, 12)
    torch.testing.assert_close(maps.exp().sum((-1, -2)), torch.ones(2, 44))
    (tokens.square().mean() + maps.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in stemmed.parameters())
    assert Vit(SMALL_VIT)(torch.randn(1, 3, 256, 192)).maps is None
