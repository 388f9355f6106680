"""The state of 64 rows on their way through the stages, and how rows that are done make room for others."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from fitting.kinematics import Skeleton
from fitting.lanes.lanes import LANES
from fitting.lanes.mesh import LaneMesh, chunks_of, gathered
from fitting.lanes.quadratic import Problem
from fitting.lanes.state import BONES, Record, records
from fitting.lanes.tables import LaneTables, bone_columns
from fitting.moments import monomials
from fitting.solver import DAMPING_START
from fitting.target import Target


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

    def at_stage(self, tables: LaneTables) -> "Chunk":
        """With a stage's moments, and nothing learned yet."""
        size, visits = tables.num_dofs, tables.stage.refreshes
        products = monomials(torch.from_numpy(self.shape[1:].T)).T.contiguous()
        return replace(
            self,
            moments=(tables.moments @ products).view(-1, 4, 4, LANES).numpy(),
            last_gradient=np.zeros((size, LANES)),
            bend=np.zeros((visits, size, LANES)),
            scale=np.zeros((visits, LANES)),
        )

    def problem(self, learned: int) -> Problem:
        """Its share of the reduced problem, with what the first `learned` visits taught."""
        return Problem(self.moments, self.bend[:learned], self.scale[:learned])


def chunks(target: Target, skeleton: Skeleton, betas: np.ndarray, q: np.ndarray) -> list[Chunk]:
    """A batch [B] as chunks at their start."""
    assert isinstance(target.vertices, LaneMesh)
    count = len(q)
    columns = {
        "row": np.arange(count),
        "live": np.ones(count, bool),
        "anatomical": target.anatomical_joints.numpy(),
        "shape": np.concatenate((np.ones_like(betas[:, :1]), betas), 1),
        "q": q,
        "damping": np.full(count, DAMPING_START),
        "iterations": np.zeros(count, np.int32),
        "last_q": np.zeros((count, 46)),
    }
    laned = {name: chunks_of(values) for name, values in columns.items()}
    # What fills the last chunk up is nobody's.
    laned["live"].reshape(-1)[count:] = False
    bones = records(BONES, len(target.vertices.chunks))
    for name, values in bone_columns(skeleton).items():
        bones[name] = chunks_of(values)
    nothing = np.zeros((0, LANES))
    return [
        Chunk(
            mesh=target.vertices.chunks[c], bones=bones[c : c + 1], moments=nothing, last_gradient=nothing,
            bend=nothing, scale=nothing, **{name: values[c] for name, values in laned.items()},
        )
        for c in range(len(bones))
    ]  # fmt: skip


def closed_up(many: Sequence[Chunk]) -> list[Chunk]:
    """The live rows in as few chunks as they fill; the same chunks where that spares none."""
    rows = np.flatnonzero([chunk.live for chunk in many])
    if -(-len(rows) // LANES) == len(many):
        return list(many)
    columns = {field.name: gathered([getattr(chunk, field.name) for chunk in many], rows) for field in fields(Chunk)}
    packed = [Chunk(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    return [
        replace(chunk, live=np.arange(LANES) < len(rows) - LANES * c)  # what fills the last one up is nobody's
        for c, chunk in enumerate(packed)
    ]
