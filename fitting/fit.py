"""SMPL annotations to SKEL: one batch through the stages. Arrays in, arrays out; rows never interact."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fitting import root
from fitting.initial import initial_q
from fitting.kinematics import Skeleton
from fitting.model import FitModel, StageTables
from fitting.quality import Status, distances_mm, limit_violation_deg
from fitting.reduced import ReducedProblem
from fitting.solver import SolverState, minimise, start
from fitting.target import Target
from hmr_skel.rows import SkelParams, SmplParams

# Rows whose vertices are in memory together on a CPU: few enough to stay in its cache.
_CPU_PASS = 32
# Beyond these an annotation is no body: the row is rejected, not fitted.
MAX_BETA, MAX_ANGLE, MAX_TRANSL = 10.0, 20.0, 1e4


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
    params = params.to(model.device, torch.float32)
    sound = _sound(params)
    # A rejected row is fitted as a T-pose: it costs little, and batches keep their shape.
    safe = SmplParams(*(_where(sound, getattr(params, f.name), 0.0) for f in fields(params)))
    betas = model.shape(safe.betas)
    target = _concatenate(
        [model.targets(safe[rows], betas[rows], points) for rows in _passes(len(betas), model.device)]
    )
    skeleton = Skeleton.of(model.skel, betas)
    problem = _Rows(model, target, betas, skeleton)
    q = initial_q(target.rotmat.double(), skeleton, model.kinematics, model.low, model.high)
    best = _descend(problem, q)
    best = _retry(problem, best)
    return _result(problem, safe, best, sound)


@dataclass(frozen=True)
class _Rows:
    """What is known of the rows being fitted."""

    model: FitModel
    target: Target
    betas: Tensor  # [B 10] of SKEL
    skeleton: Skeleton

    def __getitem__(self, rows: Tensor) -> "_Rows":
        return _Rows(self.model, self.target[rows], self.betas[rows], self.skeleton[rows])


@dataclass(frozen=True)
class _Fitted:
    """Where the stages led, with the distances there."""

    q: Tensor  # [B 46] float32, q[:, :3] = 0
    energy: Tensor  # [B] float64
    v2v: Tensor  # [B] mm
    v2v_max: Tensor  # [B] mm
    step: Tensor  # [B] rad
    iterations: Tensor  # [B]
    starts: Tensor  # [B]


def _descend(rows: _Rows, q: Tensor) -> _Fitted:
    """All stages from a start."""
    state = start(q)
    for tables in rows.model.stages:
        state = _run_stage(tables, rows, state)
    return _measure(rows, state)


def _run_stage(tables: StageTables, rows: _Rows, state: SolverState) -> SolverState:
    stage, config = tables.stage, rows.model.config
    second = tables.moments.at(rows.betas)
    vertices = rows.target.vertices
    if not tables.surface.whole:
        vertices = vertices[:, :, tables.surface.vertices]
    for _ in range(stage.refreshes):
        problem = _collapse(tables, rows, vertices, second, state.q)
        state = minimise(
            problem, state, tables.low, tables.high, stage.iterations, config.max_step, config.step_tolerance
        )
    return state


def _collapse(tables: StageTables, rows: _Rows, vertices: Tensor, second: Tensor, q: Tensor) -> ReducedProblem:
    """Visit the vertices at q: the reduced problem around it."""
    model = rows.model
    pose = model.kinematics.pose(q, rows.skeleton)
    visits = [
        tables.surface.visit(vertices[part], rows.betas[part], pose[part]) for part in _passes(len(q), model.device)
    ]
    cross = torch.cat([visit.cross for visit in visits])
    energy = torch.cat([visit.energy for visit in visits])
    # An anatomical joint is one more point, rigid on its bone.
    weight = tables.joint_importance.double()
    apart = rows.target.anatomical_joints.double() - pose.position
    energy = energy + apart.square().sum(-1) @ weight
    joints = rows.skeleton.joints
    homogeneous = torch.cat((joints, torch.ones_like(joints[..., :1])), -1) * weight[:, None]
    cross = cross + homogeneous.unsqueeze(-1) * apart.unsqueeze(-2)
    return ReducedProblem(
        tables.part, model.kinematics, rows.skeleton, tables.moments.first, tables.moments.second, second,
        second.double(), cross, pose.transforms, energy, tables.prior,
    )  # fmt: skip


def _measure(rows: _Rows, state: SolverState) -> _Fitted:
    """The objective and the distances at the result as it will be stored, in float32 and inside its limits."""
    model, tables = rows.model, rows.model.stages[-1]
    low, high = _float32_box(model.low, model.high)
    q = torch.minimum(torch.maximum(state.q.float(), low), high)
    pose = model.kinematics.pose(q.double(), rows.skeleton)
    energy, mean, largest = [], [], []
    for part in _passes(len(q), model.device):
        residual = tables.surface.residual(rows.target.vertices[part], rows.betas[part], pose[part])
        energy.append((residual.square().sum(1) @ tables.surface.importance).double())
        distances = distances_mm(residual)
        mean.append(distances[0])
        largest.append(distances[1])
    apart = rows.target.anatomical_joints.double() - pose.position
    total = torch.cat(energy) + apart.square().sum(-1) @ tables.joint_importance.double()
    total = total + (tables.prior * q[:, tables.part.dofs].double().square()).sum(1)
    return _Fitted(
        q, total, torch.cat(mean), torch.cat(largest), state.step, state.iterations, torch.ones_like(state.iterations)
    )


def _retry(rows: _Rows, best: _Fitted) -> _Fitted:
    """Rows that are still far away start again: from the other Euler branch, and from halfway to the rest pose."""
    model = rows.model
    far = (best.v2v > model.config.retry_v2v_mm).nonzero().squeeze(1)
    if len(far) == 0:
        return best
    few = rows[far]
    warm = initial_q(few.target.rotmat.double(), few.skeleton, model.kinematics, model.low, model.high)
    other = initial_q(few.target.rotmat.double(), few.skeleton, model.kinematics, model.low, model.high, branch=1)
    low, high = model.low[3:], model.high[3:]
    halfway = warm.clone()
    halfway[:, 3:] = torch.minimum(torch.maximum(warm[:, 3:] / 2, low), high)
    kept = _take(best, far)
    for q in (other, halfway):
        tried = _descend(few, q)
        better, starts = tried.energy < kept.energy, kept.starts + 1
        columns = {f.name: _where(better, getattr(tried, f.name), getattr(kept, f.name)) for f in fields(_Fitted)}
        kept = _Fitted(**columns | {"starts": starts})
    return _Fitted(**{f.name: getattr(best, f.name).index_copy(0, far, getattr(kept, f.name)) for f in fields(_Fitted)})


def _result(rows: _Rows, params: SmplParams, best: _Fitted, sound: Tensor) -> FitResult:
    model, target, skeleton = rows.model, rows.target, rows.skeleton
    low, high = _float32_box(model.low, model.high)
    q = best.q.clone()
    q[:, :3] = root.root_dofs(target.global_rotmat, skeleton.dof_frame[:, 0].float())
    transl = root.root_transl(
        params.transl, target.global_rotmat, target.pelvis, skeleton.joints[:, 0].float(), target.offset
    )
    pose = model.kinematics.pose(best.q.double(), skeleton)
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


def _passes(count: int, device: torch.device) -> Iterator[slice]:
    size = _CPU_PASS if device.type == "cpu" else max(count, 1)
    return (slice(first, min(first + size, count)) for first in range(0, max(count, 1), size))


def _where(rows: Tensor, values: Tensor, other: Tensor | float) -> Tensor:
    """`values` in the rows of the mask [B], `other` elsewhere."""
    return torch.where(rows.view(-1, *(1,) * (values.ndim - 1)), values, other)


def _take(fitted: _Fitted, rows: Tensor) -> _Fitted:
    return _Fitted(**{f.name: getattr(fitted, f.name)[rows] for f in fields(_Fitted)})


def _concatenate(parts: list[Target]) -> Target:
    if len(parts) == 1:
        return parts[0]
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Target)}
    return Target(**{name: None if values[0] is None else torch.cat(values) for name, values in columns.items()})
