"""Schedules, averages, counted arithmetic, seeds, logs."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hmr_skel.model.config import DecoderConfig, NetworkConfig, VitConfig
from hmr_skel.model.network import Network
from hmr_skel.train.flops import training_flops
from hmr_skel.train.log import keep_until, read_log
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
    layer = torch.nn.Linear(2, 1)
    ema = Ema(layer)
    before = ema.weights["weight"].clone()
    with torch.no_grad():
        layer.weight += 1
    torch.testing.assert_close(ema.weights["weight"], before)  # a copy, no view
    ema.update(layer, 0.75)
    torch.testing.assert_close(ema.weights["weight"], before + 0.25)


def test_the_arithmetic_is_what_torch_counts():
    """Of every kind of layer: the stem, attention to itself and to the image, the heads."""
    vit = VitConfig(width=32, depth=1, heads=2, stem_tokens=4)
    decoder = DecoderConfig(depth=2, heads=2, head_width=8, hidden=32)
    network = Network(NetworkConfig(vit=vit, decoder=decoder, head_hidden=16))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        counted = training_flops(network)
    assert counted == pytest.approx(3 * counter.get_total_flops(), rel=0.01)


def test_matrices_decay_and_nothing_else():
    network = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 2), "norm": torch.nn.LayerNorm(2)})
    decayed, others = new_optimizer(small_recipe("weight_decay=0.5"), network).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 2)]
    assert (decayed["weight_decay"], others["weight_decay"], len(others["params"])) == (0.5, 0.0, 3)


def test_a_log_goes_on_from_its_step(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 9)]
    for broken in ('{"step": 9,', "[" * 100_000 + '\n{"step": 10}\n', '[]\n{"step": 10}\n'):  # what follows is lost
        path.write_text("\n".join([*lines, broken]))
        assert len(read_log(path)) == 8
    keep_until(path, 5)
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4, 5]
