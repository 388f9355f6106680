"""What benchmarks measure with: the machine, its memory, and how far fitted bodies are from annotated meshes."""

import copy
import os
import platform
import resource
import sys
from typing import Any

import torch
from torch import Tensor

from hmr_skel.body.joints import SKEL_PARTS
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SkelParams, SmplParams
from hmr_skel.shapes import Float


def peak_memory_mb(device: torch.device) -> float:
    """The most so far (1 MB = 1e6 bytes): of the device's allocator; on a CPU of the process, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1e6 if sys.platform == "darwin" else size * 1024 / 1e6


def machine(device: torch.device) -> dict[str, Any]:
    """What it ran on, as JSON values."""
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


class Judge:
    """Distances of SKEL bodies to the annotated meshes, the same for all solvers.

    Both bodies are posed anew in float64, in the world's frame, from the parameters as they are stored: a wrong root or
    translation would show.
    """

    def __init__(self, params: SmplParams, smpl: Smpl, skel: Skel) -> None:
        self.params = params.to("cpu", torch.float64)
        self.smpl, self.skel = copy.deepcopy(smpl).cpu().double(), copy.deepcopy(skel).cpu().double()

    @torch.no_grad()
    def distances_mm(self, skel_params: SkelParams) -> Float[Tensor, "N V"]:
        """For each vertex."""
        fitted, found = skel_params.to("cpu", torch.float64), []
        for first in range(0, len(fitted.q), 64):
            p, s = self.params[first : first + 64], fitted[first : first + 64]
            target = self.smpl(p.global_orient, p.body_pose, p.betas, p.transl).vertices
            found.append((self.skel(s.q, s.betas, s.transl).vertices - target).norm(dim=-1) * 1000)
        return torch.cat(found)

    def report(self, skel_params: SkelParams) -> dict[str, Any]:
        """`v2v_mm`, `by_part_mm` and `betas_rms` as JSON values. Rejected rows (NaN) are left out of the distances."""
        distances = self.distances_mm(skel_params)
        distances = distances[distances.isfinite().all(1)]
        bone = self.skel.weights.argmax(1)
        by_part = {name: torch.isin(bone, torch.tensor(joints)) for name, joints in SKEL_PARTS.items()}
        return {
            "v2v_mm": statistics_of(distances.mean(1)),
            "by_part_mm": {
                name: round(float(distances[:, part].mean()), 3) for name, part in by_part.items() if part.any()
            },
            "betas_rms": round(float(skel_params.betas.square().mean().sqrt()), 4),
        }


def statistics_of(values: Tensor) -> dict[str, float]:
    """Mean, median, p95, p99, max; millimetres are rounded to 0.1 micrometre."""
    values = values.double()
    median, p95, p99 = torch.quantile(values, torch.tensor([0.5, 0.95, 0.99], dtype=torch.float64))
    numbers = {"mean": values.mean(), "median": median, "p95": p95, "p99": p99, "max": values.max()}
    return {name: round(float(number), 4) for name, number in numbers.items()}
