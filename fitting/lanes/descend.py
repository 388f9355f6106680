"""A batch through all stages, 64 rows at a time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fitting.batch import Fitted, inner_box
from fitting.config import FitConfig
from fitting.kinematics import Kinematics
from fitting.lanes.arrive import corrective_tilt, learn, pose_coefficients, pull_joints
from fitting.lanes.chunk import Chunk, LaneTables, chunks, closed_up, tree_of
from fitting.lanes.newton import minimise, next_step
from fitting.lanes.quadratic import linearise
from fitting.lanes.skeleton import pose
from fitting.lanes.state import Record, new_desk
from fitting.lanes.surface import Room, visit
from fitting.solver import ahead, largest_push
from fitting.stages import StageTables
from fitting.target import FitRows
from hmr_skel.body.skel import Skel


class LaneSolver:
    """Takes batches from a start to the end of the last stage. Threads may share it."""

    def __init__(
        self,
        config: FitConfig,
        skel: Skel,
        kinematics: Kinematics,
        stages: Sequence[StageTables],
        limits: tuple[Tensor, Tensor],
    ) -> None:
        self.config = config
        self.stages = [LaneTables(tables, skel) for tables in stages]
        self.tree = tree_of(kinematics)
        self.box = inner_box(*limits)
        self.low, self.high = (bound.numpy()[:, None] for bound in self.box)  # [46 1] float32

    def __call__(self, rows: FitRows, q: Tensor) -> Fitted:
        """All stages from a start q [B 46]."""
        many = chunks(rows.target, rows.skeleton, rows.betas.numpy(), q.numpy())
        desk, room = new_desk(), Room()
        for tables in self.stages[:-1]:
            many = [self._advance(tables, chunk.at_stage(tables), desk, room) for chunk in many]
        return self._finish([chunk.at_stage(self.stages[-1]) for chunk in many], len(q), desk, room)

    def _advance(self, tables: LaneTables, chunk: Chunk, desk: Record, room: Room) -> Chunk:
        """An early stage: steps on a few vertices, all rows alike."""
        q, tried = chunk.q.copy(), chunk.iterations.copy()
        for _ in range(tables.stage.refreshes):
            self._collapse(tables, replace(chunk, q=q), desk, room, tables.correctives)
            minimise(
                self.tree, tables.part, chunk.bones, chunk.problem(learned=0), tables.stage.iterations,
                self.config.step_tolerance, q, chunk.damping.copy(), tried, False, desk,
            )  # fmt: skip
        return replace(chunk, q=q, iterations=tried)

    def _finish(self, many: Sequence[Chunk], count: int, desk: Record, room: Room) -> Fitted:
        """The last stage. Every row is measured at the q that will be stored; rows that are done leave."""
        tables = self.stages[-1]
        best = Fitted(
            q=torch.zeros(count, 46, dtype=torch.float64),
            energy=torch.full((count,), torch.inf, dtype=torch.float64),
            v2v=torch.zeros(count),
            v2v_max=torch.zeros(count),
            push=torch.zeros(count, dtype=torch.float64),
            pushed=torch.full((count,), -1),
            ahead=torch.full((count,), torch.inf, dtype=torch.float64),
            iterations=torch.zeros(count, dtype=torch.int32),
            starts=torch.ones(count, dtype=torch.int32),
        )
        for number in range(tables.stage.refreshes + 1):
            many = closed_up([self._visit(tables, chunk, desk, room, number, best) for chunk in many])
            if not many:
                break
        return best

    def _visit(self, tables: LaneTables, chunk: Chunk, desk: Record, room: Room, number: int, best: Fitted) -> Chunk:
        """Measure a chunk where it is, write into `best` what is better than before, and go on with the rest."""
        config, part, size, at = self.config, tables.part, tables.num_dofs, desk[0]
        q = np.minimum(np.maximum(chunk.q.astype(np.float32), self.low), self.high).astype(np.float64)
        chunk = replace(chunk, q=q, bend=chunk.bend.copy(), scale=chunk.scale.copy())
        problem = chunk.problem(learned=number)
        self._collapse(tables, chunk, desk, room, correctives=True)
        linearise(self.tree, part, chunk.bones, problem, q, desk)
        if number:
            learn(part, q, chunk.last_q, chunk.last_gradient, problem.bend[-1], problem.scale[-1], desk)
        next_step(part, q, chunk.damping, desk)
        lanes = chunk.live.nonzero()[0]
        rows = chunk.row[lanes]
        better = at["energy"][lanes] <= best.energy.numpy()[rows]
        put, of = rows[better], lanes[better]
        step, gradient = (torch.from_numpy(at[name][:size, of].T) for name in ("step", "gradient"))
        here = torch.from_numpy(at["energy"][of])
        further = ahead(step, gradient, here, config.step_tolerance, config.energy_tolerance)
        push, pushed = largest_push(torch.from_numpy(q[:, of].T), gradient, self.box)
        for column, values in (
            (best.q, q[:, of].T), (best.energy, here), (best.v2v, at["total"][of] / tables.surface.count * 1000),
            (best.v2v_max, at["largest"][of] * 1000), (best.push, push), (best.pushed, pushed),
            (best.ahead, further),
        ):  # fmt: skip
            column.numpy()[put] = values
        best.iterations.numpy()[rows] = chunk.iterations[lanes]
        # Moments are exact only where they were taken: a row whose E rose goes back to where it was.
        going = chunk.live.copy()
        going[lanes] = better & (best.ahead.numpy()[rows] > 1)
        if number == tables.stage.refreshes:
            going[:] = False
        if not going.any():
            return replace(chunk, live=going)
        last_q, last_gradient, q = q, at["gradient"][:size].copy(), q.copy()
        damping, tried = chunk.damping.copy(), chunk.iterations.copy()
        minimise(
            self.tree, part, chunk.bones, problem, tables.stage.iterations, config.step_tolerance, q, damping, tried,
            True, desk,
        )  # fmt: skip
        return replace(
            chunk, live=going, q=q, damping=damping, iterations=tried, last_q=last_q, last_gradient=last_gradient
        )

    def _collapse(self, tables: LaneTables, chunk: Chunk, desk: Record, room: Room, correctives: bool) -> None:
        """Visit the vertices at `chunk.q`: the desk then holds the reduced problem around it, and what was seen."""
        here = desk[0]
        pose(self.tree, chunk.bones, chunk.q, desk)
        here["coefficients"][:11] = chunk.shape
        pose_coefficients(self.tree, desk)
        visit(tables.surface, chunk.mesh, correctives, desk, room)
        pull_joints(tables.part, chunk.bones, chunk.anatomical, desk)
        corrective_tilt(self.tree, tables.part, desk)
        here["start"][:], here["anchor"][:] = here["transforms"], chunk.q
