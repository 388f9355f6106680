"""Other starts for the rows that need them, and only for those: rows that end far from their target.

They go from halfway between the warm start and the rest pose, and from where they ended with both shoulders turned
about the axis that their first and last dof share when the arm points sideways.
"""

import torch
from torch import Tensor

from fitting.batch import Batch, filled
from fitting.fitted import Fitted, choose
from fitting.initial import initial_q
from fitting.model import FitModel
from hmr_skel.body.dofs import DOF_NAMES

_SHOULDERS = [[DOF_NAMES.index(f"shoulder_{side}_{axis}") for axis in "xyz"] for side in "rl"]
_TURN = 0.75  # rad


def tried_again(model: FitModel, rows: Batch, best: Fitted) -> Fitted:
    """The best of what was found and what other starts lead to; `starts` says how many there were."""
    far = (best.v2v > model.config.retry_v2v_mm).nonzero().squeeze(1)
    if len(far) == 0:
        return best
    few, kept = filled(far), best[far]
    rotmat, skeleton = rows.target.rotmat[few].double(), rows.skeleton[few]
    warm = initial_q(rotmat, skeleton, model.kinematics, model.low, model.high)[: len(far)]
    starts = [_inside(model, warm / 2), _inside(model, _turned(kept.q))]
    # All starts of all rows go side by side.
    number = filled(torch.arange(len(starts) * len(far), device=far.device))
    tried = model.solve(rows[far[number % len(far)]], torch.cat(starts)[number])
    for index in range(len(starts)):
        found = tried[slice(index * len(far), (index + 1) * len(far))]
        kept = choose(found.energy < kept.energy, found, kept).counting(kept.starts + 1)
    return best.put(far, kept)


def _turned(q: Tensor) -> Tensor:
    """q [B 46] with both shoulders turned."""
    q = q.clone()
    for x, y, z in _SHOULDERS:
        q[:, x] += _TURN
        q[:, z] += _TURN * q[:, y].sign()
    return q


def _inside(model: FitModel, q: Tensor) -> Tensor:
    """Within the limits, the root at rest."""
    inside = torch.minimum(torch.maximum(q, model.low), model.high)
    inside[:, :3] = 0
    return inside
