"""Measures for benchmarks: the machine, its memory, and distances of fitted bodies from annotated meshes."""

import copy
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmr_skel.body.joints import SKEL_PARTS
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.data.meta import statistics
from hmr_skel.rows import SkelParams, SmplParams
from hmr_skel.shapes import Float


def peak_memory_mb(device: torch.device) -> float:
    """The peak so far (1 MB = 1e6 bytes) of the device's allocator, or on a CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1e6 if sys.platform == "darwin" else size * 1024 / 1e6


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, as JSON values."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count()}
    found |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


class Judge:
    """Measures distances of SKEL bodies from annotated meshes in the same way for all solvers.

    It poses both again in float64, in the world, from the stored parameters, so that a wrong root shows.
    """

    def __init__(self, params: SmplParams, smpl: Smpl, skel: Skel) -> None:
        self.params = params.to("cpu", torch.float64)
        self.smpl, self.skel = copy.deepcopy(smpl).cpu().double(), copy.deepcopy(skel).cpu().double()

    @torch.no_grad()
    def distances_mm(self, skel_params: SkelParams) -> Float[Tensor, "N V"]:
        """The distance of each vertex, mm."""
        fitted, found = skel_params.to("cpu", torch.float64), []
        for first in range(0, len(fitted.q), 64):
            p, s = self.params[first : first + 64], fitted[first : first + 64]
            target = self.smpl(p.global_orient, p.body_pose, p.betas, p.transl).vertices
            found.append((self.skel(s.q, s.betas, s.transl).vertices - target).norm(dim=-1) * 1000)
        return torch.cat(found)

    def report(self, skel_params: SkelParams) -> dict[str, Any]:
        """`v2v_mm`, `v2v_max_mm`, `by_part_mm` and `betas_rms` as JSON values.

        Rejected rows (NaN) are left out of the distances.
        """
        distances = self.distances_mm(skel_params)
        distances = distances[distances.isfinite().all(1)]
        bone = self.skel.weights.argmax(1)
        by_part = {name: torch.isin(bone, torch.tensor(joints)) for name, joints in SKEL_PARTS.items()}
        return {
            "v2v_mm": statistics(distances.mean(1).numpy()),
            "v2v_max_mm": statistics(distances.amax(1).numpy()),
            "by_part_mm": {n: round(float(distances[:, part].mean()), 3) for n, part in by_part.items() if part.any()},
            "betas_rms": round(float(skel_params.betas.square().mean().sqrt()), 4),
        }
