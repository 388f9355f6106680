"""Betas and root fitted beside the pose, where a recipe asks for it: ten numbers, six numbers, or all of them.

For given betas and root the pose is the solver's. What is left is the least E over poses, a function of the few others,
and a step that is to lower it must let the pose follow. So each round takes one damped Gauss-Newton step in all
unknowns at once and hands the pose that it predicts to the solver; a row keeps the end only where E fell. With refined
betas E includes `betas_weight` |betas - converted|^2. Limits hold as ever: the solver has the last word on the pose.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fitting.batch import TILE, Batch, filled, inner_box
from fitting.fitted import Fitted, choose
from fitting.kinematics import Skeleton
from fitting.model import FitModel
from fitting.slope import BETAS, POSE, ROOT, Slope
from fitting.solver import DAMPING_DOWN, DAMPING_MAX, DAMPING_MIN, DAMPING_UP, damped_step
from hmr_skel.body.rotations import rotvec_to_rotmat

ROUNDS = 6
"""At most; three or four are usual."""

_DAMPING_START = 1e-3


@dataclass(frozen=True)
class Others:
    """What is fitted beside the pose, of rows [B]. The skin of which the solver knows is v, the true one R v + s."""

    betas: Tensor  # [B 10] float32
    rotmat: Tensor  # [B 3 3] R, float64
    shift: Tensor  # [B 3] s, float64; it keeps the means of the T-poses together as betas change

    def __getitem__(self, rows: Tensor | slice) -> "Others":
        return Others(*(getattr(self, f.name)[rows] for f in fields(self)))

    def put(self, rows: Tensor, values: "Others") -> "Others":
        """With `rows` replaced."""
        return Others(*(getattr(self, f.name).index_copy(0, rows, getattr(values, f.name)) for f in fields(self)))


def refined(model: FitModel, rows: Batch, best: Fitted) -> tuple[Batch, Fitted]:
    """Better betas and roots, each with its best pose: the rows for which `best` then holds. E rises in none.

    Args:
        rows: whole tiles.
        best: the poses at their minima for the betas and the root that the rows have.
    """
    assert model.polish is not None  # else there is nothing to refine
    refiner = Refiner(model)
    others = Others(
        rows.betas,
        torch.eye(3, dtype=torch.float64, device=best.q.device).expand(len(best.q), 3, 3),
        best.q.new_zeros(len(best.q), 3),
    )
    damping = torch.full_like(best.energy, _DAMPING_START)
    further = torch.zeros_like(best.energy)
    active = torch.arange(len(best.q), device=best.q.device)
    for number in range(ROUNDS + 1):
        start, here, was = rows[active], others[active], best[active]
        step, fall = refiner.step(start, here, was.q, damping[active])
        further[active] = fall / (model.config.energy_tolerance * was.energy)
        going = (further[active] > 1).nonzero().squeeze(1)
        if number == ROUNDS or len(going) == 0:
            break
        going = filled(going)
        active, start, here, was = active[going], start[going], here[going], was[going]
        there, q = refiner.moved(here, was.q, step[going])
        found = model.polish(placed(model, start, there), q)
        tried = was.iterations + found.iterations + 1
        found = replace(found, energy=found.energy + refiner.cost(start, there))
        better = found.energy < was.energy
        best = best.put(active, replace(choose(better, found, was), iterations=tried, starts=was.starts))
        others = others.put(active[better], there[better])
        now = damping[active] * torch.where(better, DAMPING_DOWN, DAMPING_UP)
        damping[active] = now.clamp(DAMPING_MIN, DAMPING_MAX)
    return placed(model, rows, others), replace(best, ahead=torch.maximum(best.ahead, further))


def placed(model: FitModel, rows: Batch, others: Others) -> Batch:
    """Rows as the solver wants them: with the betas of `others`, its root taken out of the target."""
    target = rows.target.moved(others.rotmat.float(), others.shift.float())
    return Batch(target, others.betas, Skeleton.of(model.skel, others.betas))


class Refiner:
    """Steps in all unknowns that the recipe frees."""

    def __init__(self, model: FitModel) -> None:
        self.model, self.slope, self.weight = model, Slope(model), model.config.betas_weight
        self.fixed = torch.zeros(59, dtype=torch.bool, device=model.device)
        self.fixed[ROOT] = model.config.root != "refine"
        self.fixed[BETAS] = model.config.shape != "refine"
        self.dofs = model.stages[-1].part.dofs
        self.low, self.high = (bound[self.dofs] for bound in inner_box(model.low, model.high))

    def cost(self, rows: Batch, others: Others) -> Tensor:
        """What the betas of `others` cost [B]; those of the rows cost nothing."""
        return self.weight * (others.betas - rows.betas).double().square().sum(1)

    def step(self, rows: Batch, others: Others, q: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
        """The step [B 59] from `others` and q [B 46], and by how much E should fall [B]."""
        at = placed(self.model, rows, others)
        parts = [slice(first, first + TILE) for first in range(0, len(q), TILE)]
        found = [self.slope(at[part], q[part]) for part in parts]
        gradient, matrix = (torch.cat(values) for values in zip(*found, strict=True))
        gradient[:, BETAS] += self.weight * (others.betas - rows.betas).double()
        matrix.diagonal(dim1=1, dim2=2)[:, BETAS] += self.weight
        body, pull = q[:, self.dofs], gradient[:, POSE]
        held = ((body <= self.low) & (pull > 0)) | ((body >= self.high) & (pull < 0))
        fixed = self.fixed.repeat(len(q), 1)
        fixed[:, POSE] = held
        step, _ = damped_step(matrix, gradient, damping, fixed, torch.zeros_like(gradient))
        return step, -(gradient * step).sum(1)

    def moved(self, others: Others, q: Tensor, step: Tensor) -> tuple[Others, Tensor]:
        """Where a step [B 59] leads, the pose within its limits."""
        turn, glide, change, bend = step.split((3, 3, 10, 43), 1)
        betas = (others.betas.double() + change).float()
        turned = rotvec_to_rotmat(turn)
        pivot = Skeleton.of(self.model.skel, others.betas).joints[:, 0]
        glide = glide + pivot - (turned @ pivot.unsqueeze(-1)).squeeze(-1)
        glide = glide - (betas - others.betas).double() @ self.slope.mean
        shift = others.shift + (others.rotmat @ glide.unsqueeze(-1)).squeeze(-1)
        q = q.clone()
        q[:, self.dofs] = torch.minimum(torch.maximum(q[:, self.dofs] + bend, self.low), self.high)
        return Others(betas, others.rotmat @ turned, shift), q
