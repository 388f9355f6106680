"""Convert SMPL betas to SKEL betas. Both shape spaces have one topology, so the best map is affine and made once.

`copied` does what published converters do: it keeps the numbers, which mean another body in the other basis.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl

RARE = 5.44
"""One person in a thousand has betas of a larger norm. It is the 99.9 % point of a chi distribution with ten degrees of
freedom, since betas of people are standard normal."""
FAR = 2.0
"""The largest norm of converted betas, in usual norms; on the open body 99 % of people are below."""


@dataclass(frozen=True)
class ShapeMap:
    """The map skel_betas = offset + smpl_betas @ matrix, with a bound that depends on the norm of the SMPL betas."""

    offset: Tensor  # [10] float64
    matrix: Tensor  # [10 10] float64
    gram: Tensor  # [10 10] float64, m^2: b @ gram @ b is the sum of squared displacements by betas b
    is_bounded: bool = True

    @property
    def usual(self) -> Tensor:
        """The root mean square norm of SKEL betas for standard normal SMPL betas, as people have."""
        return (self.offset.square().sum() + self.matrix.square().sum()).sqrt()

    def __call__(self, betas: Tensor) -> Tensor:
        """SKEL betas [*b 10] for SMPL betas [*b 10], in their dtype.

        Their norm is at most `FAR` times the usual norm or the norm of the SMPL betas, whichever is larger. If the map
        gives more, the result is the nearest body within this bound.

        Computed in float64 and rounded once: in float32 the last bits, and so fits, would depend on the number of rows.
        """
        mapped = self._mapped(betas)
        if self.is_bounded:
            mapped = self._bounded(mapped, self._bound(betas))
        return mapped.to(betas.dtype)

    def is_unusual(self, betas: Tensor) -> Tensor:
        """[*b] whether less than one person in a thousand has such SMPL betas [*b 10], or the map exceeds its bound."""
        return (betas.double().norm(dim=-1) > RARE) | (self._mapped(betas).norm(dim=-1) > self._bound(betas))

    def _mapped(self, betas: Tensor) -> Tensor:
        return self.offset + betas.double() @ self.matrix

    @cached_property
    def _modes(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors of `gram`."""
        stiffness, directions = torch.linalg.eigh(self.gram)
        return stiffness, directions

    def _bound(self, betas: Tensor) -> Tensor:
        return torch.maximum(betas.double().norm(dim=-1), FAR * self.usual)

    def _bounded(self, mapped: Tensor, bound: Tensor) -> Tensor:
        """The nearest betas of norm `bound`, by a ridge from Newton's method on 1 / norm (Moré and Sorensen 1983)."""
        stiffness, directions = self._modes
        load = stiffness * (mapped @ directions)
        ridge = torch.zeros_like(bound)
        for _ in range(12):
            held = stiffness + ridge.unsqueeze(-1)
            square = (load / held).square()
            norm = square.sum(-1).sqrt()
            ridge = (ridge + (norm - bound) / bound * norm.square() / (square / held).sum(-1)).clamp_min(0)
        shortened = load / (stiffness + ridge.unsqueeze(-1)) @ directions.T
        return torch.where((mapped.norm(dim=-1) > bound).unsqueeze(-1), shortened, mapped)


def copied(device: torch.device) -> ShapeMap:
    """The map that keeps the numbers."""
    identity = torch.eye(10, dtype=torch.float64, device=device)
    return ShapeMap(torch.zeros_like(identity[0]), identity, identity, is_bounded=False)


def converted(smpl: Smpl, skel: Skel, betas_rms: float) -> ShapeMap:
    """The least-squares map over T-pose vertices, up to a translation, with a ridge towards small betas.

    The offset of the plain solution is several standard deviations long. The ridge is raised until standard normal SMPL
    betas give SKEL betas of `betas_rms`; it stays 0 if the plain solution gives less.
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
    return ShapeMap(solution[0], solution[1:], gram)


def _centred(flat: Tensor) -> Tensor:
    vertices = flat.unflatten(-1, (-1, 3))
    return (vertices - vertices.mean(-2, keepdim=True)).flatten(-2)
