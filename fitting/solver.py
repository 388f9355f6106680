"""What a step is worth, and what holds it back: shared by the compiled solver and by `fitting.refine`."""

import torch
from torch import Tensor

from hmr_skel.body.dofs import BODY

# A row has arrived where its step lowered the reduced energy by no more than this share.
LITTLE = 1e-4

DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MIN, DAMPING_MAX = 1e-4, 0.2, 8.0, 1e-9, 1e6


def ahead(step: Tensor, gradient: Tensor, energy: Tensor, step_tolerance: float, energy_tolerance: float) -> Tensor:
    """What a step [B D] brings, over what is tolerated, [B]: in its largest dof or as a share of E, whichever is less.

    A Newton step lowers E by what half the gradient of E, times the step, says. In a flat valley, such as that of a
    shoulder near gimbal lock, a dof may go far and E nowhere: such a row has arrived as well.
    """
    fall = -(gradient * step).sum(1)
    return torch.minimum(step.abs().amax(1) / step_tolerance, fall / (energy_tolerance * energy))


def largest_push(q: Tensor, gradient: Tensor, box: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The largest slope of E [B] that a limit holds back, m^2/rad, and the number in q [B] of its dof; 0, -1: none.

    Args:
        q: [B 46] rad.
        gradient: [B 43] of E / 2 by the dofs below the pelvis.
        box: the lower and the upper limits [46].
    """
    low, high = box
    held = torch.where(gradient > 0, q[:, BODY] <= low[BODY], q[:, BODY] >= high[BODY])
    push, place = torch.where(held, 2 * gradient.abs(), 0.0).max(1)
    return push, torch.where(push > 0, place + BODY.start, -1)


def damped_step(
    hessian: Tensor, gradient: Tensor, damping: Tensor, fixed: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Minimise the damped quadratic over the dofs that are not `fixed`, which take `value`; and was it definite?"""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    right = -gradient - (hessian * value.unsqueeze(1)).sum(-1)
    free = ~fixed
    # The floor keeps a dof that moves nothing (no weight in this stage) from dividing by zero.
    floor = 1e-9 * diagonal.amax(1, keepdim=True) + 1e-30
    added = torch.where(free, damping[:, None] * diagonal + floor, torch.ones_like(diagonal))
    # LAPACK's last bits depend on where in memory a matrix begins, which depends on the row's place in the batch. In
    # matrices of whole cache lines every row begins alike.
    count, size = len(right), -(-right.shape[1] // 8) * 8
    system = torch.eye(size, dtype=right.dtype, device=right.device).repeat(count, 1, 1)
    inner = system[:, : right.shape[1], : right.shape[1]]
    torch.mul(hessian, free[:, :, None] & free[:, None, :], out=inner)
    inner.diagonal(dim1=-2, dim2=-1).add_(added)
    factor, failed = torch.linalg.cholesky_ex(system)
    definite = failed == 0
    factor = torch.where(definite[:, None, None], factor, torch.eye(size, dtype=factor.dtype, device=factor.device))
    padded = right.new_zeros(count, size, 1)
    padded[:, : right.shape[1], 0] = right * free
    solution = torch.cholesky_solve(padded, factor)[:, : right.shape[1], 0]
    return torch.where(fixed, value, solution), definite
