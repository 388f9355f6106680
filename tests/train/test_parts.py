"""Schedules, averages, counted arithmetic, seeds, logs."""

import json
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hmr_skel.model.config import VIT_SIZES, DecoderConfig, NetworkConfig, VitConfig
from hmr_skel.model.network import Network
from hmr_skel.train.flops import peak_flops_per_s, training_flops
from hmr_skel.train.log import keep_until, plot_log, read_log
from hmr_skel.train.loop import random_seed
from hmr_skel.train.optimizer import Ema, ema_decay, learning_rate_factor, new_optimizer
from tests.train.small_run import small_recipe


def test_the_learning_rate_rises_and_stays_or_falls():
    constant = [learning_rate_factor(step, 100, 10, "constant") for step in range(100)]
    assert constant[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert constant[10:] == [1] * 90
    cosine = [learning_rate_factor(step, 100, 10, "cosine") for step in range(100)]
    assert cosine[:10] == constant[:10]
    assert cosine[10] == 1
    assert cosine[55] == pytest.approx(0.5)
    assert 0 < cosine[99] < 0.001
    assert sorted(cosine[10:], reverse=True) == cosine[10:]
    assert learning_rate_factor(0, 1, 0, "cosine") == 1


def test_the_mean_forgets_its_start():
    decays = [ema_decay(n, 0.99, 20.0) for n in range(1, 200)]
    assert decays[0] < 0.05
    assert decays == sorted(decays)
    assert decays[-1] == pytest.approx(0.99, abs=1e-3)


def test_the_mean_of_weights():
    layer = torch.nn.Linear(2, 1)
    ema = Ema(layer)
    before = ema.weights["weight"].clone()
    with torch.no_grad():
        layer.weight += 1
    torch.testing.assert_close(ema.weights["weight"], before)  # a copy, no view
    ema.update(layer, 0.75)
    torch.testing.assert_close(ema.weights["weight"], before + 0.25)
    other = Ema(torch.nn.Linear(2, 1))
    other.load(ema.weights)
    torch.testing.assert_close(other.weights, ema.weights)


def test_the_encoders_arithmetic_is_that_of_its_sizes():
    """By hand: 192 tokens through 6 blocks of 12 w^2 weights, their attention, and the decoder's first tokens."""
    width, tokens = 192, 192
    encoder = 6 * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width) + 2 * tokens * width * 3 * 16**2
    embedded = 2 * width * (147 + 13 + 6)
    alone = Network(NetworkConfig(vit=VIT_SIZES["tiny"], decoder=DecoderConfig(depth=0), coarse=False)).train()
    assert training_flops(alone) == 3 * (encoder + embedded)
    assert alone.training
    assert training_flops(Network(NetworkConfig(vit=VIT_SIZES["tiny"]))) > 3 * encoder


def test_the_arithmetic_is_what_torch_counts():
    """Of every kind of layer: the stem, attention to itself and to the image, the heads."""
    vit = VitConfig(width=32, depth=1, heads=2, stem_tokens=4)
    decoder = DecoderConfig(depth=2, heads=2, head_width=8, hidden=32)
    network = Network(NetworkConfig(vit=vit, decoder=decoder, head_hidden=16))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        counted = training_flops(network)
    assert counted == pytest.approx(3 * counter.get_total_flops(), rel=0.01)


def test_the_peak_is_measured_where_it_is_not_known():
    peak, source = peak_flops_per_s(torch.device("cpu"), bf16=False)
    assert 1e8 < peak < 1e14
    assert "measured" in source


def test_matrices_decay_and_nothing_else():
    network = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 2), "norm": torch.nn.LayerNorm(2)})
    decayed, others = new_optimizer(small_recipe("weight_decay=0.5"), network).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 2)]
    assert (decayed["weight_decay"], others["weight_decay"], len(others["params"])) == (0.5, 0.0, 3)


def test_random_numbers_differ_between_steps_processes_and_seeds():
    seeds = {random_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 3 * 20 * 4
    assert random_seed(1, 2, 3) == random_seed(1, 2, 3)


def test_a_log_goes_on_from_its_step(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_text(
        "".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 9)) + '{"step": 9,'
    )
    assert len(read_log(path)) == 8
    keep_until(path, 5)
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4, 5]


def test_the_curves_are_drawn(tmp_path):
    log = tmp_path / "log.jsonl"
    assert not plot_log(log, tmp_path / "curves.png")
    log.write_text("".join(json.dumps({"step": s, "loss": math.exp(-s), "final/body": 3.0 / s}) + "\n" for s in (1, 2)))
    assert plot_log(log, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
