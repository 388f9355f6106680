"""Fit SKEL to a batch of SMPL annotations, stage by stage. Rows never interact."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fitting.batch import Fitted, filled, inner_box, where
from fitting.kinematics import Skeleton
from fitting.mesh import Placed
from fitting.model import FitModel
from fitting.plausible import PUSH
from fitting.starts import initial_q, starts_again, tried_again
from fitting.target import FitRows
from hmr_skel.body.skel import root_dofs, root_transl
from hmr_skel.rows import SkelParams, SmplParams

if TYPE_CHECKING:
    from fitting.descend import Halfway

# Beyond these an annotation is not a body: the row is rejected and not fitted.
MAX_BETA, MAX_ANGLE, MAX_TRANSL = 10.0, 20.0, 1e4


class Status(IntEnum):
    """How the fit of a row ended."""

    converged = 0  # no dof would move by more than the tolerance; all are inside their limits
    at_limit = 1  # likewise, with at least one dof at its limit
    max_iterations = 2  # the steps ran out: usable, but not at the minimum
    rejected = 3  # not fitted: the input is not finite or not a body
    # These replace the statuses above:
    far = 4  # far from the annotation: `v2v_mm` is above the recipe's `far_v2v_mm`
    implausible = 5  # not far, but not a human pose: see `fitting.plausible`
    unusual_shape = 6  # neither, but hardly anybody has such a shape (`ShapeMap.is_unusual`)


@dataclass(frozen=True)
class FitResult:
    """The fits of [B] rows. Metres, radians; `_mm` and `_deg` as named. Rejected rows have NaN."""

    skel: SkelParams
    skel_gender: list[str]
    v2v_mm: Tensor  # [B] mean distance of the skin to the annotated mesh
    v2v_max_mm: Tensor  # [B]
    joint_mm: Tensor  # [B] mean distance of the anatomical joints to those regressed from the annotated mesh
    max_limit_violation_deg: Tensor  # [B]
    push: Tensor  # [B] mm^2/rad, the largest slope of E along a dof at its limit, towards the outside; 0: none
    push_dof: Tensor  # [B] index in q of that dof; -1: none
    beyond_deg: Tensor  # [B] how far the worst bone is turned beyond ordinary motion; 0: none is
    energy: Tensor  # [B] the last stage's objective, m^2, including the cost of refined betas
    iterations: Tensor  # [B] int32, steps in all stages of the kept start
    starts: Tensor  # [B] int32, number of starts
    status: Tensor  # [B] int8, `Status`
    target_joints: Tensor  # [B 24 3] SMPL's joints of the annotation
    target_points: Tensor | None  # [B K 3] the requested points of the annotated mesh
    batch: int  # rows fitted together


def fit_batch(
    params: SmplParams, model: FitModel, points: Tensor | None = None, mesh: Placed | None = None
) -> FitResult:
    """Fit SKEL to a batch of SMPL annotations on the model's device.

    Args:
        params: [B] rows, float32, in any frame. Rows that are not finite, or too large for a body, are `rejected`.
        model: from `prepare`.
        points: [K 6890] a regressor of points (such as keypoints) to return from the annotated mesh.
        mesh: [B] the meshes to fit, if they are not SMPL posed by `params`.
    """
    if not model.config.refines:
        return finish(model, [begin(params, model, points, mesh)])[0]
    from fitting.refine import refined  # loads numba, as a prepared model did

    rows, params, sound, count = _posed(params, model, points, mesh)
    best = tried_again(model, rows, model.solve(rows, initial_q(model, rows.target.rotmat, rows.skeleton)))
    if count:
        rows, best = refined(model, rows, best)
    real = slice(count)
    rows = replace(rows, target=replace(rows.target, vertices=None))[real]
    return _result(model, rows, params[real], best[real], sound[real])


@dataclass(frozen=True)
class Begun:
    """A batch on its way: most rows have their result, a few need more visits or other starts."""

    rows: FitRows  # [B] without meshes
    params: SmplParams  # [B]
    sound: Tensor  # [B]
    solved: "Halfway"  # [B] and more rows
    few: Tensor  # [n] numbers of those rows
    with_meshes: FitRows  # [n]


def begin(params: SmplParams, model: FitModel, points: Tensor | None = None, mesh: Placed | None = None) -> Begun:
    """The most of `fit_batch`, if the recipe refines nothing; `finish` does the rest, for several batches together."""
    rows, params, sound, count = _posed(params, model, points, mesh)
    solved = model.solve.begin(rows, initial_q(model, rows.target.rotmat, rows.skeleton))
    few = torch.cat((starts_again(model, solved.found), solved.number)).unique()
    few = few[few < count]  # what only fills the batch up is nobody's
    without, real = replace(rows, target=replace(rows.target, vertices=None)), slice(count)
    return Begun(without[real], params[real], sound[real], solved, few, rows[few])


def finish(model: FitModel, begun: Sequence[Begun]) -> list[FitResult]:
    """Results of batches. Rows that need more than others go on side by side, whatever batch they are of."""
    bests = model.solve.go_on([batch.solved for batch in begun])
    some = [(batch, best[batch.few]) for batch, best in zip(begun, bests, strict=True)]
    if any(len(batch.few) for batch in begun):
        tried = tried_again(
            model,
            FitRows.joined([batch.with_meshes for batch, _ in some]),
            Fitted.joined([kept for _, kept in some]),
        )
        parts = tried.split([len(batch.few) for batch in begun])
        bests = [best.put(batch.few, part) for best, batch, part in zip(bests, begun, parts, strict=True)]
    return [
        _result(model, batch.rows, batch.params, best[slice(len(batch.sound))], batch.sound)
        for batch, best in zip(begun, bests, strict=True)
    ]


def _posed(
    params: SmplParams, model: FitModel, points: Tensor | None, mesh: Placed | None
) -> tuple[FitRows, SmplParams, Tensor, int]:
    """Rows in whole tiles, with their targets; which of them are sound [B]; and how many are no filling."""
    count = len(params.betas)
    number = filled(torch.arange(count, device=model.device))
    params = params.to(model.device, torch.float32)[number]
    sound = _sound(params)
    if mesh is not None:
        mesh = mesh.to(model.device)
        if len(number) > count:
            mesh = Placed(*(values[number] for values in vars(mesh).values()))
        for values, most in ((mesh.vertices, 2 * MAX_TRANSL), (mesh.rotmat, 2.0), (mesh.place, 2 * MAX_TRANSL)):
            # By the root mean square, for which torch takes a tenth of the time of the largest. NaN is never below.
            flat = values.flatten(1)
            sound &= torch.linalg.vector_norm(flat, 2, 1) <= most * flat.shape[1] ** 0.5
        if not bool(sound.all()):
            rest = model.targets.smpl.template, torch.eye(3).to(mesh.rotmat), model.targets.smpl.joint_template[0]
            mesh = Placed(*(where(sound, *pair) for pair in zip(vars(mesh).values(), rest, strict=True)))
    # A rejected row is fitted as a T-pose: it costs little, and batches keep their shape.
    safe = SmplParams(*(where(sound, getattr(params, f.name), 0.0) for f in fields(params)))
    betas = model.shape(safe.betas)
    target = model.targets(safe, betas, points, mesh)
    return FitRows(target, betas, Skeleton.of(model.skel, betas)), safe, sound, count


def _result(model: FitModel, rows: FitRows, params: SmplParams, best: Fitted, sound: Tensor) -> FitResult:
    target, skeleton = rows.target, rows.skeleton
    low, high = inner_box(model.low, model.high)
    q = best.q.float()
    q[:, :3] = root_dofs(target.global_rotmat, skeleton.dof_frame[:, 0].float())
    transl = root_transl(
        params.transl, target.global_rotmat, target.pelvis, skeleton.joints[:, 0].float(), target.offset
    )
    pose = model.kinematics.pose(best.q, skeleton)
    joint_mm = (target.anatomical_joints - pose.position.float()).norm(dim=-1).mean(1) * 1000
    status = torch.full_like(best.iterations, Status.converged)
    status[((q <= low) | (q >= high)).any(1)] = Status.at_limit
    status[best.ahead > 1] = Status.max_iterations
    beyond = model.signs(pose.local, target.rotmat)
    status[model.shape.is_unusual(params.betas)] = Status.unusual_shape
    status[(beyond > 0) | (best.push > PUSH)] = Status.implausible
    status[best.v2v > model.config.far_v2v_mm] = Status.far
    status[~sound] = Status.rejected

    def of_sound(values: Tensor) -> Tensor:
        return where(sound, values, torch.nan)

    return FitResult(
        skel=SkelParams(of_sound(q), of_sound(rows.betas), of_sound(transl)),
        skel_gender=[model.skel_gender] * len(q),
        v2v_mm=of_sound(best.v2v),
        v2v_max_mm=of_sound(best.v2v_max),
        joint_mm=of_sound(joint_mm),
        max_limit_violation_deg=of_sound(limit_violation_deg(q, low, high)),
        push=of_sound(best.push.float() * 1e6),
        push_dof=torch.where(sound, best.pushed, -1),
        beyond_deg=of_sound(beyond.float()),
        energy=of_sound(best.energy),
        iterations=best.iterations,
        starts=best.starts,
        status=status.to(torch.int8),
        target_joints=of_sound(target.joints_world),
        target_points=None if target.points_world is None else of_sound(target.points_world),
        batch=len(q),
    )


def limit_violation_deg(q: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The largest excess over a limit [B] of q [B 46]; 0 inside."""
    excess = torch.maximum(low - q, q - high).clamp_min(0)
    return torch.rad2deg(excess.amax(1))


def _sound(params: SmplParams) -> Tensor:
    """Whether rows [B] are finite and of the size of a body."""
    limits = (("global_orient", MAX_ANGLE), ("body_pose", MAX_ANGLE), ("betas", MAX_BETA), ("transl", MAX_TRANSL))
    return torch.stack([(getattr(params, name).abs().flatten(1) <= limit).all(1) for name, limit in limits]).all(0)
