"""The floor: the least E that a long search in float64 finds, to say how far a fit is from the best there is.

Same objective, limits, betas and root as the fit that is judged. From many starts (that fit itself, rest poses, parts
of the pose undone, random ones) every row descends on a twentieth of the vertices; the lowest few that ended apart go
on with all vertices and the true gradient, until no further step would lower E. The solver is the search's own: exact
active sets, no stages, no frozen correctives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.objective import Objective
from fitting.model import FitModel
from fitting.stages import spread
from hmr_skel.body import dofs
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SkelParams, SmplParams
from hmr_skel.shapes import Float

COARSE_VERTICES = 345
KEPT = 2
"""How many different ends per row go on with all vertices, beside the fit that is judged."""
APART = 0.05
"""Ends of which no dof differs by more than this are one, rad."""
STILL = 1e-7
"""A row is at rest when a full step would lower E by less than this share of it."""
_SEED = 20230
_SCAPULAE = [k - 3 for k in (*range(46)[dofs.SCAPULA_R], *range(46)[dofs.SCAPULA_L])]
_ARMS = [k - 3 for k in (*range(46)[dofs.ARM_R], *range(46)[dofs.ARM_L])]
_TRUNK = [k - 3 for k in (*range(46)[dofs.LUMBAR], *range(46)[dofs.THORAX], *range(46)[dofs.HEAD])]
_LEGS = [k - 3 for k in (*range(46)[dofs.LEG_R], *range(46)[dofs.LEG_L])]


@dataclass(frozen=True)
class Floor:
    """Per row, on the CPU, float64. `own_` is of the fit that was judged, by the same code."""

    q: Float[Tensor, "N 46"]  # q[:, :3] = 0: the root is not part of the search
    energy: Float[Tensor, "N"]  # m^2
    v2v_mm: Float[Tensor, "N"]
    own_energy: Float[Tensor, "N"]
    own_v2v_mm: Float[Tensor, "N"]
    decrement: Float[Tensor, "N"]  # the share of E that a full step at the end would still gain

    @property
    def energy_gap_percent(self) -> Float[Tensor, "N"]:
        return 100 * (self.own_energy / self.energy - 1)

    @property
    def v2v_gap_mm(self) -> Float[Tensor, "N"]:
        """May be negative: v2v is not what is minimised."""
        return self.own_v2v_mm - self.v2v_mm


def floor_fit(
    params: SmplParams,
    fitted: SkelParams,
    smpl: Smpl,
    model: FitModel,
    *,
    random_starts: int = 4,
    coarse_iterations: int = 12,
    iterations: int = 40,
    progress: Callable[[int, int], object] | None = None,
) -> Floor:
    """Search for the least E of [N] rows.

    Args:
        params: the annotations, of `smpl`.
        fitted: the fit to be judged; its betas are the floor's.
        random_starts: how many starts are drawn at random, beside those that are not.
        coarse_iterations, iterations: steps per start on a twentieth of the vertices, then on all, at most.
        progress: called with steps done and steps in all (at most); later steps are quicker, as rows come to rest.
    """
    objective = Objective.of(params, fitted.betas, smpl, model)
    low, high = objective.low, objective.high
    own = fitted.q[:, 3:].cpu().double()
    starts = _starts(own, low, high, random_starts)
    count, total, done = len(own), coarse_iterations + iterations, 0

    def step_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    bone = model.skel.weights.argmax(1).cpu()
    coarse = objective.coarse(spread(bone, COARSE_VERTICES))
    every = torch.arange(count).repeat_interleave(starts.shape[1])
    ends, energies, _ = descend(coarse[every], starts.flatten(0, 1), coarse_iterations, 1e-4, step_done)
    done = coarse_iterations
    ends, energies = ends.unflatten(0, (count, -1)), energies.unflatten(0, (count, -1))
    rows, picked = _pick(ends, energies)
    # The judged fit goes on as it is, so that the floor is never above it.
    candidates = torch.cat((own, ends[rows, picked]))
    rows = torch.cat((torch.arange(count), rows))
    q, energy, decrement = descend(objective[rows], candidates, iterations, STILL, step_done)
    best = torch.stack([torch.where(rows == row, energy, torch.inf).argmin() for row in range(count)])
    return Floor(
        q=torch.cat((torch.zeros(count, 3, dtype=q.dtype), q[best]), 1),
        energy=energy[best],
        v2v_mm=objective.v2v_mm(q[best]),
        own_energy=objective.energy(own),
        own_v2v_mm=objective.v2v_mm(own),
        decrement=decrement[best],
    )


def _starts(own: Tensor, low: Tensor, high: Tensor, random_starts: int) -> Tensor:
    """Where the search starts from [N S 43]: one rule for every row, so that none depends on its neighbours."""
    middle = torch.where((high - low).isfinite(), (low + high) / 2, 0.0)
    half = torch.where((high - low).isfinite(), (high - low) / 2, torch.pi)
    rest = torch.zeros_like(own)
    mean = torch.tensor(dofs.HSMR_MEAN_Q[3:], dtype=own.dtype).expand_as(own)

    def with_part(part: list[int], values: Tensor) -> Tensor:
        changed = own.clone()
        changed[:, part] = values.expand_as(own)[:, part]
        return changed

    found = [own, rest, mean, own / 2, *(with_part(part, rest) for part in (_ARMS, _TRUNK, _LEGS))]
    found += [with_part(_SCAPULAE, middle + share * half) for share in (0.0, -0.9, 0.9)]
    # The other three angles of nearly the same rotation: a shoulder whose middle angle is near a right angle has two
    # neighbourhoods in the box, and no descent leads from one to the other.
    for shoulders in ([29], [39], [29, 39]):  # right, left, both
        turned = own.clone()
        for first in (k - 3 for k in shoulders):
            x, y, z = own[:, first : first + 3].unbind(1)
            flipped = torch.stack((x + torch.pi, torch.pi - y, z + torch.pi), 1)
            turns = ((flipped - middle[first : first + 3]) / (2 * torch.pi)).round()
            turned[:, first : first + 3] = flipped - 2 * torch.pi * turns
        found.append(turned)
    generator = torch.Generator().manual_seed(_SEED)
    for index in range(random_starts):
        noise = torch.randn(len(low), generator=generator, dtype=own.dtype)
        found.append(own + (0.25 + 0.25 * (index % 2)) * half * noise)
    starts = torch.stack(found, 1)
    return torch.minimum(torch.maximum(starts, low), high)


def _pick(ends: Tensor, energies: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest different ends of each row: row numbers, and numbers of the start."""
    rows, picked = [], []
    for row in range(len(ends)):
        kept: list[int] = []
        for index in energies[row].argsort().tolist():
            if all((ends[row, index] - ends[row, other]).abs().amax() > APART for other in kept):
                kept.append(index)
        # Far higher ends cannot win: the coarse mesh errs by a few per cent.
        kept = [i for i in kept if energies[row, i] < 1.25 * energies[row].min()][:KEPT]
        rows += [row] * len(kept)
        picked += kept
    return torch.tensor(rows), torch.tensor(picked)


def descend(
    objective: Objective, q: Tensor, iterations: int, still: float, step_done: Callable[[], object] = lambda: None
) -> tuple[Tensor, Tensor, Tensor]:
    """Levenberg-Marquardt in the box from q [N 43]: q, E and the last decrement. Rows are independent and leave early.

    Each step solves the damped quadratic with the dofs held that it would push out of the box; a step is taken only if
    E falls, else the damping rises.
    """
    low, high = objective.low, objective.high
    q = q.clone()
    energy, gradient, hessian = objective.derivatives(q)
    damping = torch.full_like(energy, 1e-4)
    decrement = torch.full_like(energy, torch.inf)
    active = torch.arange(len(q))
    for _ in range(iterations):
        at, g, h = q[active], gradient[active], hessian[active]
        # What a full step would gain, by the quadratic model: nothing at a minimum, in any units of the dofs.
        full = box_step(h, g, at, low, high, torch.full_like(damping[active], 1e-12))
        gain = -(2 * (g * full).sum(1) + (full.unsqueeze(1) @ h @ full.unsqueeze(2)).flatten())
        decrement[active] = gain / energy[active]
        moving = decrement[active] > still
        active, at, g, h = active[moving], at[moving], g[moving], h[moving]
        if len(active) == 0:
            break
        waiting = torch.arange(len(active))
        for _ in range(8):
            lam = damping[active[waiting]]
            trial = at[waiting] + box_step(h[waiting], g[waiting], at[waiting], low, high, lam)
            value = objective[active[waiting]].energy(trial)
            better = value < energy[active[waiting]]
            taken = active[waiting[better]]
            q[taken], energy[taken] = trial[better], value[better]
            damping[active[waiting]] = torch.where(better, lam / 10, lam * 10).clamp(1e-12, 1e8)
            waiting = waiting[~better]
            if len(waiting) == 0:
                break
        # Rows that no damping can lower are at the end of what float64 resolves.
        active = active[~torch.isin(torch.arange(len(active)), waiting)]
        if len(active) == 0:
            break
        _, gradient[active], hessian[active] = objective[active].derivatives(q[active])
        step_done()
    return q, energy, decrement


def box_step(hessian: Tensor, gradient: Tensor, q: Tensor, low: Tensor, high: Tensor, damping: Tensor) -> Tensor:
    """The step [N 43] that minimises the damped quadratic over the box, by exchange of the dofs at their limits."""
    system = hessian + torch.diag_embed(damping[:, None] * hessian.diagonal(dim1=1, dim2=2))
    below, above = low - q, high - q
    held = ((below >= 0) & (gradient > 0)) | ((above <= 0) & (gradient < 0))
    step = torch.zeros_like(q)
    for _ in range(12):
        free = ~held
        matrix = system * (free[:, :, None] & free[:, None, :]) + torch.diag_embed(held.to(q))
        right = torch.where(held, step, -gradient - (system @ (step * held).unsqueeze(2)).squeeze(2))
        trial = torch.linalg.solve(matrix, right)
        pull = gradient + (system @ trial.unsqueeze(2)).squeeze(2)  # of the quadratic, at the trial
        over = free & ((trial < below) | (trial > above))
        clipped = torch.minimum(torch.maximum(trial, below), above)
        release = held & (((clipped <= below) & (pull < 0)) | ((clipped >= above) & (pull > 0)))
        step = clipped
        if not (over | release).any():
            break
        # Rows still with dofs outside only add to the set; the others let go of what wants to leave its limit.
        adding = over.any(1, keepdim=True)
        held = torch.where(adding, held | over, held & ~release)
    return step
