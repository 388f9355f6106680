"""How much arithmetic the compiled fit does: its kernels' share, which torch's own counter does not see.

Calls are counted by Python's profiling hook while a fit runs in this thread; what a call costs follows from the loops
of the kernels (an addition, a product, a sine are one each). Lanes that only fill a chunk up count: they are computed.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

import numpy as np

from fitting.lanes import newton, quadratic, surface
from fitting.lanes.mesh import LaneMesher
from fitting.lanes.state import LANES, Record
from fitting.lanes.surface import LaneSurface

_PRODUCT, _TURN = 45, 15  # a 3x3 matrix times another, times a vector
_POSE = 23 * (2 * _PRODUCT + 2 * _TURN + 9) + 43 * (6 + 3 * 26) + 10 * 15


def kernel_flops(run: Callable[[], object]) -> int:
    """Of everything that `run` computes in compiled kernels, in this thread."""
    total: Counter[str] = Counter()
    counted = {
        quadratic.linearise: _linearise,
        newton.try_step: _try_step,
        surface.visit: _visit,
        LaneMesher.__call__: _target,
    }
    # The tests' shape checker wraps functions; the frames are those of what is inside.
    watched = {inspect.unwrap(function).__code__: count for function, count in counted.items()}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in watched:
            total["flops"] += LANES * watched[frame.f_code](frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return total["flops"]


def _energy(part: Record) -> int:
    first, second = (part[name][0, : int(part["num_pairs"][0])] for name in ("first", "second"))
    pairs = len(first) + int((first != second).sum())
    return pairs * 12 * 8 + int(part["num_bones"][0]) * 12 * 4 + int(part["num_dofs"][0]) * 7


def _solve(size: int) -> int:
    """Masked matrix, Cholesky, two triangular solves."""
    return size**3 // 3 + 7 * size**2


def _linearise(names: dict) -> int:
    """With the step that always follows: two solves."""
    tree, part = names["tree"][0], names["part"][0]
    size = int(part["num_dofs"])
    joints = tree["joint"][part["dofs"][:size]]
    met = part["slots"][joints[:, None], joints[None, :]] >= 0
    entries = int(np.triu(met).sum())
    blocks = sum(len({j for j, there in zip(joints[i:], met[i, i:], strict=True) if there}) for i in range(size))
    twists = 43 * 9 + 10 * _TURN
    wrenches = int(part["num_bones"]) * (9 * 8 + 12)
    moments = int(part["num_pairs"]) * (12 * 7 + 12 * 7) + int(part["num_sums"]) * 16
    gauss_newton = blocks * 12 * 5 + entries * 14
    curvature = size * 30 + entries * 6
    bend = len(names["problem"].bend) * (size * size * 3 // 2 + 4 * size)
    return (
        _POSE + _energy(names["part"]) + twists + wrenches + size * 17 + moments + gauss_newton + curvature + bend
        + 2 * _solve(size)
    )  # fmt: skip


def _try_step(names: dict) -> int:
    return _POSE + _energy(names["part"])


def _weights(mesh: LaneSurface) -> int:
    return sum(len(block.weights.values) for block in mesh.blocks)


def _visit(names: dict) -> int:
    mesh: LaneSurface = names["surface"]
    return _weights(mesh) * 48 + mesh.count * (44 + 15 * bool(names["correctives"]))


def _target(names: dict) -> int:
    mesher: LaneMesher = names["self"]
    count = -(-len(names["betas"]) // LANES)
    return count * (_weights(mesher.surface) * 24 + mesher.surface.count * 21 + len(mesher.regressor.values) * 6)
