"""The network: published counts, what its layers carry on, its variants, its precision."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from hmr_skel.model.camera import CropGeometry, camera_cue
from hmr_skel.model.config import NetworkConfig
from hmr_skel.model.decoder import DecoderLayer
from hmr_skel.model.network import IMAGE_MEAN, IMAGE_STD, Network, normalize
from hmr_skel.model.pose_rep import q_to_rep

VARIANTS = {
    "full": {},
    "w/o camera": {"camera": False},
    "w/o coarse": {"coarse": False},
    "w/o refinement": {"refine": False},
    "looped": {"looped": True},
    "hsmr": {"camera": False, "coarse": False, "refine": False},
}


def count(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def meta_geometry(batch: int) -> CropGeometry:
    shapes = ((batch, 2), (batch,), (batch, 3, 3), (batch, 2, 3))
    return CropGeometry(*(torch.empty(shape, device="meta") for shape in shapes))


def outputs(prediction) -> torch.Tensor:
    return sum(part.sum() for stage in prediction.stages for part in (stage.rep, stage.betas, stage.camera))


def test_published_parameter_counts():
    with torch.device("meta"):
        network = Network(NetworkConfig())
    assert count(network.backbone) / 1e6 == pytest.approx(630.91, abs=0.005)
    assert count(network.decoder, network.heads) / 1e6 == pytest.approx(48.50, abs=0.005)
    assert [count(layer) for layer in network.decoder.layers] == [7_876_864] * 6
    assert count(network.heads) / 1e6 == pytest.approx(1.024, abs=0.0005)
    assert count(network) / 1e6 == pytest.approx(679.4, abs=0.05)


def test_the_paper_size_runs_forward_and_backward_on_meta_tensors():
    with torch.device("meta"):
        network = Network(NetworkConfig(), activation_checkpointing=True).train()
    prediction = network(torch.empty(2, 3, 256, 256, dtype=torch.uint8, device="meta"), meta_geometry(2))
    assert len(prediction.stages) == 7
    outputs(prediction).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("variant", "stages", "layers", "coarse"),
    [("full", 4, 3, True), ("w/o camera", 4, 3, True), ("w/o coarse", 4, 3, False), ("w/o refinement", 2, 3, True),
     ("looped", 4, 1, True), ("hsmr", 2, 3, False)],
)  # fmt: skip
def test_every_variant_has_its_stages_and_uses_every_parameter(
    small_network, geometry, variant, stages, layers, coarse
):
    """The latter is also what distributed training asks for."""
    network = small_network(**VARIANTS[variant])
    prediction = network(torch.randn(2, 3, 256, 192), geometry(2))
    outputs(prediction).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A softmax over 48 tokens knows no constant: the keys' biases have no gradient but rounding.
    assert not [name for name in unused if "qkv.bias" not in name]
    assert prediction.final.rep.shape == (2, 24, 6)
    assert prediction.skel_params().transl.shape == (2, 3)
    assert (len(prediction.stages), len(prediction.intermediate)) == (stages, stages - 2)
    assert len(network.decoder.layers) == layers
    assert (prediction.coarse is not None) == coarse
    if not coarse:
        torch.testing.assert_close(prediction.stages[0].rep[0], network.heads.mean_rep)


def test_without_camera_geometry_does_not_matter(small_network, geometry):
    network = small_network(camera=False)
    images = torch.randn(2, 3, 256, 192)
    one, other = network(images, geometry(2, seed=0)), network(images, geometry(2, seed=1))
    torch.testing.assert_close(one.final.rep, other.final.rep, rtol=0, atol=0)
    torch.testing.assert_close(one.skel_params().transl, other.skel_params().transl, rtol=0, atol=0)
    assert network.decoder.embed_pose.in_features == 144


def test_the_coarse_estimate_does_not_see_the_camera_but_the_refined_ones_do(small_network, geometry):
    network = small_network()
    images = torch.randn(2, 3, 256, 192)
    one, other = network(images, geometry(2, seed=0)), network(images, geometry(2, seed=1))
    torch.testing.assert_close(one.coarse.rep, other.coarse.rep, rtol=0, atol=0)
    assert (one.final.rep - other.final.rep).abs().max() > 1e-6


def test_the_coarse_estimate_is_the_mean_plus_the_heads_on_the_mean_token(small_network, geometry):
    network = small_network()
    images = torch.randn(2, 3, 256, 192)
    pooled = network.backbone(images).tokens.mean(1)
    coarse = network(images, geometry(2)).coarse
    torch.testing.assert_close(coarse.camera, network.heads.mean_camera + network.heads.camera(pooled))
    torch.testing.assert_close(coarse.betas, network.heads.mean_betas + network.heads.betas(pooled))
    residual = network.heads.pose(pooled).reshape(2, 24, 6)
    torch.testing.assert_close(coarse.rep, network.heads.mean_rep + residual)


def published_decoder(network: Network, image: torch.Tensor, start, cue: torch.Tensor) -> list[tuple]:
    """The decoder as published, written down again from its description: one list of (pose, betas, camera)."""
    decoder, heads = network.decoder, network.heads
    pose, betas, camera = start.rep.flatten(1), start.betas, start.camera
    found = []
    for i, layer in enumerate(decoder.layers):
        x = torch.stack(
            [
                decoder.embed_pose(torch.cat([pose, cue], -1)),
                decoder.embed_betas(torch.cat([betas, cue], -1)),
                decoder.embed_camera(torch.cat([camera, cue], -1)),
            ],
            1,
        )
        if i == 0:
            x = x + decoder.position
        x = x + plain_self_attention(layer, x)
        x = x + plain_cross_attention(layer, x, image)
        ff = layer.feed_forward
        x = x + ff.fc2(F.gelu(ff.fc1(ff.norm(x))))
        pose, betas, camera = pose + heads.pose(x[:, 0]), betas + heads.betas(x[:, 1]), camera + heads.camera(x[:, 2])
        found.append((pose, betas, camera))
    return found


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(len(x), x.shape[1], heads, -1).transpose(1, 2)


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (split_heads(part, heads) for part in (q, k, v))
    mixed = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
    return mixed.transpose(1, 2).reshape(len(q), q.shape[2], -1)


def plain_self_attention(layer: DecoderLayer, x: torch.Tensor) -> torch.Tensor:
    module = layer.self_attention
    qkv = F.linear(module.norm(x), module.qkv.weight)
    inner = qkv.shape[-1] // 3
    return module.out(plain_attention(*qkv.split(inner, -1), module.heads))


def plain_cross_attention(layer: DecoderLayer, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    module = layer.cross_attention
    keys, values = F.linear(image, module.key_value.weight).chunk(2, -1)
    return module.out(plain_attention(F.linear(module.norm(x), module.query.weight), keys, values, module.heads))


def test_the_decoder_is_the_published_one(small_network, geometry):
    """Positions before the first layer only, tokens made anew in each layer, shared heads, and the same gradients."""
    network = small_network()
    images, where = torch.randn(2, 3, 256, 192), geometry(2)
    prediction = network(images, where)
    expected = published_decoder(network, network.backbone(images).tokens, prediction.stages[0], camera_cue(where))
    for stage, (pose, betas, camera) in zip(prediction.stages[1:], expected, strict=True):
        torch.testing.assert_close(stage.rep.flatten(1), pose)
        torch.testing.assert_close(stage.betas, betas)
        torch.testing.assert_close(stage.camera, camera)
    weights = [
        network.decoder.layers[0].feed_forward.fc1.weight,
        network.backbone.pos_embed,
        network.heads.pose[0].weight,
    ]
    final_of_ours = prediction.final.rep.square().sum()
    final_of_published = expected[-1][0].square().sum()
    for ours, published in zip(
        torch.autograd.grad(final_of_ours, weights, retain_graph=True),
        torch.autograd.grad(final_of_published, weights),
        strict=True,
    ):
        assert published.any()  # nothing is detached: the last estimate moves the first layer and the encoder
        torch.testing.assert_close(ours, published, rtol=1e-3, atol=1e-5)


def test_decoder_tokens_carry_on_without_refinement(small_network, geometry):
    network = small_network(refine=False)
    images, where = torch.randn(2, 3, 256, 192), geometry(2)
    prediction = network(images, where)
    image, cue = network.backbone(images).tokens, camera_cue(where)
    tokens = network.decoder.embed(prediction.stages[0], cue) + network.decoder.position
    for layer in network.decoder.layers:
        tokens = layer(tokens, image)
    torch.testing.assert_close(prediction.final.betas, prediction.coarse.betas + network.heads.betas(tokens[:, 1]))


def test_bytes_and_floats_and_both_widths_are_the_same(small_network, geometry):
    network, where = small_network().eval(), geometry(2)
    crops = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    expected = network(crops, where).final.rep
    floats = (crops.float() / 255 - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]
    torch.testing.assert_close(normalize(crops), floats)
    torch.testing.assert_close(network(floats, where).final.rep, expected)
    torch.testing.assert_close(network(crops[..., 32:224], where).final.rep, expected)
    spoiled = crops.clone()
    spoiled[..., :32] = spoiled[..., 224:] = 0
    torch.testing.assert_close(network(spoiled, where).final.rep, expected)


def test_bf16_is_for_the_encoder_only(small_network, geometry):
    network, where, images = small_network().eval(), geometry(2), torch.randn(2, 3, 256, 192)
    seen = {}
    network.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda _m, _i, out: seen.update(encoder=out.dtype))
    network.decoder.layers[0].feed_forward.fc1.register_forward_hook(lambda _m, _i, out: seen.update(decoder=out.dtype))
    plain = network(images, where)
    assert seen == {"encoder": torch.float32, "decoder": torch.float32}
    half = network(images, where, bf16=True)
    assert seen == {"encoder": torch.bfloat16, "decoder": torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        surrounded = network(images, where)
    assert seen == {"encoder": torch.float32, "decoder": torch.float32}
    assert half.final.rep.dtype == torch.float32
    torch.testing.assert_close(half.final.rep, plain.final.rep, rtol=0.1, atol=0.1)
    torch.testing.assert_close(surrounded.final.rep, plain.final.rep)


def test_the_given_mean_is_the_start(small_config, geometry):
    mean_q = torch.linspace(-1, 1, 46).tolist()
    network = Network(small_config(coarse=False), mean_q=mean_q, mean_betas=[0.5] * 10, mean_camera=(1.0, 2.0, 3.0))
    start = network(torch.randn(1, 3, 256, 192), geometry(1)).stages[0]
    torch.testing.assert_close(start.rep[0], q_to_rep(torch.tensor(mean_q)))
    assert start.betas[0].tolist() == [0.5] * 10
    assert start.camera[0].tolist() == [1, 2, 3]


def test_batch_rows_do_not_know_one_another(small_network, geometry):
    network, images, where = small_network().eval(), torch.randn(3, 3, 256, 192), geometry(3)
    alone = CropGeometry(*(getattr(where, f.name)[1:2] for f in dataclasses.fields(where)))
    together = network(images, where).final
    torch.testing.assert_close(network(images[1:2], alone).final.rep[0], together.rep[1])
