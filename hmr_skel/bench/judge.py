"""How far fitted bodies are from the annotated meshes: one measure for all contestants, apart from every solver.

Both bodies are posed anew in float64, in the world's frame, from the parameters as they are stored: a wrong root or
translation would show.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from hmr_skel.body.joints import SKEL_PARTS
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SkelParams, SmplParams
from hmr_skel.shapes import Float


class Judge:
    """Distances of SKEL bodies to the annotated meshes, by part, posed anew in float64."""

    def __init__(self, params: SmplParams, smpl: Smpl, skel: Skel) -> None:
        self.params = params.to("cpu", torch.float64)
        self.smpl, self.skel = copy.deepcopy(smpl).cpu().double(), copy.deepcopy(skel).cpu().double()

    @torch.no_grad()
    def distances_mm(self, skel_params: SkelParams) -> Float[Tensor, "N V"]:
        """Per vertex."""
        fitted, found = skel_params.to("cpu", torch.float64), []
        for first in range(0, len(fitted.q), 64):
            p, s = self.params[first : first + 64], fitted[first : first + 64]
            target = self.smpl(p.global_orient, p.body_pose, p.betas, p.transl).vertices
            found.append((self.skel(s.q, s.betas, s.transl).vertices - target).norm(dim=-1) * 1000)
        return torch.cat(found)

    def report(self, skel_params: SkelParams) -> dict[str, Any]:
        """`v2v_mm` and `by_part_mm` as JSON values. Rejected rows (NaN) are left out."""
        distances = self.distances_mm(skel_params)
        distances = distances[distances.isfinite().all(1)]
        bone = self.skel.weights.argmax(1)
        by_part = {name: torch.isin(bone, torch.tensor(joints)) for name, joints in SKEL_PARTS.items()}
        means = {name: distances[:, part].mean() for name, part in by_part.items() if part.any()}
        return {
            "v2v_mm": summary(distances.mean(1)),
            "by_part_mm": {name: round(float(mean), 3) for name, mean in means.items()},
        }


def summary(values: Tensor) -> dict[str, float]:
    """Mean, median, p95, p99, max, to 0.1 micrometre where the values are millimetres."""
    values = values.double()
    quantiles = torch.quantile(values, torch.tensor([0.5, 0.95, 0.99], dtype=torch.float64)).tolist()
    numbers = {
        "mean": values.mean(),
        "median": quantiles[0],
        "p95": quantiles[1],
        "p99": quantiles[2],
        "max": values.max(),
    }
    return {name: round(float(number), 4) for name, number in numbers.items()}
