"""The solver in plain torch, for any device: a batch through all stages. The compiled one is tested against it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fitting.batch import Fitted, choose, filled, inner_box
from fitting.config import FitConfig
from fitting.kinematics import Kinematics
from fitting.reduced import ReducedProblem
from fitting.solver import ahead, largest_push, learned_bend, linearise, minimise, next_step
from fitting.stages import StageTables
from fitting.target import FitRows


@dataclass(frozen=True)
class PlainSolver:
    """Takes batches from a start to the end of the last stage."""

    config: FitConfig
    kinematics: Kinematics
    stages: tuple[StageTables, ...]
    low: Tensor  # [46] float64
    high: Tensor  # [46] float64

    def __call__(self, rows: FitRows, q: Tensor) -> Fitted:
        """All stages from a start q [B 46]."""
        iterations = torch.zeros(len(q), dtype=torch.int32, device=q.device)
        for tables in self.stages[:-1]:
            second = tables.moments.at(rows.betas)
            for _ in range(tables.stage.refreshes):
                problem, _ = self.collapse(tables, rows, second, q, tables.correctives)
                q, _, tried = minimise(
                    problem, linearise(problem, q), tables.limits, tables.stage.iterations, self.config.step_tolerance
                )
                iterations = iterations + tried
        return self._finish(rows, q, iterations)

    def _finish(self, rows: FitRows, q: Tensor, iterations: Tensor) -> Fitted:
        """The last stage. Every row is measured at the q that will be stored; rows that are done leave the batch."""
        tables, config = self.stages[-1], self.config
        second = tables.moments.at(rows.betas)
        active = torch.arange(len(q), device=q.device)
        best, damping, last, bend = None, None, None, None
        for refresh in range(tables.stage.refreshes + 1):
            q = self._as_stored(q)
            problem, squared = self.collapse(tables, rows, second, q, correctives=True)
            at = linearise(problem, q, damping)
            if last is not None:
                bend = learned_bend(last, at, bend, problem.part.dofs)
                problem = replace(problem, bend=bend)
                at = replace(at, curvature=at.curvature + bend)
            step = next_step(problem, at, tables.limits)
            further = ahead(step, at.gradient, at.energy, config.step_tolerance, config.energy_tolerance)
            distance_mm = squared.sqrt() * 1000
            here = Fitted(
                q, at.energy, distance_mm.mean(1), distance_mm.amax(1), *largest_push(q, at.gradient, self.box),
                further, iterations, torch.ones_like(iterations),
            )  # fmt: skip
            if best is None:
                best, kept = here, here
            else:
                # Moments are exact only where they were taken. A row whose E rose goes back to where it was.
                before = best[active]
                kept = replace(choose(here.energy <= before.energy, here, before), iterations=iterations)
                best = best.put(active, kept)
            going = ((kept.ahead > 1) & (here.energy <= kept.energy)).nonzero().squeeze(1)
            if refresh == tables.stage.refreshes or len(going) == 0:
                break
            if len(going) < len(active):
                going = filled(going)
                active, rows, second = active[going], rows[going], second[going]
                problem, at, iterations = problem[going], at[going], iterations[going]
                bend = None if bend is None else bend[going]
            last = at
            q, damping, tried = minimise(problem, at, tables.limits, tables.stage.iterations, config.step_tolerance)
            iterations = iterations + tried
        assert best is not None  # a stage has refreshes
        return best

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """The limits [46] of a stored q, float32."""
        return inner_box(self.low, self.high)

    def _as_stored(self, q: Tensor) -> Tensor:
        """q rounded to float32 inside its limits, as it will be stored."""
        low, high = self.box
        return torch.minimum(torch.maximum(q.float(), low), high).to(q.dtype)

    def collapse(
        self, tables: StageTables, rows: FitRows, second: Tensor, q: Tensor, correctives: bool = False
    ) -> tuple[ReducedProblem, Tensor]:
        """Visit the vertices at q: the reduced problem around it, and the squared distances [B V], m^2.

        With `correctives` its gradient there is that of E itself.
        """
        pose = self.kinematics.pose(q, rows.skeleton)
        vertices = rows.target.vertices
        if not tables.surface.whole:
            vertices = vertices[:, :, tables.surface.vertices]
        visit = tables.surface.visit(vertices, rows.betas, pose, correctives)
        # An anatomical joint is one more point, rigid on its bone.
        weight = tables.joint_importance.double()
        apart = rows.target.anatomical_joints.double() - pose.position
        energy = visit.energy + apart.square().sum(-1) @ weight
        joints = rows.skeleton.joints
        homogeneous = torch.cat((joints, torch.ones_like(joints[..., :1])), -1) * weight[:, None]
        cross = visit.cross + homogeneous.unsqueeze(-1) * apart.unsqueeze(-2)
        problem = ReducedProblem(
            tables.part, self.kinematics, rows.skeleton, tables.pairs, second,
            second.double(), cross, pose.transforms, energy, tables.prior, q,
        )  # fmt: skip
        if visit.corrective is not None:
            problem = replace(problem, tilt=problem.corrective_tilt(q, pose, visit.corrective))
        return problem, visit.squared
