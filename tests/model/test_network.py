"""The network: published counts, what its layers carry on, its variants, its precision."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from hmr_skel.body.joints import FLIP_44
from hmr_skel.model.camera import CropGeometry, camera_cue
from hmr_skel.model.config import NetworkConfig, VitConfig
from hmr_skel.model.network import IMAGE_MEAN, IMAGE_STD, Network, normalize


def outputs(prediction) -> torch.Tensor:
    return sum(part.sum() for stage in prediction.stages for part in (stage.rep, stage.betas, stage.camera))


def test_the_paper_size_has_the_published_counts_and_runs_forward_and_backward():
    """On meta tensors."""
    with torch.device("meta"):
        network = Network(NetworkConfig(), activation_checkpointing=True).train()
        where = CropGeometry(*(torch.empty(shape) for shape in ((2, 2), (2,), (2, 3, 3), (2, 2, 3))))
        images = torch.empty(2, 3, 256, 256, dtype=torch.uint8)

    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(679.4, abs=0.05)
    prediction = network(images, where)
    assert len(prediction.stages) == 7
    outputs(prediction).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("switches", "stages", "layers", "coarse"),
    [
        ({}, 4, 3, True),
        ({"refine": False}, 2, 3, True),
        ({"looped": True, "camera": False}, 4, 1, True),
        ({"camera": False, "coarse": False, "refine": False}, 2, 3, False),  # HSMR's
    ],
    ids=str,
)
def test_every_variant_has_its_stages_and_uses_every_parameter(
    small_network, geometry, switches, stages, layers, coarse
):
    """The latter is also what distributed training asks for."""
    network = small_network(**switches)
    prediction = network(torch.randn(2, 3, 256, 192), geometry(2))
    outputs(prediction).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A softmax over 48 tokens knows no constant: the keys' biases have no gradient but rounding.
    assert not [name for name in unused if "qkv.bias" not in name]
    assert prediction.final.rep.shape == (2, 24, 6)
    assert prediction.skel_params().transl.shape == (2, 3)
    assert len(prediction.stages) == len(network.config.stage_names) == stages
    assert len(network.decoder.layers) == layers
    assert (prediction.coarse is not None) == coarse
    if not coarse:
        torch.testing.assert_close(prediction.stages[0].rep[0], network.heads.mean_rep)


@pytest.fixture
def corrected(small_network) -> Network:
    """A network with a correction that is not zero, as it is at first."""
    vit = VitConfig(width=32, depth=1, heads=2, stem_tokens=4)
    network, plain = small_network(vit=vit, correction=16), small_network(vit=vit)
    torch.testing.assert_close(dict(plain.named_parameters())["heads.pose.0.weight"], network.heads.pose[0].weight)
    torch.nn.init.normal_(network.correction.correct[-1].weight, std=0.1)
    return network


def test_a_correction_is_one_more_stage_and_teaches_nothing_but_itself(corrected, geometry):
    prediction = corrected(torch.randn(2, 3, 256, 192), geometry(2))
    assert len(prediction.stages) == 5
    assert prediction.layers == prediction.stages[1:4]
    assert not torch.equal(prediction.final.camera, prediction.layers[-1].camera)
    final = prediction.final
    (final.rep.sum() + final.betas.sum() + final.camera.sum() + prediction.sketch.sum()).backward()
    taught = {name for name, parameter in corrected.named_parameters() if parameter.grad is not None}
    assert taught == {f"correction.{name}" for name, _ in corrected.correction.named_parameters()}


def test_a_correction_tells_the_sides_that_the_stem_does_not_know(corrected, geometry):
    """Maps of a pair may be exchanged: the estimate says which of the two is meant, if both are."""
    estimate, cue = corrected.heads.mean(3), camera_cue(geometry(3))
    maps = torch.randn(3, 44, 192).mul(4).log_softmax(-1).unflatten(-1, (16, 12))
    told, other = (corrected.correction(estimate, estimate, cue, one)[0] for one in (maps, maps[:, list(FLIP_44)]))
    torch.testing.assert_close(vars(told), vars(other), rtol=0, atol=1e-6)
    elsewhere = corrected.correction(estimate, estimate, cue, maps.roll(3, -1))[0]
    assert (elsewhere.camera - told.camera).abs().max() > 1e-4


def test_who_sees_the_camera(small_network, geometry):
    """Not the coarse estimate, and nobody where the network has no camera."""
    images, here, there = torch.randn(2, 3, 256, 192), geometry(2, seed=0), geometry(2, seed=1)
    network = small_network()
    one, other = network(images, here), network(images, there)
    assert torch.equal(one.coarse.rep, other.coarse.rep)
    assert (one.final.rep - other.final.rep).abs().max() > 1e-6
    blind = small_network(camera=False)
    assert blind.decoder.embed_pose.in_features == 144
    one, other = blind(images, here), blind(images, there)
    assert torch.equal(one.final.rep, other.final.rep)
    assert torch.equal(one.skel_params().transl, other.skel_params().transl)


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (x.reshape(len(x), x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
    mixed = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
    return mixed.transpose(1, 2).reshape(len(q), q.shape[2], -1)


def published_decoder(network: Network, image: torch.Tensor, start, cue: torch.Tensor) -> list[tuple]:
    """The decoder as published, written down again from its description: one list of (pose, betas, camera)."""
    decoder, heads = network.decoder, network.heads
    pose, betas, camera = start.rep.flatten(1), start.betas, start.camera
    found = []
    for i, layer in enumerate(decoder.layers):
        embedded = (
            (decoder.embed_pose, pose), (decoder.embed_betas, betas), (decoder.embed_camera, camera),
        )  # fmt: skip
        x = torch.stack([embed(torch.cat([values, cue], -1)) for embed, values in embedded], 1)
        if i == 0:
            x = x + decoder.position
        own, cross, ff = layer.self_attention, layer.cross_attention, layer.feed_forward
        x = x + own.out(attended(*F.linear(own.norm(x), own.qkv.weight).chunk(3, -1), own.heads))
        keys, values = F.linear(image, cross.key_value.weight).chunk(2, -1)
        x = x + cross.out(attended(F.linear(cross.norm(x), cross.query.weight), keys, values, cross.heads))
        x = x + ff.fc2(F.gelu(ff.fc1(ff.norm(x))))
        pose, betas, camera = pose + heads.pose(x[:, 0]), betas + heads.betas(x[:, 1]), camera + heads.camera(x[:, 2])
        found.append((pose, betas, camera))
    return found


def test_the_coarse_estimate_and_the_decoder_are_the_published_ones(small_network, geometry):
    """Positions before the first layer only, tokens made anew in each layer, shared heads, and the same gradients."""
    network = small_network()
    images, where = torch.randn(2, 3, 256, 192), geometry(2)
    prediction = network(images, where)
    tokens, heads, coarse = network.backbone(images).tokens, network.heads, prediction.coarse
    torch.testing.assert_close(coarse.camera, heads.mean_camera + heads.camera(tokens.mean(1)))
    torch.testing.assert_close(coarse.betas, heads.mean_betas + heads.betas(tokens.mean(1)))
    torch.testing.assert_close(coarse.rep, heads.mean_rep + heads.pose(tokens.mean(1)).reshape(2, 24, 6))
    expected = published_decoder(network, tokens, prediction.stages[0], camera_cue(where))
    for stage, (pose, betas, camera) in zip(prediction.stages[1:], expected, strict=True):
        torch.testing.assert_close(stage.rep.flatten(1), pose)
        torch.testing.assert_close(stage.betas, betas)
        torch.testing.assert_close(stage.camera, camera)
    weights = [network.decoder.layers[0].feed_forward.fc1.weight, network.backbone.pos_embed]
    ours = torch.autograd.grad(prediction.final.rep.square().sum(), weights, retain_graph=True)
    for found, published in zip(ours, torch.autograd.grad(expected[-1][0].square().sum(), weights), strict=True):
        assert published.any()  # nothing is detached: the last estimate moves the first layer and the encoder
        torch.testing.assert_close(found, published, rtol=1e-3, atol=1e-5)


def test_decoder_tokens_carry_on_without_refinement(small_network, geometry):
    network = small_network(refine=False)
    images, where = torch.randn(2, 3, 256, 192), geometry(2)
    prediction = network(images, where)
    image, cue = network.backbone(images).tokens, camera_cue(where)
    tokens = network.decoder.embed(prediction.stages[0], cue) + network.decoder.position
    for layer in network.decoder.layers:
        tokens = layer(tokens, image)
    torch.testing.assert_close(prediction.final.betas, prediction.coarse.betas + network.heads.betas(tokens[:, 1]))


def test_bytes_and_floats_and_both_widths_are_the_same_and_rows_do_not_know_one_another(small_network, geometry):
    network, where = small_network().eval(), geometry(3)
    crops = torch.randint(0, 256, (3, 3, 256, 256), dtype=torch.uint8)
    expected = network(crops, where).final.rep
    floats = (crops.float() / 255 - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]
    torch.testing.assert_close(normalize(crops), floats)
    torch.testing.assert_close(network(floats, where).final.rep, expected)
    torch.testing.assert_close(network(crops[..., 32:224], where).final.rep, expected)
    alone = CropGeometry(*(getattr(where, f.name)[1:2] for f in dataclasses.fields(where)))
    torch.testing.assert_close(network(crops[1:2], alone).final.rep[0], expected[1])


def test_bf16_is_for_the_encoder_only(small_network, geometry):
    network, where, images = small_network().eval(), geometry(2), torch.randn(2, 3, 256, 192)
    seen = {}
    network.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda _m, _i, out: seen.update(encoder=out.dtype))
    network.decoder.layers[0].feed_forward.fc1.register_forward_hook(lambda _m, _i, out: seen.update(decoder=out.dtype))
    plain = network(images, where)
    half = network(images, where, bf16=True)
    assert seen == {"encoder": torch.bfloat16, "decoder": torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        surrounded = network(images, where)
    assert seen == {"encoder": torch.float32, "decoder": torch.float32}
    assert half.final.rep.dtype == torch.float32
    torch.testing.assert_close(half.final.rep, plain.final.rep, rtol=0.1, atol=0.1)
    torch.testing.assert_close(surrounded.final.rep, plain.final.rep)
