"""What a step is worth, and what holds it back: shared by the compiled solver and by `fitting.refine`."""

import torch
from torch import Tensor

# A row has arrived where its step lowered the reduced energy by no more than this share.
LITTLE = 1e-4

DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MIN, DAMPING_MAX = 1e-4, 0.2, 8.0, 1e-9, 1e6


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
