"""What a benchmark ran on, and how much memory it took."""

import os
import platform
import resource
import sys
from typing import Any

import torch


def peak_memory_mb(device: torch.device) -> float:
    """The most so far (1 MB = 1e6 bytes): of the device's allocator; on the CPU of the process, its libraries too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1e6 if sys.platform == "darwin" else size * 1024 / 1e6


def machine(device: torch.device) -> dict[str, Any]:
    """What it ran on."""
    found = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return found


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
