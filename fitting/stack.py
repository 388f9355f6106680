"""Rows and tables as the kernels want them: a stage's and a skeleton's records, and the state of rows on their way."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitting.batch import Rows, filled
from fitting.kinematics import CORRECTED, Kinematics, Skeleton
from fitting.lanes.newton import DAMPING_START
from fitting.lanes.state import BONES, LANES, PART, TREE, Record, records
from fitting.mesh import Engine, stacked
from fitting.stages import StageTables, monomials
from fitting.target import FitRows
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.moving_joints import MOVING_JOINTS
from hmr_skel.body.skel import Skel

_ARCS = ((11, 0), (12, 11), (13, 12))  # a joint of the spine, and where its arc begins


@dataclass(frozen=True)
class Records:
    """Records [C] of one layout, in the memory of a device."""

    layout: np.dtype
    memory: Tensor  # [C itemsize] uint8

    @classmethod
    def zeros(cls, layout: np.dtype, count: int, device: torch.device) -> "Records":
        return cls(layout, torch.zeros(count, layout.itemsize, dtype=torch.uint8, device=device))

    @classmethod
    def of(cls, records: np.ndarray, device: torch.device) -> "Records":
        return cls(records.dtype, torch.from_numpy(records.view(np.uint8).reshape(-1, records.itemsize)).to(device))

    @classmethod
    def laid(cls, layout: np.dtype, numbers: Tensor) -> "Records":
        """Records of float64 only, from their numbers [C N L]."""
        return cls(layout, numbers.flatten(1).view(torch.uint8))

    def numbers(self) -> Tensor:
        """[C N L] the other way round; the same memory."""
        return self.memory.view(torch.float64).unflatten(1, (-1, LANES))

    def __getitem__(self, chunks: slice | Tensor) -> "Records":
        return Records(self.layout, self.memory[chunks])

    def field(self, name: str) -> Tensor:
        """A view [C ...]."""
        known: Any = self.layout.fields
        kind, first = known[name][:2]
        item, shape = kind.subdtype or (kind, ())
        dtype = torch.from_numpy(np.empty(0, item)).dtype
        values = self.memory[:, first : first + kind.itemsize].view(dtype)
        return values.unflatten(1, shape) if shape else values.squeeze(1)


def tree_of(kinematics: Kinematics) -> Record:
    """`TREE`."""
    tree = records(TREE)
    joints = torch.tensor(DOF_JOINTS, device=kinematics.unit.device)
    for name in ("unit", "length"):
        tree[name][0] = getattr(kinematics, name)[joints, kinematics.dof_order].cpu().numpy()
    for name, values in (
        ("parents", SKEL_PARENTS), ("joint", DOF_JOINTS), ("corrected", CORRECTED), ("moving", MOVING_JOINTS),
        ("first", [DOF_JOINTS.index(j) for j in range(24)]), ("count", [DOF_JOINTS.count(j) for j in range(24)]),
    ):  # fmt: skip
        tree[name][0] = values
    return tree


def part_of(tables: StageTables) -> Record:
    """`PART`."""
    first, second = tables.first.tolist(), tables.second.tolist()
    ordered = set(zip(first, second, strict=True)) | set(zip(second, first, strict=True))
    # Moments are first summed over the second bone's ancestors, then over the first one's.
    slots: dict[tuple[int, int], int] = {pair: i for i, pair in enumerate(sorted(ordered))}
    sums = []
    for which in (1, 0):
        for bone in range(23, 0, -1):
            parent = SKEL_PARENTS[bone]
            for pair in [p for p in slots if p[which] == bone] if parent else []:
                above = (pair[0], parent) if which else (parent, pair[1])
                sums.append((slots[pair], slots.setdefault(above, len(slots))))
    record = records(PART)
    record["slots"] = -1
    for (m, n), slot in slots.items():
        record["slots"][0, m, n] = slot
    for count, columns in {
        "dofs": {name: getattr(tables, name) for name in ("dofs", "prior", "low", "high")},
        "bones": {"bones": tables.bones},
        "pairs": {
            "first": first,
            "second": second,
            "here": [slots[pair] for pair in zip(first, second, strict=True)],
            "mirrored": [slots[pair] for pair in zip(second, first, strict=True)],
        },
        "sums": {"sums": sums},
        "gliding": {"gliding": [i for i, joint in enumerate(MOVING_JOINTS) if joint in tables.bones]},
    }.items():
        for name, values in columns.items():
            record[f"num_{count}"] = len(values)
            record[name][0, : len(values)] = torch.as_tensor(values).cpu().numpy().reshape(-1, *PART[name].shape[1:])
    record["num_slots"] = len(slots)
    record["max_step"] = tables.max_step
    record["joint_weight"] = tables.joint_importance.double().cpu().numpy()
    return record


def bone_columns(skeleton: Skeleton) -> dict[str, torch.Tensor]:
    """What `BONES` holds, of [B] rows, rows first."""
    joints = skeleton.joints
    spine = torch.stack([(joints[:, j, 1] - joints[:, below, 1]).abs() for j, below in _ARCS], 1)
    columns = {
        "joints": joints,
        "offsets": skeleton.offsets,
        "frame": skeleton.dof_frame,
        "spine": spine,
        "width": (joints[:, 19] - joints[:, 14]).norm(dim=-1),
        "height": (joints[:, 12] - joints[:, 11]).norm(dim=-1),
    }
    assert columns.keys() == set(BONES.names or ())
    return columns


class StepTables:
    """One stage. `by_betas` asks its visits for derivatives by betas too."""

    def __init__(self, tables: StageTables, skel: Skel, engine: Engine, by_betas: bool) -> None:
        self.stage, self.correctives = tables.stage, tables.correctives
        self.part = Records.of(part_of(tables), tables.vertices.device)
        self.num_dofs, self.count = len(tables.dofs), len(tables.vertices)
        self.surface = engine.surface(skel, tables.vertices, tables.importance, by_betas)
        self.moments = tables.moments.T.contiguous()  # [P * 16, 66]


@dataclass(frozen=True)
class Stack(Rows):
    """The state of rows during the fit, in chunks. What fills up the last chunk is not live."""

    row: Tensor  # [C L] number in the batch
    live: Tensor  # [C L] bool: false for rows that are done, and for those that only fill a chunk up
    mesh: Tensor  # [C V 3 L] float32, the target
    anatomical: Tensor  # [C 24 3 L] float32, its anatomical joints
    bones: Tensor  # [C N L] `BONES`
    shape: Tensor  # [C 11 L] float32: 1, betas
    products: Tensor  # [C 66 L] float32, `fitting.stages.monomials` of the betas
    q: Tensor  # [C 46 L]
    damping: Tensor  # [C L]
    iterations: Tensor  # [C L] int32
    moments: Tensor  # [C P 4 4 L] float32, of the current stage
    last_q: Tensor  # [C 46 L] where the vertices were visited before
    last_gradient: Tensor  # [C D L]
    bend: Tensor  # [C K D L]
    scale: Tensor  # [C K L]

    @classmethod
    def of(cls, rows: FitRows, q: Tensor) -> "Stack":
        """A batch [B] at its start."""
        count, target, betas = len(q), rows.target, rows.betas
        number = torch.arange(-(-count // LANES) * LANES, device=q.device).view(-1, LANES)
        bones = Records.zeros(BONES, len(number), q.device)
        for name, values in bone_columns(rows.skeleton).items():
            bones.field(name).copy_(stacked(values))
        nothing = q.new_zeros(len(number), 0, LANES)
        return cls(
            row=number, live=number < count, mesh=target.vertices.chunks, anatomical=stacked(target.anatomical_joints),
            bones=bones.numbers(), shape=stacked(torch.cat((torch.ones_like(betas[:, :1]), betas), 1)),
            products=stacked(monomials(betas)), q=stacked(q),
            damping=torch.full_like(number, DAMPING_START, dtype=q.dtype),
            iterations=torch.zeros_like(number, dtype=torch.int32),
            moments=nothing, last_q=nothing, last_gradient=nothing, bend=nothing, scale=nothing,
        )  # fmt: skip

    def at_stage(self, tables: StepTables, visits: int, engine: Engine) -> "Stack":
        """The same rows with the moments of a stage, and room for the bend of so many visits."""
        count, size = len(self.q), tables.num_dofs
        return replace(
            self,
            moments=engine.products(tables.moments, self.products).unflatten(1, (-1, 4, 4)),
            last_q=torch.zeros_like(self.q),
            last_gradient=self.q.new_zeros(count, size, LANES),
            bend=self.q.new_zeros(count, visits, size, LANES),
            scale=self.q.new_zeros(count, visits, LANES),
        )

    def closed_up(self, engine: Engine) -> "Stack":
        """The live rows in as few chunks as they fill, or the same stack where that saves too little."""
        rows = self.live.flatten().nonzero().squeeze(1)
        if not engine.is_worth(len(rows), len(self.row)):
            return self
        numbers = filled(rows).view(-1, LANES)
        stack = Stack(**{f.name: engine.regrouped(getattr(self, f.name), numbers) for f in fields(Stack)})
        return replace(stack, live=torch.arange(numbers.numel(), device=rows.device).view_as(numbers) < len(rows))
