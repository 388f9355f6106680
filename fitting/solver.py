"""Newton's method in a box, many small problems at once; every row damps, accepts and stops for itself.

Per row: (H + damping diag H) step = -g over the dofs that are free, that is not held at a limit by the gradient; dofs
that the step would push over a limit are put on it and the rest is solved once more; the step is bounded. A step that
lowers the energy is taken and the damping falls; otherwise it grows (Levenberg, Marquardt). H is Newton's matrix where
it is positive definite and Gauss-Newton's where not. Limits hold exactly. The solver knows nothing of meshes: it asks
a problem for poses, energies and derivatives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.batch import Rows
from fitting.reduced import ReducedProblem
from fitting.stages import PartLimits
from hmr_skel.body.dofs import BODY

# A row has arrived where its step lowered the reduced energy by no more than this share.
LITTLE = 1e-4

DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MIN, DAMPING_MAX = 1e-4, 0.2, 8.0, 1e-9, 1e6


@dataclass(frozen=True)
class Local(Rows):
    """A problem seen from a point q, one row each."""

    q: Tensor  # [B 46]
    energy: Tensor  # [B]
    gradient: Tensor  # [B D]
    gauss_newton: Tensor  # [B D D]
    curvature: Tensor  # [B D D] what Newton's matrix adds
    damping: Tensor  # [B]


def linearise(problem: ReducedProblem, q: Tensor, damping: Tensor | None = None) -> Local:
    """The problem at q [B 46]; `damping` [B] where rows bring theirs along."""
    pose = problem.pose(q)
    energy, force = problem.energy(q, pose)
    gradient, twists, wrench = problem.gradient(q, pose, force)
    if damping is None:
        damping = torch.full_like(energy, DAMPING_START)
    return Local(q, energy, gradient, *problem.matrices(q, pose, twists, wrench), damping)


def next_step(problem: ReducedProblem, at: Local, limits: PartLimits) -> Tensor:
    """The damped step [B D] from a point that stays in the limits."""
    q, low, high = at.q[:, problem.part.dofs], limits.low, limits.high
    held = ((q <= low) & (at.gradient > 0)) | ((q >= high) & (at.gradient < 0))
    newton = at.gauss_newton + at.curvature
    step, definite = damped_step(newton, at.gradient, at.damping, held, torch.zeros_like(q))
    # Where Newton's matrix is not definite its step means nothing; Gauss-Newton's matrix always is.
    matrix = torch.where(definite[:, None, None], newton, at.gauss_newton)
    target = q + step
    over = ((target < low) | (target > high)) & definite[:, None]
    # What would leave the box is put on its edge; the others make up for it.
    edge = torch.where(over, torch.minimum(torch.maximum(target, low), high) - q, torch.zeros_like(q))
    step, _ = damped_step(matrix, at.gradient, at.damping, held | over, edge)
    longest = step.abs().amax(1, keepdim=True)
    step = step * (limits.max_step / longest.clamp_min(limits.max_step))
    return torch.minimum(torch.maximum(q + step, low), high) - q


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


def learned_bend(before: Local, now: Local, bend: Tensor | None, dofs: Tensor) -> Tensor:
    """What the gradients of two visits say of the second derivative that the matrix at the later one misses, [B D D].

    The reduced problem holds the pose correctives still. The symmetric rank-one update (Nocedal and Wright, 6.24) adds
    the least that makes the matrix map the move between the visits onto the change of the true gradient.
    """
    if bend is None:
        bend = torch.zeros_like(now.curvature)
    move = (now.q - before.q)[:, dofs]
    matrix = now.gauss_newton + now.curvature + bend
    missed = now.gradient - before.gradient - (matrix @ move.unsqueeze(-1)).squeeze(-1)
    along = (missed * move).sum(1)
    # Too flat an angle between the two makes the update blow up: such a visit teaches nothing.
    useful = along.abs() > 1e-2 * missed.norm(dim=1) * move.norm(dim=1)
    scale = torch.where(useful, 1 / torch.where(useful, along, torch.ones_like(along)), torch.zeros_like(along))
    return bend + scale[:, None, None] * missed[:, :, None] * missed[:, None, :]


def minimise(
    problem: ReducedProblem, at: Local, limits: PartLimits, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `iterations` steps on the dofs of the problem's part.

    A row that took a step of at most `tolerance` in every dof, or one that hardly lowered E, stays where it is.

    Returns:
        q [B 46], the damping [B] that each row ended with, and the steps that it tried [B], int32.
    """
    done = torch.zeros_like(at.energy, dtype=torch.bool)
    tried = torch.zeros_like(at.energy, dtype=torch.int32)
    dofs = problem.part.dofs
    for index in range(iterations):
        step = next_step(problem, at, limits)
        tried = tried + (~done).int()
        q = at.q.clone()
        q[:, dofs] = at.q[:, dofs] + step
        pose = problem.pose(q)
        energy, force = problem.energy(q, pose)
        better = (energy <= at.energy) & ~done
        raised = torch.where(done, at.damping, at.damping * DAMPING_UP)
        damping = torch.where(better, at.damping * DAMPING_DOWN, raised).clamp(DAMPING_MIN, DAMPING_MAX)
        moved = step.abs().amax(1)
        little = at.energy - energy <= LITTLE * at.energy
        done = done | (better & (little | (moved <= tolerance))) | (moved <= 1e-3 * tolerance)
        # On a GPU, to ask whether all are done would make its queue wait; steps of rows that are done cost less there.
        if index + 1 == iterations or (done.device.type == "cpu" and bool(done.all())):
            return torch.where(better[:, None], q, at.q), damping, tried
        gradient, twists, wrench = problem.gradient(q, pose, force)
        gauss_newton, curvature = problem.matrices(q, pose, twists, wrench)
        at = Local(
            torch.where(better[:, None], q, at.q),
            torch.where(better, energy, at.energy),
            torch.where(better[:, None], gradient, at.gradient),
            torch.where(better[:, None, None], gauss_newton, at.gauss_newton),
            torch.where(better[:, None, None], curvature, at.curvature),
            damping,
        )
    raise ValueError("iterations start at 1")


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
