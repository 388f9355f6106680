"""The operations of a training step, and the device's peak, for model FLOPs utilisation (MFU).

The count has the network's matrix products, with two operations per multiply-add, once forward and twice backward. It
does not include repeated work of activation checkpointing, the body model and the losses.
"""

import time
from typing import Any

import torch
from torch import nn

from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.config import IMAGE_HEIGHT, IMAGE_WIDTH
from hmr_skel.model.decoder import CrossAttention, SelfAttention
from hmr_skel.model.network import Network
from hmr_skel.model.stem import KeypointStem
from hmr_skel.model.vit import Attention

# Dense bfloat16 with float32 sums, FLOP/s, from data sheets; the longest matching name counts.
_BF16_PEAK = {
    "A100": 312e12, "H100": 989e12, "H100 PCIe": 756e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "A40": 150e12,
    "RTX 3090": 71e12, "RTX 4090": 165e12, "RTX 5090": 210e12, "RTX A6000": 155e12, "A10": 125e12,
}  # fmt: skip


def training_flops(network: Network) -> int:
    """The operations for one training sample. This runs the network, which must not be compiled yet."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, nn.Linear | nn.Conv2d):
            total += 2 * output.numel() * module.weight[0].numel()
        elif isinstance(module, Attention | SelfAttention | CrossAttention):
            queries, keys = inputs[0].shape[1], inputs[-1].shape[1]
            total += 4 * queries * keys * (module.proj if isinstance(module, Attention) else module.out).in_features
        elif isinstance(module, KeypointStem):
            total += 2 * output.maps.numel() * module.seen.in_features

    image = torch.zeros(1, 3, IMAGE_HEIGHT, IMAGE_WIDTH, device=network.heads.mean_rep.device)
    geometry = CropGeometry.from_box(image.new_zeros(1, 2), image.new_ones(1), torch.eye(3).to(image)[None])
    handles = [module.register_forward_hook(count) for module in network.modules()]
    before = network.training
    with torch.no_grad():
        network.eval()(image, geometry)
    network.train(before)
    for handle in handles:
        handle.remove()
    return 3 * total


def peak_flops_per_s(device: torch.device, bf16: bool) -> tuple[float, str]:
    """The peak of the device, and the source of that number.

    It is from the data sheet for a known GPU in bfloat16, else from the fastest large matrix product measured now.
    """
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device)
        known = max((key for key in _BF16_PEAK if key in name), key=len, default=None)
        if known is not None:
            return _BF16_PEAK[known], f"data sheet of the {known}, bfloat16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    return _measured_peak(device, dtype), f"measured matrix product, {str(dtype).removeprefix('torch.')}"


def _measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best, begin = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < seconds:
        _wait_for(device)
        start = time.perf_counter()
        a @ b
        _wait_for(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
