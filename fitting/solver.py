"""Levenberg-Marquardt in a box, many small problems at once; every row damps, accepts and stops for itself.

Per row: (H + damping diag H) step = -g over the dofs that are free, that is not held at a limit by the gradient; dofs
that the step would push over a limit are put on it and the rest is solved once more; the step is bounded. A step that
lowers the energy is taken and the damping falls; otherwise it grows. Limits hold exactly. The solver knows nothing of
meshes: it asks a problem for poses, energies and derivatives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.reduced import ReducedProblem

DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MIN, DAMPING_MAX = 1e-4, 0.2, 8.0, 1e-9, 1e6


@dataclass(frozen=True)
class SolverState:
    """Where every row stands. `q` [B 46], the others [B]."""

    q: Tensor
    energy: Tensor
    damping: Tensor
    step: Tensor  # the largest change of a dof in the last step tried, rad
    iterations: Tensor  # int32, steps tried in all

    def __getitem__(self, rows: Tensor) -> "SolverState":
        return SolverState(self.q[rows], self.energy[rows], self.damping[rows], self.step[rows], self.iterations[rows])


def start(q: Tensor) -> SolverState:
    """The state before the first step."""
    zero = q.new_zeros(len(q))
    return SolverState(
        q, zero + torch.inf, zero + DAMPING_START, zero + torch.inf, torch.zeros_like(zero, dtype=torch.int32)
    )


def minimise(
    problem: ReducedProblem, state: SolverState, low: Tensor, high: Tensor, iterations: int, max_step: float,
    tolerance: float,
) -> SolverState:  # fmt: skip
    """At most `iterations` steps per row on the dofs of the problem's part; `low` and `high` [D] are their limits.

    A row whose accepted step moved no dof by more than `tolerance` stays where it is.
    """
    dofs = problem.part.dofs
    q, damping, counts = state.q, state.damping, state.iterations
    pose = problem.pose(q)
    energy, force = problem.energy(q, pose)
    gradient, hessian = problem.derivatives(q, pose, force)
    last = torch.full_like(energy, torch.inf)
    done = torch.zeros_like(energy, dtype=torch.bool)
    for index in range(iterations):
        free = q[:, dofs]
        step = _box_step(hessian, gradient, free, low, high, damping, max_step)
        trial = q.clone()
        trial[:, dofs] = free + step
        trial_pose = problem.pose(trial)
        trial_energy, trial_force = problem.energy(trial, trial_pose)
        better = (trial_energy <= energy) & ~done
        moved = step.abs().amax(1)
        counts = counts + (~done).int()
        last = torch.where(better, moved, last)
        damping = torch.where(better, damping * DAMPING_DOWN, torch.where(done, damping, damping * DAMPING_UP))
        damping = damping.clamp(DAMPING_MIN, DAMPING_MAX)
        q = torch.where(better[:, None], trial, q)
        energy = torch.where(better, trial_energy, energy)
        done = done | (better & (moved < tolerance)) | (moved < 1e-3 * tolerance)
        if index + 1 < iterations:
            new_gradient, new_hessian = problem.derivatives(trial, trial_pose, trial_force)
            gradient = torch.where(better[:, None], new_gradient, gradient)
            hessian = torch.where(better[:, None, None], new_hessian, hessian)
    return SolverState(q, energy, damping, last, counts)


def _box_step(
    hessian: Tensor, gradient: Tensor, q: Tensor, low: Tensor, high: Tensor, damping: Tensor, max_step: float
) -> Tensor:
    """The damped step [B D] that stays in the box."""
    held = ((q <= low) & (gradient > 0)) | ((q >= high) & (gradient < 0))
    fixed = torch.zeros_like(q)
    step = _solve(hessian, gradient, damping, held, fixed)
    target = q + step
    over = (target < low) | (target > high)
    # What would leave the box is put on its edge; the others make up for it.
    fixed = torch.where(over, torch.minimum(torch.maximum(target, low), high) - q, fixed)
    step = _solve(hessian, gradient, damping, held | over, fixed)
    longest = step.abs().amax(1, keepdim=True)
    step = step * (max_step / longest.clamp_min(max_step))
    return torch.minimum(torch.maximum(q + step, low), high) - q


def _solve(hessian: Tensor, gradient: Tensor, damping: Tensor, fixed: Tensor, value: Tensor) -> Tensor:
    """Minimise the damped quadratic over the dofs that are not `fixed`; those take `value`."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    right = -gradient - (hessian @ value.unsqueeze(-1)).squeeze(-1)
    free = ~fixed
    system = hessian * (free[:, :, None] & free[:, None, :])
    # The floor keeps a dof that moves nothing (no weight in this stage) from dividing by zero.
    floor = 1e-9 * diagonal.amax(1, keepdim=True) + 1e-30
    system.diagonal(dim1=-2, dim2=-1).add_(
        torch.where(free, damping[:, None] * diagonal + floor, torch.ones_like(diagonal))
    )
    factor, _ = torch.linalg.cholesky_ex(system)
    solution = torch.cholesky_solve((right * free).unsqueeze(-1), factor).squeeze(-1)
    # A matrix that is not positive definite in floating point gives no step: the damping rises and the row goes on.
    solution = torch.where(solution.isfinite().all(1, keepdim=True), solution, torch.zeros_like(solution))
    return torch.where(fixed, value, solution)
