"""Rows and tables as the kernels want them: a stage's and a skeleton's records, and the state of 64 rows on their way.

Rows that are done make room for others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch

from fitting.kinematics import Kinematics, Skeleton
from fitting.lanes.quadratic import Quadratic
from fitting.lanes.state import BONES, LANES, PART, REDUCED, TREE, Record, records
from fitting.lanes.surface import LaneSurface
from fitting.mesh import gathered, stacked
from fitting.stages import (
    DAMPING_DOWN,
    DAMPING_MAX,
    DAMPING_MIN,
    DAMPING_START,
    DAMPING_UP,
    LITTLE,
    StageTables,
    monomials,
)
from fitting.surface import CORRECTED
from fitting.target import Target
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.moving_joints import MOVING_JOINTS
from hmr_skel.body.skel import Skel

_ARCS = ((11, 0), (12, 11), (13, 12))  # a joint of the spine, and where its arc begins


def tree_of(kinematics: Kinematics) -> Record:
    """`TREE`."""
    tree = records(TREE)
    for k, joint in enumerate(DOF_JOINTS):
        order = int(kinematics.dof_order[k])
        tree["unit"][0, k] = kinematics.unit[joint, order].cpu().numpy()
        tree["length"][0, k] = float(kinematics.length[joint, order])
    for name, values in (
        ("parents", SKEL_PARENTS), ("joint", DOF_JOINTS), ("corrected", CORRECTED), ("moving", MOVING_JOINTS),
        ("first", [DOF_JOINTS.index(j) for j in range(24)]), ("count", [DOF_JOINTS.count(j) for j in range(24)]),
    ):  # fmt: skip
        tree[name][0] = values
    return tree


def part_of(tables: StageTables) -> Record:
    """`PART`."""
    part, pairs = tables.part, tables.moments
    first, second = pairs.first.tolist(), pairs.second.tolist()
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
        "dofs": {"dofs": part.dofs, "prior": tables.prior, "low": tables.limits.low, "high": tables.limits.high},
        "bones": {"bones": part.bones},
        "pairs": {
            "first": first,
            "second": second,
            "here": [slots[pair] for pair in zip(first, second, strict=True)],
            "mirrored": [slots[pair] for pair in zip(second, first, strict=True)],
        },
        "sums": {"sums": sums},
        "gliding": {"gliding": part.moving},
    }.items():
        for name, values in columns.items():
            record[f"num_{count}"] = len(values)
            record[name][0, : len(values)] = torch.as_tensor(values).cpu().numpy().reshape(-1, *PART[name].shape[1:])
    record["num_slots"] = len(slots)
    record["max_step"] = tables.limits.max_step
    record["joint_weight"] = tables.joint_importance.double().cpu().numpy()
    for name, value in (
        ("little", LITTLE), ("damping_down", DAMPING_DOWN), ("damping_up", DAMPING_UP), ("damping_min", DAMPING_MIN),
        ("damping_max", DAMPING_MAX),
    ):  # fmt: skip
        record[name] = value
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


class LaneTables:
    """One stage."""

    def __init__(self, tables: StageTables, skel: Skel) -> None:
        self.stage = tables.stage
        self.correctives = tables.correctives
        self.part = part_of(tables)
        self.num_dofs = len(tables.part.dofs)
        self.surface = LaneSurface(skel, tables.surface.vertices, tables.surface.importance)
        self.moments = tables.moments.table.T.contiguous()  # [P * 16, 66]


@dataclass(frozen=True)
class Chunk:
    """Arrays end with the axis of rows."""

    row: np.ndarray  # [L] number in the batch
    live: np.ndarray  # [L] bool: False for rows that are done, and for those that only fill the chunk up
    mesh: np.ndarray  # [V 3 L] float32, the target
    anatomical: np.ndarray  # [24 3 L] float32, its anatomical joints
    bones: Record  # `BONES`
    shape: np.ndarray  # [11 L] float32: 1, betas
    moments: np.ndarray  # [P 4 4 L] float32, of the stage at hand
    q: np.ndarray  # [46 L]
    damping: np.ndarray  # [L]
    iterations: np.ndarray  # [L] int32
    last_q: np.ndarray  # [46 L] where the vertices were visited before
    last_gradient: np.ndarray  # [D L]
    bend: np.ndarray  # [K D L]
    scale: np.ndarray  # [K L]
    products: np.ndarray  # [66 L] float32, `fitting.stages.monomials` of the betas

    def at_stage(self, tables: LaneTables) -> "Chunk":
        """With the moments of a stage, and no bend learned yet."""
        size, visits = tables.num_dofs, tables.stage.refreshes
        return replace(
            self,
            moments=(tables.moments @ torch.from_numpy(self.products)).view(-1, 4, 4, LANES).numpy(),
            last_gradient=np.zeros((size, LANES)),
            bend=np.zeros((visits, size, LANES)),
            scale=np.zeros((visits, LANES)),
        )

    def problem(self, learned: int) -> Quadratic:
        """The chunk's share of the reduced problem, with the bend from the first `learned` visits."""
        return Quadratic(self.moments, self.bend[:learned], self.scale[:learned])

    def descent(self, desk: Record) -> "Descent":
        """What the steps of an early stage need of the chunk and of the problem on the desk."""
        reduced = records(REDUCED)
        for name in REDUCED.names or ():
            reduced[name] = desk[name]
        columns = {"q": self.q.copy(), "damping": self.damping.copy(), "iterations": self.iterations.copy()}
        return Descent(self.row, self.live.copy(), self.bones, self.moments, reduced=reduced, **columns)


@dataclass(frozen=True)
class Descent:
    """Rows on their way between two visits, with all that their steps need: most need few, and some many."""

    row: np.ndarray  # these as in `Chunk`
    live: np.ndarray
    bones: Record
    moments: np.ndarray
    q: np.ndarray
    damping: np.ndarray
    iterations: np.ndarray
    reduced: Record  # `REDUCED`

    def problem(self) -> Quadratic:
        nothing = np.zeros((0, LANES))
        return Quadratic(self.moments, nothing[:, None], nothing)

    def put_on(self, desk: Record) -> None:
        for name in REDUCED.names or ():
            desk[name] = self.reduced[name]


Rows = TypeVar("Rows", Chunk, Descent)


def chunks(target: Target, skeleton: Skeleton, betas: torch.Tensor, q: torch.Tensor) -> list[Chunk]:
    """A batch [B] as chunks at their start."""
    count = len(q)
    columns = {
        "row": torch.arange(count),
        "live": torch.ones(count, dtype=torch.bool),
        "anatomical": target.anatomical_joints,
        "shape": torch.cat((torch.ones_like(betas[:, :1]), betas), 1),
        "products": monomials(betas),
        "q": q,
        "damping": torch.full((count,), DAMPING_START, dtype=q.dtype),
        "iterations": torch.zeros(count, dtype=torch.int32),
        "last_q": torch.zeros_like(q),
    }
    laned = {name: stacked(values).numpy() for name, values in columns.items()}
    # Rows that only fill up the last chunk are not live.
    laned["live"].reshape(-1)[count:] = False
    mesh = target.vertices.chunks.numpy()
    bones = records(BONES, len(mesh))
    for name, values in bone_columns(skeleton).items():
        bones[name] = stacked(values).numpy()
    nothing = np.zeros((0, LANES))
    return [
        Chunk(
            mesh=mesh[c], bones=bones[c : c + 1], moments=nothing, last_gradient=nothing,
            bend=nothing, scale=nothing, **{name: values[c] for name, values in laned.items()},
        )
        for c in range(len(bones))
    ]  # fmt: skip


def closed_up(many: Sequence[Rows]) -> list[Rows]:
    """The live rows in as few chunks as they fill; the same chunks where that saves none."""
    rows = np.flatnonzero([chunk.live for chunk in many])
    if -(-len(rows) // LANES) == len(many):
        return list(many)
    kind = type(many[0])
    columns = {field.name: gathered([getattr(chunk, field.name) for chunk in many], rows) for field in fields(kind)}
    packed = [kind(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    return [
        replace(chunk, live=np.arange(LANES) < len(rows) - LANES * c)  # not those that fill up the last one
        for c, chunk in enumerate(packed)
    ]
