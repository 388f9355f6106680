"""What the kernels of the reduced problem read and write: a stage's plan, a chunk's problem, and room to work in."""

from typing import NamedTuple

import numpy as np

from fitting.lanes.lanes import LANES
from fitting.lanes.skeleton import Scratch, scratch
from fitting.tables import StageTables
from hmr_skel.body.joints import SKEL_PARENTS


class Part(NamedTuple):
    """What a stage moves, and the order in which its moments are summed. The same for all rows."""

    dofs: np.ndarray  # [D]
    bones: np.ndarray  # [*] that move, children after their parents
    first: np.ndarray  # [P] pairs of bones m <= n that share vertices
    second: np.ndarray  # [P]
    here: np.ndarray  # [P] the slot of (m, n), and
    mirrored: np.ndarray  # [P] that of (n, m)
    sums: np.ndarray  # [S 2] from slot, to slot: additions that turn moments of bones into moments of subtrees
    slots: np.ndarray  # [24 24] the slot of a pair of joints, -1 where no vertex joins their subtrees
    gliding: np.ndarray  # [*] which of `MOVING_JOINTS` the part has
    prior: np.ndarray  # [D]


class Problem(NamedTuple):
    """A chunk's quadratic around the pose where its moments were taken."""

    moments: np.ndarray  # [P 4 4 L] float32, M
    cross: np.ndarray  # [24 3 4 L] B' transposed
    start: np.ndarray  # [24 3 4 L] G_0
    energy: np.ndarray  # [L] E_0
    anchor: np.ndarray  # [46 L]
    tilt: np.ndarray  # [D L]
    bend: np.ndarray  # [K D L] vectors v of the bend sum_i s_i v_i v_i^T
    scale: np.ndarray  # [K L] s


class Local(NamedTuple):
    """A problem seen from a point."""

    energy: np.ndarray  # [L]
    gradient: np.ndarray  # [D L]
    gauss_newton: np.ndarray  # [D (D + 1) / 2, L] float32
    curvature: np.ndarray  # the same in float64: what Newton's matrix adds


class Room(NamedTuple):
    """Scratch memory of one thread."""

    skeleton: Scratch
    moved: np.ndarray  # [24 3 4 L]
    force: np.ndarray  # [24 3 4 L]
    wrench: np.ndarray  # [24 3 4 L]
    sums: np.ndarray  # [slots 4 4 L] float32
    axis: np.ndarray  # [46 3 L] float32
    linear: np.ndarray  # [46 3 L] float32
    block: np.ndarray  # [4 4 L] float32
    moment: np.ndarray  # [3 L]
    glide: np.ndarray  # [5 3 3 L]
    vector: np.ndarray  # [46 L]


def part_of(tables: StageTables) -> Part:
    part, pairs = tables.part, tables.pairs
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
    table = np.full((24, 24), -1)
    for (m, n), slot in slots.items():
        table[m, n] = slot
    return Part(
        dofs=part.dofs.numpy(),
        bones=np.array(part.bones),
        first=np.array(first),
        second=np.array(second),
        here=np.array([slots[pair] for pair in zip(first, second, strict=True)]),
        mirrored=np.array([slots[pair] for pair in zip(second, first, strict=True)]),
        sums=np.array(sums).reshape(-1, 2),
        slots=table,
        gliding=part.moving.numpy(),
        prior=tables.prior.double().numpy(),
    )


def local(size: int) -> Local:
    """Room for the derivatives over `size` dofs."""
    packed = size * (size + 1) // 2
    return Local(
        np.zeros(LANES), np.zeros((size, LANES)), np.zeros((packed, LANES), np.float32), np.zeros((packed, LANES))
    )


def room(part: Part) -> Room:
    wide = (24, 3, 4, LANES)
    return Room(
        scratch(), np.zeros(wide), np.zeros(wide), np.zeros(wide),
        np.zeros((int(part.slots.max()) + 1, 4, 4, LANES), np.float32),
        np.zeros((46, 3, LANES), np.float32), np.zeros((46, 3, LANES), np.float32),
        np.zeros((4, 4, LANES), np.float32), np.zeros((3, LANES)), np.zeros((5, 3, 3, LANES)), np.zeros((46, LANES)),
    )  # fmt: skip
