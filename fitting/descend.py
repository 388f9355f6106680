"""A batch through all stages: visits to the vertices, and steps on the reduced problem that each leaves.

An `Engine` runs the kernels, on a CPU for some chunks of 64 rows at a time, on a GPU for all at once. What comes next
is decided here, for both. The host waits for a GPU where rows that are not done move together: between steps, where a
chunk pays for its slowest row, and between visits, which are what costs most.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.batch import Fitted, filled, inner_box
from fitting.config import FitConfig
from fitting.kinematics import Kinematics
from fitting.lanes.state import BEST, BONES, LANES, POSED, REDUCED, new_desk, records
from fitting.mesh import Engine, unstacked
from fitting.stack import Records, Stack, StepTables, tree_of
from fitting.stages import StageTables
from fitting.target import FitRows
from hmr_skel.body.skel import Skel

_FIRST_VISITS = 2  # of the last stage: one row in a hundred needs more


class Room:
    """Memory for chunks that visit the vertices together."""

    def __init__(self, chunks: int, desks: int, device: torch.device) -> None:
        self.desk = Records.of(new_desk(), device)
        self.desk = Records(self.desk.layout, self.desk.memory.repeat(min(chunks, desks), 1))
        self.posed, self.reduced = (Records.zeros(layout, chunks, device) for layout in (POSED, REDUCED))
        self.by_basis = torch.zeros(chunks, 10 + 9 * 19, LANES, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class Halfway:
    """A batch after the first visits of the last stage."""

    best: Records  # [B] `BEST`
    left: Stack  # the rows that need more visits

    @property
    def number(self) -> Tensor:
        """Of these rows in the batch [n]."""
        return self.left.row[self.left.live]

    @property
    def found(self) -> Fitted:
        """The best so far [B]."""
        return _fitted(self.best)


class Solver:
    """Takes batches from a start to the end of the last stage. Threads may share it."""

    def __init__(
        self,
        config: FitConfig,
        skel: Skel,
        kinematics: Kinematics,
        stages: Sequence[StageTables],
        limits: tuple[Tensor, Tensor],
        engine: Engine,
    ) -> None:
        self.config, self.engine = config, engine
        self.stages = [StepTables(tables, skel, engine, config.refines) for tables in stages]
        self.tree = Records.of(tree_of(kinematics), limits[0].device)
        self.box = inner_box(*limits)  # [46] float32

    def __call__(self, rows: FitRows, q: Tensor, early: bool = True) -> Fitted:
        """All stages from a start q [B 46], or without the `early` ones only the last."""
        return self.go_on([self.begin(rows, q, early)])[0]

    def begin(self, rows: FitRows, q: Tensor, early: bool = True) -> Halfway:
        """The same, but of the last stage only the visits that most rows need."""
        stack = Stack.of(rows, q)
        room = self.room(stack)
        for tables in self.stages[:-1] if early else ():
            for some in self._together(stack):
                here = some.at_stage(tables, 0, self.engine)
                for _ in range(tables.stage.refreshes):
                    self.visit(tables, here, room, tables.correctives)
                    self._descend(tables, here, room)
        best = records(BEST, len(q))
        best["energy"], best["ahead"], best["pushed"] = torch.inf, torch.inf, -1
        best = Records.of(best, q.device)
        last = self.stages[-1]
        stack = stack.at_stage(last, last.stage.refreshes, self.engine)
        return Halfway(best, self._finish(stack, best, range(_FIRST_VISITS), room))

    def go_on(self, begun: Sequence[Halfway]) -> list[Fitted]:
        """The rest of the last stage, for rows of several batches together: few are left, and chunks cost the same."""
        numbers = [batch.number for batch in begun]
        found = [batch.best.memory[number] for batch, number in zip(begun, numbers, strict=True)]
        best = Records(BEST, torch.cat(found))
        stack = Stack.joined([batch.left for batch in begun])
        stack.row[stack.live] = torch.arange(len(best.memory), device=stack.row.device)
        stack = stack.closed_up(self.engine)
        self._finish(stack, best, range(_FIRST_VISITS, self.stages[-1].stage.refreshes + 1), self.room(stack))
        parts = best.memory.split([len(number) for number in numbers])
        return [
            _fitted(Records(BEST, batch.best.memory.index_copy(0, number, part)))
            for batch, number, part in zip(begun, numbers, parts, strict=True)
        ]

    def room(self, stack: Stack) -> Room:
        """For the chunks of this stack that go together."""
        return Room(min(len(stack.row), self.engine.together), self.engine.desks, stack.row.device)

    def _together(self, stack: Stack) -> Iterator[Stack]:
        """The chunks that visit the vertices together."""
        for first in range(0, len(stack.row), self.engine.together):
            yield stack[first : first + self.engine.together]

    def visit(self, tables: StepTables, stack: Stack, room: Room, correctives: bool) -> None:
        """Visit the vertices at the q of some chunks; the room then has the reduced problem around it."""
        count, launch, bones = len(stack.row), self.engine.launch, stack.bones
        posed, by_basis = room.posed[:count], room.by_basis[:count]
        launch("arrive", count, self.tree, Records.laid(BONES, bones), stack.q, stack.shape, posed, room.desk)
        for some, parts, seen in tables.surface.visit(stack.mesh, posed, correctives, by_basis):
            launch(
                "settle", some.stop - some.start, self.tree, tables.part, Records.laid(BONES, bones[some]),
                stack.anatomical[some], stack.q[some], parts, seen, by_basis[some], room.desk[some],
                room.reduced[some],
            )  # fmt: skip

    def _descend(self, tables: StepTables, stack: Stack, room: Room) -> None:
        """Take the steps of an early stage, in place. Now and then, rows that are not done close up to fewer chunks."""
        place = torch.arange(stack.row.numel(), device=stack.row.device)
        moving = {name: getattr(stack, name) for name in ("bones", "moments", "q", "iterations")}
        moving |= {"damping": stack.damping.clone(), "reduced": room.reduced[: len(stack.row)].numbers()}
        done, steps = ~stack.live, tables.stage.iterations
        for first in range(0, steps, self.engine.steps):
            if first:
                rows = (~done).flatten().nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                if self.engine.is_worth(len(rows), len(done)):
                    numbers = filled(rows).view(-1, LANES)
                    _put_back(stack, place, moving)
                    place = place[rows]
                    moving = {name: self.engine.regrouped(values, numbers) for name, values in moving.items()}
                    done = (torch.arange(numbers.numel(), device=rows.device) >= len(rows)).view_as(numbers)
            self.engine.launch(
                "descend", len(done), self.tree, tables.part, Records.laid(BONES, moving["bones"]), moving["moments"],
                stack.bend[: len(done)], stack.scale[: len(done)], Records.laid(REDUCED, moving["reduced"]),
                min(self.engine.steps, steps - first), self.config.step_tolerance, moving["q"], moving["damping"],
                moving["iterations"], done, room.desk,
            )  # fmt: skip
        _put_back(stack, place, moving)

    def _finish(self, stack: Stack, best: Records, visits: range, room: Room) -> Stack:
        """Visits of the last stage, with steps after each. Returns the rows that are still not done.

        Rows are measured at the q that will be stored.
        """
        tables, config, (low, high) = self.stages[-1], self.config, self.box
        for visit in visits:
            if not len(stack.row):
                break
            for some in self._together(stack):
                some.q.copy_(torch.minimum(torch.maximum(some.q.float(), low[:, None]), high[:, None]))
                self.visit(tables, some, room, correctives=True)
                self.engine.launch(
                    "measure", len(some.row), self.tree, tables.part, Records.laid(BONES, some.bones), some.moments,
                    some.bend, some.scale, room.reduced, visit, tables.stage.iterations, config.step_tolerance,
                    config.energy_tolerance, low, high, tables.count, visit == tables.stage.refreshes, some.q,
                    some.damping, some.iterations, some.row, some.live, torch.empty_like(some.live), some.last_q,
                    some.last_gradient, best, room.desk,
                )  # fmt: skip
            stack = stack.closed_up(self.engine)
        return stack


def _put_back(stack: Stack, place: Tensor, moving: dict[str, Tensor]) -> None:
    """Copy q and iterations of rows back into the stack that they came from, to the places `place` [B']."""
    for name in ("q", "iterations") if moving["q"] is not stack.q else ():  # else they never left it
        by_lane = getattr(stack, name).movedim(-1, 1)
        by_lane[place // LANES, place % LANES] = unstacked(moving[name], len(place))


def _fitted(best: Records) -> Fitted:
    columns = {name: best.field(name) for name in BEST.names or ()}
    return Fitted(**columns, starts=torch.ones_like(columns["iterations"]))
