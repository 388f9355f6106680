"""A batch through all stages. Some chunks of 64 rows go side by side, a stack: they visit the vertices together, and
rows that need more steps than others close up to chunks of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fitting.batch import Fitted, inner_box
from fitting.config import FitConfig
from fitting.kinematics import Kinematics
from fitting.lanes.arrive import corrective_tilt, judge, learn, pose_coefficients, pull_joints
from fitting.lanes.chunk import Chunk, Descent, LaneTables, chunks, closed_up, tree_of
from fitting.lanes.newton import minimise, next_step
from fitting.lanes.quadratic import linearise
from fitting.lanes.skeleton import pose
from fitting.lanes.state import LANES, POSED, new_desk
from fitting.lanes.surface import Room, add_up, visit
from fitting.stages import StageTables
from fitting.target import FitRows
from hmr_skel.body.skel import Skel

_STACK = 8  # chunks: their poses, sums and reduced problems stay in the cache that cores share
_TOGETHER = 5  # steps, before rows that are not done close up
_FIRST_VISITS = 2  # of the last stage: one row in a hundred needs more


class Bench:
    """One thread's memory."""

    def __init__(self) -> None:
        self.desk, self.room = new_desk(), Room(_STACK)


@dataclass(frozen=True)
class Left:
    """Rows of a batch that need more visits than others."""

    number: Tensor  # [n] in the batch
    chunks: Sequence[Chunk]  # of them, in that order


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
        self.low, self.high = (bound.numpy() for bound in inner_box(*limits))  # [46] float32

    def __call__(self, rows: FitRows, q: Tensor) -> Fitted:
        """All stages from a start q [B 46]."""
        return self.go_on([self.begin(rows, q)])[0]

    def begin(self, rows: FitRows, q: Tensor) -> tuple[Fitted, Left]:
        """All stages from a start q [B 46], and the rows that are not done after the first visits of the last."""
        many, bench = chunks(rows.target, rows.skeleton, rows.betas, q), Bench()
        for tables in self.stages[:-1]:
            many = [chunk for stack in _stacks(many) for chunk in self._advance(tables, stack, bench)]
        best = Fitted(
            q=torch.zeros(len(q), 46, dtype=torch.float64),
            energy=torch.full((len(q),), torch.inf, dtype=torch.float64),
            v2v=torch.zeros(len(q)),
            v2v_max=torch.zeros(len(q)),
            push=torch.zeros(len(q), dtype=torch.float64),
            pushed=torch.full((len(q),), -1),
            ahead=torch.full((len(q),), torch.inf, dtype=torch.float64),
            iterations=torch.zeros(len(q), dtype=torch.int32),
            starts=torch.ones(len(q), dtype=torch.int32),
        )
        many = [chunk.at_stage(self.stages[-1]) for chunk in many]
        many = self._finish(many, best, range(_FIRST_VISITS), bench)
        number = np.concatenate([np.zeros(0, np.int64), *(chunk.row[chunk.live] for chunk in many)])
        return best, Left(torch.from_numpy(number), many)

    def go_on(self, begun: Sequence[tuple[Fitted, Left]]) -> list[Fitted]:
        """The rest of the last stage, for rows of several batches together: few are left, and chunks cost the same."""
        best = Fitted.joined([found[left.number] for found, left in begun])
        many = closed_up([chunk for _, left in begun for chunk in left.chunks])
        ends = np.cumsum([0, *(chunk.live.sum() for chunk in many)])
        for chunk, first, last in zip(many, ends, ends[1:], strict=False):
            chunk.row[chunk.live] = np.arange(first, last)
        self._finish(many, best, range(_FIRST_VISITS, self.stages[-1].stage.refreshes + 1), Bench())
        parts = best.split([len(left.number) for _, left in begun])
        return [found.put(left.number, part) for (found, left), part in zip(begun, parts, strict=True)]

    def _advance(self, tables: LaneTables, stack: Sequence[Chunk], bench: Bench) -> list[Chunk]:
        """An early stage: steps on a few vertices."""
        q, tried = np.stack([chunk.q for chunk in stack]), np.stack([chunk.iterations for chunk in stack])
        here = [replace(chunk.at_stage(tables), q=q[c], iterations=tried[c]) for c, chunk in enumerate(stack)]
        for _ in range(tables.stage.refreshes):
            self.look(tables, here, bench, tables.correctives)
            left, steps = [], tables.stage.iterations
            for c, chunk in enumerate(here):
                self.settle(tables, chunk, c, bench)
                left.append(chunk.descent(bench.desk))
            while left and steps > 0:
                for descent in left:
                    of = np.flatnonzero(descent.live)
                    self._step(tables, descent, min(steps, _TOGETHER), bench)
                    chunk, lane = np.divmod(descent.row[of] - stack[0].row[0], LANES)
                    q[chunk, :, lane], tried[chunk, lane] = descent.q[:, of].T, descent.iterations[of]
                left, steps = closed_up(left), steps - _TOGETHER
        return here

    def _step(self, tables: LaneTables, descent: Descent, steps: int, bench: Bench) -> None:
        """Some steps of rows that are not done, from where their quadratic was taken or went on to."""
        descent.put_on(bench.desk)
        done = ~descent.live
        minimise(
            self.tree, tables.part, descent.bones, descent.problem(), steps, self.config.step_tolerance, descent.q,
            descent.damping, descent.iterations, done, False, bench.desk,
        )  # fmt: skip
        descent.live[:] = ~done

    def _finish(self, many: Sequence[Chunk], best: Fitted, visits: range, bench: Bench) -> Sequence[Chunk]:
        """Visits of the last stage. Rows are measured at the q that will be stored; those that are not done stay."""
        for number in visits:
            if not many:
                break
            many = closed_up([
                chunk for stack in _stacks(many) for chunk in self._measure(self.stages[-1], stack, bench, number, best)
            ])  # fmt: skip
        return many

    def _measure(
        self, tables: LaneTables, stack: Sequence[Chunk], bench: Bench, number: int, best: Fitted
    ) -> list[Chunk]:
        """Visit number `number` of the last stage, at q as it will be stored."""
        here = []
        for chunk in stack:
            q = np.clip(chunk.q.astype(np.float32), self.low[:, None], self.high[:, None]).astype(np.float64)
            here.append(replace(chunk, q=q, bend=chunk.bend.copy(), scale=chunk.scale.copy()))
        self.look(tables, here, bench, correctives=True)
        return [self._judge(tables, chunk, c, bench, number, best) for c, chunk in enumerate(here)]

    def _judge(self, tables: LaneTables, chunk: Chunk, c: int, bench: Bench, number: int, best: Fitted) -> Chunk:
        """Write into `best` what is better than before, and go on with the rest of a chunk, the stack's `c`-th."""
        config, part, size, desk, q = self.config, tables.part, tables.num_dofs, bench.desk, chunk.q
        at, problem = desk[0], chunk.problem(learned=number)
        self.settle(tables, chunk, c, bench)
        linearise(self.tree, part, chunk.bones, problem, q, desk)
        if number:
            learn(part, q, chunk.last_q, chunk.last_gradient, problem.bend[-1], problem.scale[-1], desk)
        next_step(part, q, chunk.damping, desk)
        lanes = chunk.live.nonzero()[0]
        rows = chunk.row[lanes]
        better = at["energy"][lanes] <= best.energy.numpy()[rows]
        put, of = rows[better], lanes[better]
        judge(part, q, self.low, self.high, config.step_tolerance, config.energy_tolerance, desk)
        for column, values in (
            (best.q, q.T), (best.energy, at["energy"]), (best.v2v, at["total"] / tables.surface.count * 1000),
            (best.v2v_max, at["largest"] * 1000), (best.push, at["push"]), (best.pushed, at["pushed"]),
            (best.ahead, at["ahead"]),
        ):  # fmt: skip
            column.numpy()[put] = values[of]
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
            ~going, True, desk,
        )  # fmt: skip
        return replace(
            chunk, live=going, q=q, damping=damping, iterations=tried, last_q=last_q, last_gradient=last_gradient
        )

    def look(self, tables: LaneTables, stack: Sequence[Chunk], bench: Bench, correctives: bool) -> None:
        """Visit the vertices at the q of a stack's chunks; the room then has what was seen."""
        desk, room = bench.desk, bench.room
        for c, chunk in enumerate(stack):
            pose(self.tree, chunk.bones, chunk.q, desk)
            pose_coefficients(self.tree, desk)
            desk["coefficients"][0, :11] = chunk.shape
            for name in POSED.names or ():
                room.posed[name][c] = desk[name][0]
        visit(tables.surface, [chunk.mesh for chunk in stack], correctives, room)

    def settle(self, tables: LaneTables, chunk: Chunk, c: int, bench: Bench) -> None:
        """The desk then holds the reduced problem around the q of a chunk, the `c`-th of those that were looked at."""
        desk, here = bench.desk, bench.desk[0]
        for name in ("start_energy", "total", "largest", "cross"):
            here[name][:] = 0
        add_up(bench.room.seen[c : c + 1], desk)
        here["by_rotation"][:] = bench.room.by_rotation[c]
        pose(self.tree, chunk.bones, chunk.q, desk)
        pull_joints(tables.part, chunk.bones, chunk.anatomical, desk)
        corrective_tilt(self.tree, tables.part, desk)
        here["start"][:], here["anchor"][:] = here["transforms"], chunk.q


def _stacks(many: Sequence[Chunk]) -> list[Sequence[Chunk]]:
    return [many[first : first + _STACK] for first in range(0, len(many), _STACK)]
