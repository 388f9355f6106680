"""SMPL betas to SKEL betas. Two shape spaces over one topology: the best map between them is affine, made once.

`copy` is what the published converters do: the numbers are kept and read on another basis, which changes the body.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl


@dataclass(frozen=True)
class ShapeMap:
    """skel_betas = offset + smpl_betas @ matrix."""

    offset: Tensor  # [10] float64
    matrix: Tensor  # [10 10] float64

    def __call__(self, betas: Tensor) -> Tensor:
        """SKEL betas [*b 10] of SMPL betas [*b 10], in their dtype.

        In float64, rounded once: in float32 a row's last bits would depend on how many others are mapped with it, and
        the fit would carry that on.
        """
        return (self.offset + betas.double() @ self.matrix).to(betas.dtype)


def copied(device: torch.device) -> ShapeMap:
    """The map that changes nothing."""
    identity = torch.eye(10, dtype=torch.float64, device=device)
    return ShapeMap(torch.zeros_like(identity[0]), identity)


def converted(smpl: Smpl, skel: Skel, betas_rms: float) -> ShapeMap:
    """The map of least squares over T-pose vertices, a free translation apart, with a ridge towards small betas.

    The plain solution's offset is several standard deviations long. The ridge is raised until SMPL betas that are
    standard normal give SKEL betas of `betas_rms`; where the plain solution is shorter already, it stays.
    """
    basis = _centred(skel.shapedirs).double()  # [10 3V]
    constant = (_centred(smpl.template.flatten()) - _centred(skel.template.flatten())).double()
    linear = _centred(smpl.shapedirs).double()
    gram = basis @ basis.T
    right = torch.cat((constant[None], linear)) @ basis.T  # [11 10]: offset, then one row per SMPL beta

    def solve(ridge: float) -> Tensor:
        return torch.linalg.solve(gram + ridge * torch.eye(10, dtype=gram.dtype, device=gram.device), right.T).T

    def rms(solution: Tensor) -> float:
        return float((solution.square().sum() / 10).sqrt())

    low, high = 0.0, float(gram.trace())
    solution = solve(low)
    if rms(solution) > betas_rms:
        while rms(solve(high)) > betas_rms:
            high *= 10
        for _ in range(60):  # bisection to the last bit of the ridge
            middle = (low + high) / 2
            low, high = (middle, high) if rms(solve(middle)) > betas_rms else (low, middle)
        solution = solve(high)
    return ShapeMap(solution[0], solution[1:])


def _centred(flat: Tensor) -> Tensor:
    vertices = flat.unflatten(-1, (-1, 3))
    return (vertices - vertices.mean(-2, keepdim=True)).flatten(-2)
