"""SMPL annotations to SKEL: one batch through the stages. Arrays in, arrays out; rows never interact."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fitting import root
from fitting.initial import initial_q
from fitting.kinematics import Skeleton
from fitting.model import FitModel, StageTables
from fitting.quality import Status, limit_violation_deg
from fitting.reduced import ReducedProblem
from fitting.solver import learned_bend, linearise, minimise, next_step
from fitting.target import Target
from hmr_skel.rows import SkelParams, SmplParams

# Beyond these an annotation is no body: the row is rejected, not fitted.
MAX_BETA, MAX_ANGLE, MAX_TRANSL = 10.0, 20.0, 1e4

# Batches are filled up to a multiple of this. BLAS hands odd rows and small batches to other kernels, which add up in
# another order; flat valleys of E (a shoulder near gimbal lock) make 1e-2 rad of those last bits. In whole tiles a row
# comes out the same in any batch.
_TILE = 64


@dataclass(frozen=True)
class FitResult:
    """Per row. Metres, radians; `_mm` and `_deg` as named. A rejected row holds NaN."""

    skel: SkelParams
    skel_gender: list[str]
    v2v_mm: Tensor  # [B] mean distance of the skin to the annotated mesh
    v2v_max_mm: Tensor  # [B]
    joint_mm: Tensor  # [B] mean distance of the anatomical joints to those regressed from the annotated mesh
    max_limit_violation_deg: Tensor  # [B]
    energy: Tensor  # [B] the last stage's objective, m^2
    iterations: Tensor  # [B] int32, steps tried in all stages of the start that was kept
    starts: Tensor  # [B] int32, how many starts were tried
    status: Tensor  # [B] int8, `Status`
    target_joints: Tensor  # [B 24 3] SMPL's joints of the annotation
    target_points: Tensor | None  # [B K 3] points of the annotated mesh, where asked for
    batch: int  # rows fitted together


def fit_batch(params: SmplParams, model: FitModel, points: Tensor | None = None) -> FitResult:
    """Fit SKEL to a batch of SMPL annotations on the model's device.

    Args:
        params: [B] rows, float32, in any frame. Rows that are not finite or beyond belief come back `rejected`.
        model: from `prepare`.
        points: [K 6890] asks for points of the annotated mesh (keypoints, say) beside the fit.
    """
    count = len(params.betas)
    params = params.to(model.device, torch.float32)[_filled(torch.arange(count, device=model.device))]
    sound = _sound(params)
    # A rejected row is fitted as a T-pose: it costs little, and batches keep their shape.
    safe = SmplParams(*(_where(sound, getattr(params, f.name), 0.0) for f in fields(params)))
    betas = model.shape(safe.betas)
    target = model.targets(safe, betas, points)
    skeleton = Skeleton.of(model.skel, betas)
    problem = _Rows(model, target, betas, skeleton)
    q = initial_q(target.rotmat.double(), skeleton, model.kinematics, model.low, model.high)
    best = _descend(problem, q)
    best = _retry(problem, best)
    real = slice(count)
    return _result(problem[real], safe[real], _take(best, real), sound[real])


@dataclass(frozen=True)
class _Rows:
    """What is known of the rows being fitted."""

    model: FitModel
    target: Target
    betas: Tensor  # [B 10] of SKEL
    skeleton: Skeleton

    def __getitem__(self, rows: Tensor | slice) -> "_Rows":
        return _Rows(self.model, self.target[rows], self.betas[rows], self.skeleton[rows])


@dataclass(frozen=True)
class _Fitted:
    """Where the stages led, with the distances there."""

    q: Tensor  # [B 46] float32 numbers in the solver's dtype, q[:, :3] = 0
    energy: Tensor  # [B]
    v2v: Tensor  # [B] mm
    v2v_max: Tensor  # [B] mm
    step: Tensor  # [B] rad, the largest change of a dof that one more step would bring
    iterations: Tensor  # [B]
    starts: Tensor  # [B]


def _descend(rows: _Rows, q: Tensor) -> _Fitted:
    """All stages from a start."""
    config = rows.model.config
    iterations = torch.zeros(len(q), dtype=torch.int32, device=q.device)
    for tables in rows.model.stages[:-1]:
        second = tables.moments.at(rows.betas)
        for _ in range(tables.stage.refreshes):
            problem, _ = _collapse(tables, rows, second, q)
            q, _, tried = minimise(
                problem, linearise(problem, q), tables.box, tables.stage.iterations, config.step_tolerance
            )
            iterations = iterations + tried
    return _finish(rows, q, iterations)


def _finish(rows: _Rows, q: Tensor, iterations: Tensor) -> _Fitted:
    """The last stage. Every row is measured where it will be stored; rows that need no further step leave the batch."""
    model, tables = rows.model, rows.model.stages[-1]
    second = tables.moments.at(rows.betas)
    active = torch.arange(len(q), device=q.device)
    best, damping, last, bend = None, None, None, None
    for refresh in range(tables.stage.refreshes + 1):
        q = _as_stored(q, model)
        problem, squared = _collapse(tables, rows, second, q, correctives=True)
        at = linearise(problem, q, damping)
        if last is not None:
            bend = learned_bend(last, at, bend, problem.part.dofs)
            problem = replace(problem, bend=bend)
            at = replace(at, curvature=at.curvature + bend)
        ahead = next_step(problem, at, tables.box).abs().amax(1)
        distance_mm = squared.sqrt() * 1000
        here = _Fitted(
            q, at.energy, distance_mm.mean(1), distance_mm.amax(1), ahead, iterations, torch.ones_like(iterations)
        )
        if best is None:
            best, kept = here, here
        else:
            # Moments are exact where they are taken only. A row that they led astray stays where it was.
            before = _take(best, active)
            kept = replace(_choose(here.energy <= before.energy, here, before), iterations=iterations)
            best = _put(best, active, kept)
        going = ((kept.step > model.config.step_tolerance) & (here.energy <= kept.energy)).nonzero().squeeze(1)
        if refresh == tables.stage.refreshes or len(going) == 0:
            break
        if len(going) < len(active):
            going = _filled(going)
            active, rows, second = active[going], rows[going], second[going]
            problem, at, iterations = problem[going], at[going], iterations[going]
            bend = None if bend is None else bend[going]
        last = at
        q, damping, tried = minimise(problem, at, tables.box, tables.stage.iterations, model.config.step_tolerance)
        iterations = iterations + tried
    assert best is not None  # a stage has refreshes
    return best


def _as_stored(q: Tensor, model: FitModel) -> Tensor:
    """q rounded to float32 inside its limits: what is measured is what is stored."""
    low, high = _float32_box(model.low, model.high)
    return torch.minimum(torch.maximum(q.float(), low), high).to(q.dtype)


def _collapse(
    tables: StageTables, rows: _Rows, second: Tensor, q: Tensor, correctives: bool = False
) -> tuple[ReducedProblem, Tensor]:
    """Visit the vertices at q: the reduced problem around it, and the squared distances [B V], m^2.

    With `correctives` its gradient there is that of E itself.
    """
    model = rows.model
    pose = model.kinematics.pose(q, rows.skeleton)
    vertices = rows.target.vertices
    if not tables.surface.whole:
        vertices = vertices[:, :, tables.surface.vertices]
    visit = tables.surface.visit(vertices, rows.betas, pose, correctives)
    # An anatomical joint is one more point, rigid on its bone.
    weight = tables.joint_importance.double()
    apart = rows.target.anatomical_joints.double() - pose.position
    energy = visit.energy + apart.square().sum(-1) @ weight
    joints = rows.skeleton.joints
    homogeneous = torch.cat((joints, torch.ones_like(joints[..., :1])), -1) * weight[:, None]
    cross = visit.cross + homogeneous.unsqueeze(-1) * apart.unsqueeze(-2)
    problem = ReducedProblem(
        tables.part, model.kinematics, rows.skeleton, tables.pairs, second,
        second.double(), cross, pose.transforms, energy, tables.prior, q,
    )  # fmt: skip
    if visit.corrective is not None:
        problem = replace(problem, tilt=problem.corrective_tilt(q, pose, visit.corrective))
    return problem, visit.squared


def _retry(rows: _Rows, best: _Fitted) -> _Fitted:
    """Rows that are still far away start again: from the other Euler branch, and from halfway to the rest pose."""
    model = rows.model
    far = (best.v2v > model.config.retry_v2v_mm).nonzero().squeeze(1)
    if len(far) == 0:
        return best
    far = _filled(far)
    few = rows[far]
    warm = initial_q(few.target.rotmat.double(), few.skeleton, model.kinematics, model.low, model.high)
    other = initial_q(few.target.rotmat.double(), few.skeleton, model.kinematics, model.low, model.high, branch=1)
    low, high = model.low[3:], model.high[3:]
    halfway = warm.clone()
    halfway[:, 3:] = torch.minimum(torch.maximum(warm[:, 3:] / 2, low), high)
    kept = _take(best, far)
    for q in (other, halfway):
        tried = _descend(few, q)
        kept = replace(_choose(tried.energy < kept.energy, tried, kept), starts=kept.starts + 1)
    return _put(best, far, kept)


def _result(rows: _Rows, params: SmplParams, best: _Fitted, sound: Tensor) -> FitResult:
    model, target, skeleton = rows.model, rows.target, rows.skeleton
    low, high = _float32_box(model.low, model.high)
    q = best.q.float()
    q[:, :3] = root.root_dofs(target.global_rotmat, skeleton.dof_frame[:, 0].float())
    transl = root.root_transl(
        params.transl, target.global_rotmat, target.pelvis, skeleton.joints[:, 0].float(), target.offset
    )
    pose = model.kinematics.pose(best.q, skeleton)
    joint_mm = (target.anatomical_joints - pose.position.float()).norm(dim=-1).mean(1) * 1000
    status = torch.full_like(best.iterations, Status.converged)
    status[((q <= low) | (q >= high)).any(1)] = Status.at_limit
    status[best.step > model.config.step_tolerance] = Status.max_iterations
    status[~sound] = Status.rejected

    def of_sound(values: Tensor) -> Tensor:
        return _where(sound, values, torch.nan)

    return FitResult(
        skel=SkelParams(of_sound(q), of_sound(rows.betas), of_sound(transl)),
        skel_gender=[model.skel_gender] * len(q),
        v2v_mm=of_sound(best.v2v),
        v2v_max_mm=of_sound(best.v2v_max),
        joint_mm=of_sound(joint_mm),
        max_limit_violation_deg=of_sound(limit_violation_deg(q, low, high)),
        energy=of_sound(best.energy),
        iterations=best.iterations,
        starts=best.starts,
        status=status.to(torch.int8),
        target_joints=of_sound(target.joints_world),
        target_points=None if target.points_world is None else of_sound(target.points_world),
        batch=len(q),
    )


def _filled(rows: Tensor) -> Tensor:
    """Row numbers, the first of them repeated at the end up to a multiple of `_TILE`."""
    return torch.cat((rows, rows[:1].expand(-len(rows) % _TILE if len(rows) else 0)))


def _sound(params: SmplParams) -> Tensor:
    """Rows that are a body: finite, and no value beyond belief."""
    limits = (("global_orient", MAX_ANGLE), ("body_pose", MAX_ANGLE), ("betas", MAX_BETA), ("transl", MAX_TRANSL))
    # A comparison with NaN is false.
    return torch.stack([(getattr(params, name).abs().flatten(1) <= limit).all(1) for name, limit in limits]).all(0)


def _float32_box(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The limits rounded inwards, so that a stored q is inside the table's own numbers."""
    inner_low, inner_high = low.float(), high.float()
    inner_low = torch.where(inner_low.double() < low, torch.nextafter(inner_low, inner_high), inner_low)
    inner_high = torch.where(inner_high.double() > high, torch.nextafter(inner_high, inner_low), inner_high)
    return inner_low, inner_high


def _where(rows: Tensor, values: Tensor, other: Tensor | float) -> Tensor:
    """`values` in the rows of the mask [B], `other` elsewhere."""
    return torch.where(rows.view(-1, *(1,) * (values.ndim - 1)), values, other)


def _take(fitted: _Fitted, rows: Tensor | slice) -> _Fitted:
    return _Fitted(**{f.name: getattr(fitted, f.name)[rows] for f in fields(_Fitted)})


def _choose(first: Tensor, one: _Fitted, other: _Fitted) -> _Fitted:
    """Row by row, `one` where the mask [B] says so."""
    return _Fitted(**{f.name: _where(first, getattr(one, f.name), getattr(other, f.name)) for f in fields(_Fitted)})


def _put(fitted: _Fitted, rows: Tensor, values: _Fitted) -> _Fitted:
    return _Fitted(
        **{f.name: getattr(fitted, f.name).index_copy(0, rows, getattr(values, f.name)) for f in fields(_Fitted)}
    )
