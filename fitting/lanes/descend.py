"""A batch through all stages, 64 rows at a time: `fitting.plain.PlainSolver`, compiled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fitting.batch import Batch, inner_box
from fitting.fitted import Fitted
from fitting.lanes import newton
from fitting.lanes.arrive import corrected, corrective_tilt, learn, pose_coefficients, pull_joints
from fitting.lanes.chunk import Chunk, chunks, closed_up
from fitting.lanes.lanes import LANES
from fitting.lanes.newton import Box, minimise, next_step
from fitting.lanes.problem import Problem, local, part_of, room
from fitting.lanes.quadratic import linearise
from fitting.lanes.skeleton import pose, posed, scratch, tree_of
from fitting.lanes.surface import LaneSurface, Room, Visit, visit
from fitting.moments import monomials
from fitting.plain import PlainSolver
from fitting.solver import ahead
from fitting.tables import StageTables
from hmr_skel.body.skel import Skel


class LaneTables:
    """One stage: `fitting.tables.StageTables` as the kernels want it."""

    def __init__(self, tables: StageTables, skel: Skel) -> None:
        self.stage = tables.stage
        self.correctives = tables.correctives
        self.part = part_of(tables)
        self.vertices = tables.surface.vertices.numpy()
        self.importance = tables.surface.importance.numpy()
        self.surface = LaneSurface(skel, tables.surface.vertices)
        self.moments = tables.moments.table.T.contiguous()  # [P * 16, 66]
        self.joint_weight = tables.joint_importance.double().numpy()
        self.box = Box(tables.box.low.numpy(), tables.box.high.numpy(), tables.box.max_step)

    def start(self, chunk: Chunk) -> Chunk:
        """A chunk with this stage's moments, and nothing learned yet."""
        size, visits = len(self.part.dofs), self.stage.refreshes
        products = monomials(torch.from_numpy(chunk.shape[1:].T)).T.contiguous()
        return replace(
            chunk,
            moments=(self.moments @ products).view(-1, 4, 4, LANES).numpy(),
            last_gradient=np.zeros((size, LANES)),
            bend=np.zeros((visits, size, LANES)),
            scale=np.zeros((visits, LANES)),
        )


class _Desk:
    """One thread's scratch memory for a stage."""

    def __init__(self, tables: LaneTables) -> None:
        size = len(tables.part.dofs)
        self.posed, self.skeleton = posed(), scratch()
        self.room, self.at, self.work = room(tables.part), local(size), newton.solver(size)
        self.step = np.zeros((size, LANES))
        self.surface = Room()


@dataclass(frozen=True)
class _Bests:
    """The best point of every row so far; arrays [B ...], written in place."""

    q: np.ndarray
    energy: np.ndarray
    mean: np.ndarray
    largest: np.ndarray
    ahead: np.ndarray
    iterations: np.ndarray


class LaneSolver:
    """Takes batches from a start to the end of the last stage. Threads may share it."""

    def __init__(self, plain: PlainSolver, skel: Skel) -> None:
        self.config = plain.config
        self.stages = [LaneTables(tables, skel) for tables in plain.stages]
        self.tree, self.corrected = tree_of(plain.kinematics), corrected()
        low, high = inner_box(plain.low, plain.high)
        self.low, self.high = low.numpy()[:, None], high.numpy()[:, None]  # [46 1] float32

    def __call__(self, rows: Batch, q: Tensor) -> Fitted:
        """All stages from a start q [B 46]."""
        many = chunks(rows.target, rows.skeleton, rows.betas.numpy(), q.numpy())
        for tables in self.stages[:-1]:
            desk = _Desk(tables)
            many = [self._advance(tables, tables.start(chunk), desk) for chunk in many]
        return self._finish([self.stages[-1].start(chunk) for chunk in many], len(q))

    def _advance(self, tables: LaneTables, chunk: Chunk, desk: _Desk) -> Chunk:
        """An early stage: steps on a few vertices, all rows alike."""
        q, tried = chunk.q.copy(), chunk.iterations.copy()
        for _ in range(tables.stage.refreshes):
            damping = chunk.damping.copy()
            problem, _ = self._collapse(tables, replace(chunk, q=q), desk, tables.correctives)
            minimise(
                self.tree, tables.part, chunk.bones, problem, tables.box, tables.stage.iterations,
                self.config.step_tolerance, q, damping, tried, desk.step, False, desk.posed, desk.at, desk.room,
                desk.work,
            )  # fmt: skip
        return replace(chunk, q=q, iterations=tried)

    def _finish(self, many: Sequence[Chunk], count: int) -> Fitted:
        """The last stage. Every row is measured where it will be stored; rows that are done leave."""
        tables = self.stages[-1]
        desk = _Desk(tables)
        best = _Bests(
            np.zeros((count, 46)), np.full(count, np.inf), np.zeros(count), np.zeros(count), np.full(count, np.inf),
            np.zeros(count, np.int32),
        )  # fmt: skip
        for number in range(tables.stage.refreshes + 1):
            many = closed_up([self._visit(tables, chunk, desk, number, best) for chunk in many])
            if not many:
                break
        return Fitted(
            q=torch.from_numpy(best.q),
            energy=torch.from_numpy(best.energy),
            v2v=torch.from_numpy(best.mean * 1000).float(),
            v2v_max=torch.from_numpy(best.largest * 1000).float(),
            ahead=torch.from_numpy(best.ahead),
            iterations=torch.from_numpy(best.iterations),
            starts=torch.ones(count, dtype=torch.int32),
        )

    def _visit(self, tables: LaneTables, chunk: Chunk, desk: _Desk, number: int, best: _Bests) -> Chunk:
        """Measure a chunk where it is, write down what is better than before, and go on with the rest."""
        config, part, at = self.config, tables.part, desk.at
        q = np.minimum(np.maximum(chunk.q.astype(np.float32), self.low), self.high).astype(np.float64)
        bend, scale = chunk.bend.copy(), chunk.scale.copy()
        chunk = replace(chunk, q=q, bend=bend, scale=scale)
        problem, seen = self._collapse(tables, chunk, desk, correctives=True)
        problem = problem._replace(bend=bend[:number], scale=scale[:number])
        linearise(self.tree, part, chunk.bones, problem, q, desk.posed, at, desk.room)
        if number:
            learn(part, at, q, chunk.last_q, chunk.last_gradient, bend[number - 1], scale[number - 1])
        next_step(part, at, tables.box, q, chunk.damping, desk.step, desk.work)
        lanes = chunk.live.nonzero()[0]
        rows = chunk.row[lanes]
        better = at.energy[lanes] <= best.energy[rows]
        put, of = rows[better], lanes[better]
        best.q[put], best.energy[put] = q[:, of].T, at.energy[of]
        best.mean[put], best.largest[put] = seen.mean[of], seen.largest[of]
        step, gradient = (torch.from_numpy(values[:, of].T) for values in (desk.step, at.gradient))
        here = torch.from_numpy(at.energy[of])
        best.ahead[put] = ahead(step, gradient, here, config.step_tolerance, config.energy_tolerance).numpy()
        best.iterations[rows] = chunk.iterations[lanes]
        # Moments are exact where they are taken only: a row that they led astray stays where it was.
        going = chunk.live.copy()
        going[lanes] = better & (best.ahead[rows] > 1)
        if number == tables.stage.refreshes:
            going[:] = False
        if not going.any():
            return replace(chunk, live=going)
        last_q, last_gradient, q = q, at.gradient.copy(), q.copy()
        damping, tried = chunk.damping.copy(), chunk.iterations.copy()
        minimise(
            self.tree, part, chunk.bones, problem, tables.box, tables.stage.iterations, config.step_tolerance, q,
            damping, tried, desk.step, True, desk.posed, at, desk.room, desk.work,
        )  # fmt: skip
        return replace(
            chunk, live=going, q=q, damping=damping, iterations=tried, last_q=last_q, last_gradient=last_gradient
        )

    def _collapse(self, tables: LaneTables, chunk: Chunk, desk: _Desk, correctives: bool) -> tuple[Problem, Visit]:
        """Visit the vertices at `chunk.q`: the reduced problem around it, and what was seen."""
        at, part = desk.posed, tables.part
        pose(self.tree, chunk.bones, chunk.q, at, desk.skeleton)
        coefficients = np.empty((tables.surface.coefficients, LANES), np.float32)
        coefficients[:11] = chunk.shape
        transforms = np.empty((24, 3, 4, LANES), np.float32)
        pose_coefficients(self.tree, self.corrected, at, coefficients[11:], transforms)
        seen = visit(
            tables.surface, chunk.mesh, tables.vertices, tables.importance, coefficients, transforms, correctives,
            desk.surface,
        )  # fmt: skip
        energy, cross, tilt = seen.energy.copy(), seen.cross.copy(), np.zeros((len(part.dofs), LANES))
        pull_joints(tables.joint_weight, chunk.anatomical, chunk.bones, at, energy, cross)
        if seen.corrective is not None:
            corrective_tilt(self.tree, part, self.corrected, at, seen.corrective, tilt)
        problem = Problem(chunk.moments, cross, at.transforms.copy(), energy, chunk.q, tilt, chunk.bend, chunk.scale)
        return problem, seen
