"""A batch through all stages on a GPU: `fitting.lanes.descend` on all its chunks at once.

Between launches the host only says what comes next. It waits for the device where rows that are not done are to move
together: between steps, where a chunk pays for its slowest row, and between visits, which are what costs most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fitting.batch import Fitted, choose, filled, inner_box
from fitting.config import FitConfig
from fitting.gpu import device
from fitting.gpu.device import DeviceSurface, Records, products, regrouped
from fitting.kinematics import Kinematics
from fitting.lanes.chunk import bone_columns, part_of, tree_of
from fitting.lanes.state import BONES, DESK, LANES, REDUCED, SEEN
from fitting.mesh import stacked, unstacked
from fitting.stages import DAMPING_START, StageTables, monomials
from fitting.target import FitRows
from hmr_skel.body.skel import Skel

_STEPS = 4  # after this many steps, unfinished rows are collected into fewer chunks
_WORTH = 0.6  # of the chunks: regrouping into more of them takes memory, and more time than it saves


class DeviceTables:
    """One stage."""

    def __init__(self, tables: StageTables, skel: Skel) -> None:
        surface = tables.surface
        self.stage = tables.stage
        self.correctives = tables.correctives
        self.num_dofs = len(tables.part.dofs)
        self.part = Records.of(part_of(tables), surface.vertices.device)
        self.surface = DeviceSurface(skel, surface.vertices)
        self.importance = surface.importance
        self.moments = tables.moments.table.T.contiguous()  # [P * 16, 66]


@dataclass(frozen=True)
class Stack:
    """The state of rows during the fit, in chunks [C ... L]. The last chunk is padded."""

    row: Tensor  # [C L] number in the batch; for padding, the length of the batch
    mesh: Tensor  # [C V 3 L] float32, the target
    anatomical: Tensor  # [C 24 3 L] float32
    bones: Tensor  # [C N L] `BONES`
    shape: Tensor  # [C 11 L] float32: 1, betas
    q: Tensor  # [C 46 L]
    damping: Tensor  # [C L]
    iterations: Tensor  # [C L] int32
    moments: Tensor  # [C P 4 4 L] float32, of the current stage
    last_q: Tensor  # [C 46 L] q of the previous visit to the vertices
    last_gradient: Tensor  # [C D L]
    bend: Tensor  # [C K D L]
    scale: Tensor  # [C K L]

    @classmethod
    def of(cls, rows: FitRows, q: Tensor) -> "Stack":
        count, target = len(q), rows.target
        number = filled(torch.arange(count, device=q.device)).view(-1, LANES)
        bones = Records.zeros(BONES, len(number), q.device)
        for name, values in bone_columns(rows.skeleton).items():
            bones.field(name).copy_(stacked(values))
        nothing = q.new_zeros(len(number), 0, LANES)
        return cls(
            row=number.where(torch.arange(number.numel(), device=q.device).view_as(number) < count, count),
            mesh=target.vertices.chunks,
            anatomical=stacked(target.anatomical_joints),
            bones=bones.memory.view(torch.float64).unflatten(1, (-1, LANES)),
            shape=stacked(torch.cat((torch.ones_like(rows.betas[:, :1]), rows.betas), 1)),
            q=stacked(q),
            damping=torch.full_like(number, DAMPING_START, dtype=q.dtype),
            iterations=torch.zeros_like(number, dtype=torch.int32),
            moments=nothing, last_q=nothing, last_gradient=nothing, bend=nothing, scale=nothing,
        )  # fmt: skip

    def at_stage(self, tables: DeviceTables) -> "Stack":
        """The same rows at the start of a stage: with its moments, and before any bend is learned."""
        count, visits, size = len(self.q), tables.stage.refreshes, tables.num_dofs
        betas = unstacked(self.shape[:, 1:], count * LANES)
        return replace(
            self,
            moments=products(tables.moments, stacked(monomials(betas))).unflatten(1, (-1, 4, 4)),
            last_q=torch.zeros_like(self.q),
            last_gradient=self.q.new_zeros(count, size, LANES),
            bend=self.q.new_zeros(count, visits, size, LANES),
            scale=self.q.new_zeros(count, visits, LANES),
        )

    def skeletons(self) -> Records:
        return skeletons(self.bones)

    def of_rows(self, rows: Tensor, nobody: int) -> "Stack":
        """The rows of these numbers [B'] in chunk order."""
        numbers = filled(rows).view(-1, LANES)
        stack = Stack(**{f.name: regrouped(getattr(self, f.name), numbers) for f in fields(Stack)})
        stack.row.flatten()[len(rows) :] = nobody
        return stack


def skeletons(bones: Tensor) -> Records:
    """`Stack.bones` as records."""
    return Records(BONES, bones.flatten(1).view(torch.uint8))


class DeviceSolver:
    """`fitting.lanes.descend.LaneSolver` on the device of the tables that it is given."""

    def __init__(
        self, config: FitConfig, skel: Skel, kinematics: Kinematics, stages: Sequence[StageTables],
        limits: tuple[Tensor, Tensor],
    ) -> None:  # fmt: skip
        self.config = config
        self.stages = [DeviceTables(tables, skel) for tables in stages]
        self.tree = Records.of(tree_of(kinematics), limits[0].device)
        self.box = inner_box(*limits)

    def __call__(self, rows: FitRows, q: Tensor) -> Fitted:
        """All stages from a start q [B 46]."""
        stack = Stack.of(rows, q)
        desk = Records.zeros(DESK, len(stack.q), q.device)
        for tables in self.stages[:-1]:
            stack = stack.at_stage(tables)
            for _ in range(tables.stage.refreshes):
                self._visit(tables, stack, desk, tables.correctives)
                self._minimise(tables, stack, desk, len(q))
        return self._finish(stack.at_stage(self.stages[-1]), desk, len(q))

    def _visit(self, tables: DeviceTables, stack: Stack, desk: Records, correctives: bool) -> None:
        """Visit the vertices at `stack.q`, and store the reduced problem around it and the errors in the desks."""
        surface, skeletons, by_rotation = tables.surface, stack.skeletons(), desk.field("by_rotation")
        device.launch("arrive", len(stack.q), self.tree, skeletons, stack.q, stack.shape, desk)

        def look(part: slice, rest: Tensor) -> None:
            pull, seen = torch.empty_like(rest), Records.zeros(SEEN, len(rest) * surface.parts, rest.device)
            device.launch(
                "look", (len(rest), surface.parts), rest, stack.mesh[part], surface.numbers, tables.importance,
                *surface.weights, correctives, surface.parts, device.BLOCK, pull, desk[part], seen,
            )  # fmt: skip
            by_rotation[part] = -products(surface.by_pose, pull.flatten(1, 2)) if correctives else 0.0
            device.launch(
                "leave", len(rest), self.tree, tables.part, skeletons[part], stack.anatomical[part], stack.q[part],
                surface.parts, seen, desk[part],
            )  # fmt: skip

        surface.in_groups(desk.field("coefficients"), look)

    def _minimise(self, tables: DeviceTables, stack: Stack, desk: Records, nobody: int) -> None:
        """Take the steps of an early stage, in place. Now and then, collect unfinished rows into fewer chunks."""
        names = ("bones", "moments", "q", "damping", "iterations")
        place = torch.arange(stack.row.numel(), device=stack.row.device)
        moving = {name: getattr(stack, name) for name in names} | {"damping": stack.damping.clone()}
        done, at = stack.row == nobody, desk
        for first in range(0, tables.stage.iterations, _STEPS):
            if first:
                rows = (~done).flatten().nonzero().squeeze(1)
                numbers = filled(rows).view(-1, LANES)
                if len(rows) == 0:
                    break
                if len(numbers) <= _WORTH * len(done):
                    _put_back(stack, place, moving)
                    place = place[rows]
                    moving = {name: regrouped(values, numbers) for name, values in moving.items()}
                    quadratic = {name: regrouped(at.field(name), numbers) for name in REDUCED.names or ()}
                    at = desk[: len(numbers)]
                    for name, values in quadratic.items():
                        at.field(name).copy_(values)
                    done = (torch.arange(numbers.numel(), device=rows.device) >= len(rows)).view_as(numbers)
            device.launch(
                "descend", len(done), self.tree, tables.part, skeletons(moving["bones"]), moving["moments"], stack.bend,
                stack.scale, 0, min(_STEPS, tables.stage.iterations - first), self.config.step_tolerance, False,
                moving["q"], moving["damping"], moving["iterations"], done, at,
            )  # fmt: skip
        _put_back(stack, place, moving)

    def _finish(self, stack: Stack, desk: Records, count: int) -> Fitted:
        """The last stage. It measures each row at the q that will be stored, and drops rows that are finished."""
        tables, q, rows = self.stages[-1], stack.q, count + 1  # the last of which is nobody's
        best = Fitted(
            q=q.new_zeros(rows, 46), energy=q.new_full((rows,), torch.inf), v2v=stack.mesh.new_zeros(rows),
            v2v_max=stack.mesh.new_zeros(rows), push=q.new_zeros(rows), pushed=stack.row.new_full((rows,), -1),
            ahead=q.new_full((rows,), torch.inf), iterations=stack.iterations.new_zeros(rows),
            starts=stack.iterations.new_ones(rows),
        )  # fmt: skip
        low, high = (bound[:, None] for bound in self.box)
        for visit in range(tables.stage.refreshes + 1):
            stack = replace(stack, q=torch.minimum(torch.maximum(stack.q.float(), low), high).double())
            self._visit(tables, stack, desk, correctives=True)
            device.launch(
                "aim", len(stack.q), self.tree, tables.part, stack.skeletons(), stack.moments, stack.bend, stack.scale,
                visit, stack.q, stack.last_q, stack.last_gradient, stack.damping, *self.box, self.config.step_tolerance,
                self.config.energy_tolerance, desk,
            )  # fmt: skip
            going = self._note(tables, stack, desk, best)
            going_rows = going.flatten().nonzero().squeeze(1)
            if visit == tables.stage.refreshes or len(going_rows) == 0:
                break
            last_q, last_gradient = stack.q.clone(), desk.field("gradient")[:, : tables.num_dofs].clone()
            stack = replace(stack, last_q=last_q, last_gradient=last_gradient, row=stack.row.where(going, count))
            device.launch(
                "descend", len(stack.q), self.tree, tables.part, stack.skeletons(), stack.moments, stack.bend,
                stack.scale, visit, tables.stage.iterations, self.config.step_tolerance, True, stack.q, stack.damping,
                stack.iterations, ~going, desk,
            )  # fmt: skip
            if -(-len(going_rows) // LANES) <= _WORTH * len(going):
                stack = stack.of_rows(going_rows, count)
                desk = desk[: len(stack.q)]
        return best[:count]

    def _note(self, tables: DeviceTables, stack: Stack, desk: Records, best: Fitted) -> Tensor:
        """Store improved results in `best`. Returns which rows [C L] are unfinished."""
        row, names = stack.row.flatten(), ("energy", "total", "largest", "push", "pushed", "ahead")
        energy, total, largest, push, pushed, ahead = (desk.field(name).flatten() for name in names)
        # Moments are exact only where they were taken: a row whose E rose goes back to where it was.
        better = energy <= best.energy[row]
        found = Fitted(
            unstacked(stack.q, len(row)), energy, (total / tables.surface.count * 1000).float(), largest * 1000, push,
            pushed.long(), ahead, stack.iterations.flatten(), best.starts[row],
        )  # fmt: skip
        kept = replace(choose(better, found, best[row]), iterations=found.iterations)
        for name in (f.name for f in fields(Fitted)):
            getattr(best, name)[row] = getattr(kept, name)
        return (better & (ahead > 1) & (row < len(best.q) - 1)).view_as(stack.row)


def _put_back(stack: Stack, place: Tensor, moving: dict[str, Tensor]) -> None:
    """Copy q and iterations of rows back into the stack that they came from, to the places `place` [B']."""
    for name in ("q", "iterations") if moving["q"] is not stack.q else ():  # else they never left it
        by_lane = getattr(stack, name).movedim(-1, 1)
        by_lane[place // LANES, place % LANES] = unstacked(moving[name], len(place))
