"""Every kernel, with arguments of the types that the fit calls it with: what is compiled, and for what."""

from typing import Any

import numpy as np

from fitting.lanes.arrive import corrective_tilt, learn, pose_coefficients, pull_joints
from fitting.lanes.lanes import LANES
from fitting.lanes.newton import _accept, _aim, _bound, _correct, _move, _solve
from fitting.lanes.quadratic import _curvature, _energy, _gauss_newton, _gradient, _sum_moments, _wrenches
from fitting.lanes.skeleton import _rotate, _shift, glide_curvatures, twists
from fitting.lanes.skin import collapse, regress, skin
from fitting.lanes.state import BONES, PART, TREE, new_desk, records


def calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """Those that take longest to compile first."""
    tree, part, bones, desk = records(TREE), records(PART), records(BONES), new_desk()
    wide, moments, mesh = _lanes(), _lanes(1, 4, 4, dtype=np.float32), _lanes(1, 3, dtype=np.float32)
    q, bend, scale = _lanes(46), _lanes(1, 1), _lanes(1)
    starts, columns, values = np.zeros(2, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32)
    transforms, turn = _lanes(24, 3, 4, dtype=np.float32), _lanes(3, 4, dtype=np.float32)
    return [
        (collapse, (mesh, mesh, columns, values, starts, columns, values, True, mesh, desk)),
        (_solve, (part, wide, desk)),
        (_rotate, (tree, bones, q, desk)),
        (_curvature, (tree, part, bend, scale, desk)),
        (_sum_moments, (part, moments, desk)),
        (twists, (tree, bones, q, desk)),
        (_gauss_newton, (tree, part, desk)),
        (_energy, (part, moments, bend, scale, q, desk, wide)),
        (corrective_tilt, (tree, part, desk)),
        (skin, (mesh, transforms, starts, columns, values, _lanes(3, dtype=np.float32), turn, mesh)),
        (glide_curvatures, (bones, q, desk)),
        (_shift, (bones, q, desk)),
        (_wrenches, (tree, part, desk)),
        (_gradient, (tree, part, bend, scale, q, desk)),
        (learn, (part, q, q, bend[0], bend[0], wide, desk)),
        (_bound, (part, q, desk)),
        (pose_coefficients, (tree, desk)),
        (pull_joints, (part, bones, _lanes(24, 3, dtype=np.float32), desk)),
        (_accept, (part, 1.0, q, wide, np.zeros(LANES, np.int32), np.zeros(LANES, bool), desk)),
        (_correct, (part, q, desk)),
        (_aim, (part, q, desk)),
        (_move, (part, q, desk)),
        (regress, (starts, columns, values, mesh, mesh)),
    ]


def _lanes(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.zeros((*shape, LANES), dtype)
