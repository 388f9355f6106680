"""The arithmetic of a training step, and what the device could do in its time: model FLOPs utilisation (MFU).

Counted are the network's matrix products, two a multiply-add, forward once and backward twice; what activation
checkpointing computes again does not count, nor do body model and losses.
"""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.config import IMAGE_HEIGHT, IMAGE_WIDTH, NetworkConfig
from hmr_skel.model.network import Network

# Dense bfloat16 with float32 sums, FLOP/s, from the makers' data sheets; the longest name that fits counts.
_BF16_PEAK = {
    "A100": 312e12, "H100": 989e12, "H100 PCIe": 756e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "A40": 150e12,
    "RTX 3090": 71e12, "RTX 4090": 165e12, "RTX 5090": 210e12, "RTX A6000": 155e12, "A10": 125e12,
}  # fmt: skip


def forward_flops(config: NetworkConfig) -> int:
    """Of one crop through the network, without computing anything."""
    with torch.device("meta"):
        network = Network(config).eval()
        image = torch.empty(1, 3, IMAGE_HEIGHT, IMAGE_WIDTH)
        geometry = CropGeometry(torch.empty(1, 2), torch.empty(1), torch.empty(1, 3, 3), torch.empty(1, 2, 3))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image, geometry)
    return counter.get_total_flops()


def training_flops(config: NetworkConfig) -> int:
    """Of one sample in training."""
    return 3 * forward_flops(config)


def peak_flops_per_s(device: torch.device, bf16: bool) -> tuple[float, str]:
    """What the device could do at most, and where that number is from.

    A known GPU in bfloat16: its data sheet. Anything else: the fastest large matrix product seen here and now.
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
