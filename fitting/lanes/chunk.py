"""The state of 64 rows on their way through the stages, and how rows that are done make room for others."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from fitting.kinematics import Skeleton
from fitting.lanes.lanes import LANES
from fitting.lanes.mesh import LaneMesh, chunks_of
from fitting.lanes.skeleton import Bones, bone_columns
from fitting.lanes.surface import gather
from fitting.solver import DAMPING_START
from fitting.target import Target


@dataclass(frozen=True)
class Chunk:
    """Arrays end with the axis of rows."""

    row: np.ndarray  # [L] number in the batch
    live: np.ndarray  # [L] bool: False for rows that are done, and for those that only fill the chunk up
    mesh: np.ndarray  # [V 3 L] float32, the target
    anatomical: np.ndarray  # [24 3 L] float32, its anatomical joints
    joints: np.ndarray  # [24 3 L] the rest skeleton, see `Bones`
    offsets: np.ndarray  # [24 3 L]
    frame: np.ndarray  # [24 3 3 L]
    spine: np.ndarray  # [3 L]
    width: np.ndarray  # [L]
    height: np.ndarray  # [L]
    shape: np.ndarray  # [11 L] float32: 1, betas
    moments: np.ndarray  # [P 4 4 L] float32, of the stage at hand
    q: np.ndarray  # [46 L]
    damping: np.ndarray  # [L]
    iterations: np.ndarray  # [L] int32
    last_q: np.ndarray  # [46 L] where the vertices were visited before
    last_gradient: np.ndarray  # [D L]
    bend: np.ndarray  # [K D L]
    scale: np.ndarray  # [K L]

    @property
    def bones(self) -> Bones:
        return Bones(self.joints, self.offsets, self.frame, self.spine, self.width, self.height)


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
    } | bone_columns(skeleton)
    laned = {name: chunks_of(values) for name, values in columns.items()}
    # What fills the last chunk up is nobody's.
    laned["live"].reshape(-1)[count:] = False
    nothing = np.zeros((0, LANES))
    return [
        Chunk(
            mesh=target.vertices.chunks[c], moments=nothing, last_gradient=nothing, bend=nothing, scale=nothing,
            **{name: values[c] for name, values in laned.items()},
        )
        for c in range(len(target.vertices.chunks))
    ]  # fmt: skip


def closed_up(many: Sequence[Chunk]) -> list[Chunk]:
    """The live rows in as few chunks as they fill; the same chunks where that spares none."""
    live = [chunk.live.nonzero()[0] for chunk in many]
    total = sum(map(len, live))
    size = -(-total // LANES)
    if size == len(many):
        return list(many)
    source = np.concatenate([np.full(len(lanes), c) for c, lanes in enumerate(live)])
    lane = np.concatenate(live)
    packed = []
    for first in range(0, total, LANES):
        picked = np.arange(first, min(first + LANES, total))
        filled = np.concatenate((picked, np.repeat(picked[:1], LANES - len(picked))))
        columns = {}
        for field in fields(Chunk):
            values = [getattr(chunk, field.name) for chunk in many]
            out = np.empty(values[0].shape, values[0].dtype)
            for c in np.unique(source[filled]):
                places = (source[filled] == c).nonzero()[0]
                gather(values[c].reshape(-1, LANES), lane[filled][places], out.reshape(-1, LANES), places)
            columns[field.name] = out
        chunk = Chunk(**columns)
        packed.append(replace(chunk, live=np.arange(LANES) < len(picked)))
    return packed
