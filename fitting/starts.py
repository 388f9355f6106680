"""The starts of a fit: from SMPL's pose, and from other poses for rows that ended far from their target.

The first start goes down SKEL's tree and gives each joint the angles that best reproduce the rotation of SMPL's bone.
Both bodies have identity bone rotations in the T-pose, so world rotations can be compared directly. A joint with three
dofs gets Euler angles, on the branch that violates the limits least; a joint with one dof gets the best angle about its
axis. Angles are clamped to the limits on the way down, so that children compensate what their parent cannot reach.
"""

from dataclasses import replace
from math import pi

import torch
from torch import Tensor

from fitting.batch import Fitted, choose, filled
from fitting.kinematics import Skeleton
from fitting.model import FitModel
from fitting.target import FitRows
from hmr_skel.body import dofs
from hmr_skel.body.dofs import DOF_JOINTS, DOF_NAMES, DOFS
from hmr_skel.body.joints import SKEL_PARENTS, SKEL_TO_SMPL

# The hand has two dofs; a third axis completes the Euler angles, and its angle is dropped.
_HAND_THIRD_AXIS = (0.0, 1.0, 0.0)
_SHOULDERS = [[DOF_NAMES.index(f"shoulder_{side}_{axis}") for axis in "xyz"] for side in "rl"]
_TURN = 0.75  # rad
_HIPS = [DOF_NAMES.index(f"hip_{motion}_{side}") for side in "rl" for motion in ("flexion", "adduction", "rotation")]
_TURNED_OUT = (1.0, -0.5, -1.0)  # rad: a hip flexed, abducted and turned outwards

# Rows from this share of `FitConfig.retry_v2v_mm` may be in a wrong basin if a limit pushes (m^2/rad): any limit that
# pushes hard, or one of the trunk, whose joints can bend and twist to either side when they cannot fold further.
_NEAR, _HARD, _TRUNK, _TRUNK_DOFS = 0.75, 1e-3, 1.5e-4, slice(dofs.LUMBAR.start, dofs.THORAX.stop)


def initial_q(model: FitModel, smpl_rotmat: Tensor, skeleton: Skeleton) -> Tensor:
    """q [B 46] float64 with q[:, :3] = 0 and the rest within the limits.

    Args:
        model: from `fitting.prepare`.
        smpl_rotmat: [B 24 3 3] world rotations of SMPL's bones in the pelvis's frame.
        skeleton: [B] rest skeletons.
    """
    smpl_rotmat, kinematics, low, high = smpl_rotmat.double(), model.kinematics, model.low, model.high
    q = torch.zeros(len(smpl_rotmat), len(DOFS), dtype=smpl_rotmat.dtype, device=smpl_rotmat.device)
    world: list[Tensor] = [smpl_rotmat[:, 0]] * 24
    for joint in range(1, 24):
        own = slice(DOF_JOINTS.index(joint), DOF_JOINTS.index(joint) + DOF_JOINTS.count(joint))
        axes = [dof.axis for dof in DOFS[own]]
        frame = skeleton.dof_frame[:, joint]
        parent = world[SKEL_PARENTS[joint]]
        # L = N P N^T should be R_parent^T R.
        wanted = frame.mT @ parent.mT @ smpl_rotmat[:, SKEL_TO_SMPL[joint]] @ frame
        if len(axes) == 1:
            axis, length = kinematics.unit[joint, 0], kinematics.length[joint, 0]
            angles = _angle_about(axis, wanted)[:, None] / length
            angles = _nearest_turn(angles, low[own], high[own])
        else:
            three = [*axes, _HAND_THIRD_AXIS][:3]
            angles = _euler(three, wanted, low[own], high[own])[:, : len(axes)]
        angles = torch.minimum(torch.maximum(angles, low[own]), high[own])
        q[:, own] = angles
        product = torch.eye(3, dtype=q.dtype, device=q.device)
        for order in range(len(axes)):
            angle = angles[:, order, None, None] * kinematics.length[joint, order]
            rotation = angle.sin() * kinematics.skew[joint, order]
            rotation = rotation + (1 - angle.cos()) * kinematics.skew_squared[joint, order]
            rotation.diagonal(dim1=-2, dim2=-1).add_(1)
            product = rotation @ product
        world[joint] = parent @ frame @ product @ frame.mT
    return q


def tried_again(model: FitModel, rows: FitRows, best: Fitted) -> Fitted:
    """For each row, the better of `best` and the results of other starts; `starts` counts them.

    Rows start again if they ended far from their target, or less far while a limit holds them back. The starts are:
    half way between the first start and the rest pose; the first result with both shoulders turned about the axis that
    their first and last dof share when the arm points sideways; and the first start with the hips flexed and turned
    out, since hips can reach thighs far out to the sides in two ways.
    """
    far = starts_again(model, best)
    if len(far) == 0:
        return best
    few, kept = filled(far), best[far]
    warm = initial_q(model, rows.target.rotmat[few], rows.skeleton[few])[: len(far)]
    hips = warm.clone()
    for dof, angle in zip(_HIPS, _TURNED_OUT * 2, strict=True):
        hips[:, dof] = angle
    starts = [_inside(model, q) for q in (warm / 2, _turned(kept.q), hips)]
    # All starts of all rows are fitted together.
    number = filled(torch.arange(len(starts) * len(far), device=far.device))
    tried = model.solve(rows[far[number % len(far)]], torch.cat(starts)[number])
    for index in range(len(starts)):
        found = tried[slice(index * len(far), (index + 1) * len(far))]
        kept = replace(choose(found.energy < kept.energy, found, kept), starts=kept.starts + 1)
    return best.put(far, kept)


def starts_again(model: FitModel, best: Fitted) -> Tensor:
    """Numbers of the rows that ended far from their target, or at some distance where a limit pushes hard."""
    trunk = (best.pushed >= _TRUNK_DOFS.start) & (best.pushed < _TRUNK_DOFS.stop)
    pushed = best.push > torch.where(trunk, _TRUNK, _HARD)
    bound = torch.where(pushed, _NEAR, 1.0) * model.config.retry_v2v_mm
    return (best.v2v > bound).nonzero().squeeze(1)


def _angle_about(axis: Tensor, rotmat: Tensor) -> Tensor:
    """The angle about `axis` [3] whose rotation is nearest to `rotmat` [B 3 3]."""
    odd = rotmat - rotmat.mT
    vee = torch.stack((odd[:, 2, 1], odd[:, 0, 2], odd[:, 1, 0]), -1)
    trace = rotmat.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(vee @ axis, trace - torch.einsum("i,bij,j->b", axis, rotmat, axis))


def _euler(axes: list[tuple[float, float, float]], rotmat: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Angles [B 3], first applied first, of Rot(axis_3) Rot(axis_2) Rot(axis_1) = rotmat. Axes are signed units."""
    index = [max(range(3), key=lambda i, a=axis: abs(a[i])) for axis in axes]
    sign = [axis[i] for axis, i in zip(axes, index, strict=True)]
    i2, i1, i0 = index
    even = 1.0 if (i0, i1) in ((0, 1), (1, 2), (2, 0)) else -1.0
    middle = torch.asin((even * rotmat[:, i0, i2]).clamp(-1, 1))
    last = torch.atan2(-even * rotmat[:, i1, i2], rotmat[:, i2, i2])
    first = torch.atan2(-even * rotmat[:, i0, i1], rotmat[:, i0, i0])
    # The second solution: both outer angles plus pi, the middle one reflected.
    near, far = (
        _nearest_turn(torch.stack([s * angle for s, angle in zip(sign, angles, strict=True)], -1), low, high)
        for angles in ((first, middle, last), (first + pi, pi - middle, last + pi))
    )
    better = _violation(near, low, high) <= _violation(far, low, high)
    return torch.where(better[:, None], near, far)


def _nearest_turn(angles: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Shift angles by whole turns to the nearest to the middle of their range."""
    count = low.shape[-1]
    # Without limits, take the turn nearest to rest.
    middle = torch.where((high - low).isfinite(), (low + high) / 2, 0.0)
    shifted = angles.clone()
    shifted[:, :count] -= 2 * pi * torch.round((angles[:, :count] - middle) / (2 * pi))
    return shifted


def _violation(angles: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The sum of squares [B] of how far the angles are outside their limits."""
    bounded = angles[:, : low.shape[-1]]
    return ((low - bounded).clamp_min(0) + (bounded - high).clamp_min(0)).square().sum(-1)


def _turned(q: Tensor) -> Tensor:
    """q [B 46] with both shoulders turned."""
    q = q.clone()
    for x, y, z in _SHOULDERS:
        q[:, x] += _TURN
        q[:, z] += _TURN * q[:, y].sign()
    return q


def _inside(model: FitModel, q: Tensor) -> Tensor:
    """q inside the limits, with the root at rest."""
    inside = torch.minimum(torch.maximum(q, model.low), model.high)
    inside[:, :3] = 0
    return inside
