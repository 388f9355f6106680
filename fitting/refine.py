"""Fit betas (ten numbers), the root (six numbers) or both with the pose, if a recipe asks for it.

For given betas and root, the solver finds the pose. The lowest E over poses is then a function of betas and root, and a
step in these must also move the pose. So each round takes one damped Gauss-Newton step in all 59 unknowns (root, betas,
pose: `Slope`), and the solver starts from the predicted pose; a row keeps the result only if E fell. With refined
betas, E includes `betas_weight` |betas - converted|^2. Limits hold exactly, by the solver. Derivatives are those of
E/2.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fitting.batch import TILE, Fitted, Rows, choose, filled, inner_box
from fitting.kinematics import CORRECTED, Pose, Skeleton
from fitting.lanes.newton import DAMPING_DOWN, DAMPING_MAX, DAMPING_MIN, DAMPING_UP
from fitting.mesh import mesh_basis, mesh_coefficients, unstacked
from fitting.model import FitModel
from fitting.stack import Stack
from fitting.stages import spread
from fitting.target import FitRows
from hmr_skel.body.dofs import BODY, DOF_JOINTS
from hmr_skel.body.joints import SKEL_PARENTS, subtree
from hmr_skel.body.lbs import picked
from hmr_skel.body.rotations import rotvec_to_rotmat, skew

ROUNDS = 6
"""The most rounds; three or four are usual."""
ROOT, BETAS, POSE = slice(0, 6), slice(6, 16), slice(16, 59)
"""The unknowns: the root's rotation vector about the pelvis and its shift, in the pelvis frame; betas; q[3:46]."""

_DAMPING_START = 1e-3
_VERTICES = 345  # for the matrix: 150 or 1000 give the same results
_DIFFERENCE = 1e-3  # of a beta, for central differences: the closed form of a shortest arc's derivative is long
_ABOVE = [SKEL_PARENTS[j] for j in CORRECTED]


@dataclass(frozen=True)
class Others(Rows):
    """The unknowns beside the pose for rows [B]. The solver fits a skin v; the true skin is R v + s."""

    betas: Tensor  # [B 10] float32
    rotmat: Tensor  # [B 3 3] R, float64
    shift: Tensor  # [B 3] s, float64; it keeps the means of the T-poses equal as betas change


def refined(model: FitModel, rows: FitRows, best: Fitted) -> tuple[FitRows, Fitted]:
    """Refine betas and roots, each with its best pose. E does not rise in any row.

    Args:
        rows: whole tiles.
        best: the poses at the minima for the present betas and roots.

    Returns:
        The rows with new betas and roots, and their best points.
    """
    refiner = Refiner(model)
    others = Others(
        rows.betas,
        torch.eye(3, dtype=torch.float64, device=best.q.device).expand(len(best.q), 3, 3),
        best.q.new_zeros(len(best.q), 3),
    )
    damping = torch.full_like(best.energy, _DAMPING_START)
    further = torch.zeros_like(best.energy)
    active = torch.arange(len(best.q), device=best.q.device)
    for number in range(ROUNDS + 1):
        start, here, was = rows[active], others[active], best[active]
        step, fall = refiner.step(start, here, was.q, damping[active])
        further[active] = fall / (model.config.energy_tolerance * was.energy)
        going = (further[active] > 1).nonzero().squeeze(1)
        if number == ROUNDS or len(going) == 0:
            break
        going = filled(going)
        active, start, here, was = active[going], start[going], here[going], was[going]
        there, q = refiner.moved(here, was.q, step[going])
        found = model.solve(placed(model, start, there), q, early=False)
        tried = was.iterations + found.iterations + 1
        found = replace(found, energy=found.energy + refiner.cost(start, there))
        better = found.energy < was.energy
        best = best.put(active, replace(choose(better, found, was), iterations=tried, starts=was.starts))
        others = others.put(active[better], there[better])
        now = damping[active] * torch.where(better, DAMPING_DOWN, DAMPING_UP)
        damping[active] = now.clamp(DAMPING_MIN, DAMPING_MAX)
    return placed(model, rows, others), replace(best, ahead=torch.maximum(best.ahead, further))


def placed(model: FitModel, rows: FitRows, others: Others) -> FitRows:
    """Rows for the solver, with the betas of `others` and a target from which its root is removed."""
    target = rows.target.moved(others.rotmat.float(), others.shift.float())
    return FitRows(target, others.betas, Skeleton.of(model.skel, others.betas))


class Refiner:
    """Computes steps in all unknowns of the recipe."""

    def __init__(self, model: FitModel) -> None:
        self.model, self.slope, self.weight = model, Slope(model), model.config.betas_weight
        self.fixed = torch.zeros(59, dtype=torch.bool, device=model.device)
        self.fixed[ROOT] = model.config.root != "refine"
        self.fixed[BETAS] = model.config.shape != "refine"
        self.dofs = model.stages[-1].dofs
        self.low, self.high = (bound[self.dofs] for bound in inner_box(model.low, model.high))

    def cost(self, rows: FitRows, others: Others) -> Tensor:
        """The cost [B] of the betas of `others`, which is 0 for the betas of the rows."""
        return self.weight * (others.betas - rows.betas).double().square().sum(1)

    def step(self, rows: FitRows, others: Others, q: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
        """The step [B 59] from `others` and q [B 46], and the predicted decrease of E [B]."""
        at = placed(self.model, rows, others)
        parts = [slice(first, first + TILE) for first in range(0, len(q), TILE)]
        found = [self.slope(at[part], q[part]) for part in parts]
        gradient, matrix = (torch.cat(values) for values in zip(*found, strict=True))
        gradient[:, BETAS] += self.weight * (others.betas - rows.betas).double()
        matrix.diagonal(dim1=1, dim2=2)[:, BETAS] += self.weight
        body, pull = q[:, self.dofs], gradient[:, POSE]
        held = ((body <= self.low) & (pull > 0)) | ((body >= self.high) & (pull < 0))
        fixed = self.fixed.repeat(len(q), 1)
        fixed[:, POSE] = held
        step = _damped_step(matrix, gradient, damping, fixed)
        return step, -(gradient * step).sum(1)

    def moved(self, others: Others, q: Tensor, step: Tensor) -> tuple[Others, Tensor]:
        """The unknowns after a step [B 59], with the pose inside its limits."""
        turn, glide, change, bend = step.split((3, 3, 10, 43), 1)
        betas = (others.betas.double() + change).float()
        turned = rotvec_to_rotmat(turn)
        pivot = Skeleton.of(self.model.skel, others.betas).joints[:, 0]
        glide = glide + pivot - (turned @ pivot.unsqueeze(-1)).squeeze(-1)
        glide = glide - (betas - others.betas).double() @ self.slope.mean
        shift = others.shift + (others.rotmat @ glide.unsqueeze(-1)).squeeze(-1)
        q = q.clone()
        q[:, self.dofs] = torch.minimum(torch.maximum(q[:, self.dofs] + bend, self.low), self.high)
        return Others(betas, others.rotmat @ turned, shift), q


class Slope:
    """Gradient and matrix of E over root, betas and pose, 59 unknowns in that order, with tables of one model.

    The gradient is that of E, from all vertices of the last stage, by the solver's own visit to them. The matrix is
    Gauss-Newton's over some vertices, without pose correctives: it affects the path to the minimum, not the minimum.
    The mean of the T-pose does not depend on betas, as in fits without the root (d in `fitting.target`).
    """

    def __init__(self, model: FitModel) -> None:
        self.model, self.tables = model, model.stages[-1]
        skel = model.skel
        bone = skel.weights.argmax(1)
        few = spread(bone, min(_VERTICES, len(bone)))
        self.weights = skel.weights[few]  # [K 24]
        self.basis = mesh_basis(skel)[:, few].contiguous()  # [1 + 10 + P, K 3]
        joints = DOF_JOINTS[BODY]  # the bones below each; the root moves all
        self.joints = torch.tensor(joints, device=bone.device)
        below = [[1.0] * 24] * 6 + [[float(bone in subtree(SKEL_PARENTS, j)) for bone in range(24)] for j in joints]
        self.below = torch.tensor(below, dtype=torch.float64, device=bone.device)  # [49 24]
        self.mean = model.targets.skel_mean[1:].double()  # [10 3] derivative of the T-pose's mean by the betas

    def __call__(self, rows: FitRows, q: Tensor) -> tuple[Tensor, Tensor]:
        """dE/2 [B 59] and d2E/2 [B 59 59], float64, of rows [B] at q [B 46]."""
        tables, target = self.tables, rows.target
        pose = self.model.kinematics.pose(q, rows.skeleton)
        by_transforms, by_joints = self._motions(rows, q, pose)
        weight = tables.joint_importance.double()
        apart = (pose.position - target.anatomical_joints.double()) * weight[:, None]
        cross, by_betas, by_corrective = self._visit(rows, q)
        # The visit has the joints as points that are fixed to their bones. Betas also move them there.
        points = torch.cat((rows.skeleton.joints, torch.ones_like(rows.skeleton.joints[..., :1])), -1)
        cross = cross + apart.unsqueeze(-1) * points.unsqueeze(-2)
        # Local rotations R_parent^T R drive the correctives.
        rotmat, turned = pose.rotmat.unsqueeze(1), by_transforms[..., :3]
        by_local = picked(rotmat, _ABOVE, 2).mT @ picked(turned, CORRECTED, 2)
        by_local = by_local + picked(turned, _ABOVE, 2).mT @ picked(rotmat, CORRECTED, 2)
        gradient = _sum(by_joints * apart.unsqueeze(1)) - _sum(by_transforms * cross.unsqueeze(1))
        gradient = gradient + _sum(by_local * by_corrective.unsqueeze(1))
        gradient[:, BETAS] += by_betas
        gradient[:, POSE] += tables.prior * q[:, tables.dofs]
        joints = by_joints.flatten(2) * weight.sqrt().repeat_interleave(3)
        matrix = self._matrix(rows, pose, by_transforms.float()) + joints @ joints.mT
        matrix.diagonal(dim1=1, dim2=2)[:, POSE] += tables.prior
        return gradient, matrix

    def _visit(self, rows: FitRows, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moments B'_m = sum_v c_v w_vm (y - v) [x; 1]^T of the residuals and joints [B 24 3 4]; and dE/2, the bones
        held, by the betas [B 10] and by the local rotations that drive the S pose correctives [B S 3 3]."""
        solve, stack = self.model.solve, Stack.of(rows, q)
        room = solve.room(stack)
        solve.visit(solve.stages[-1], stack, room, correctives=True)
        cross, by_basis = (unstacked(v, len(q)) for v in (room.reduced.field("cross"), room.by_basis))
        return cross, by_basis[:, :10], by_basis[:, 10:].unflatten(1, (-1, 3, 3))

    def _motions(self, rows: FitRows, q: Tensor, pose: Pose) -> tuple[Tensor, Tensor]:
        """The derivatives of bones [B 59 24 3 4] and joints [B 59 24 3] by each unknown."""
        twists = self.model.kinematics.twists(q, rows.skeleton, pose)
        dofs = twists[:, self.joints, self.model.kinematics.dof_order[BODY]]  # [B 43 3 4]
        axes = torch.eye(3, dtype=q.dtype, device=q.device).expand(len(q), 3, 3)
        pivot = rows.skeleton.joints[:, :1].expand_as(axes)
        turns = torch.cat((skew(axes), torch.linalg.cross(pivot, axes).unsqueeze(-1)), -1)
        glides = torch.cat((torch.zeros_like(skew(axes)), axes.unsqueeze(-1)), -1)
        motion = torch.cat((turns, glides, dofs), 1)
        turned = (motion.unsqueeze(2) @ pose.transforms.unsqueeze(1)) * self.below[:, :, None, None]
        position = torch.cat((pose.position, torch.ones_like(pose.position[..., :1])), -1)
        moved = (motion @ position.mT.unsqueeze(1)).mT * self.below[:, :, None]
        shaped, shaped_joints = self._by_betas(rows, q)
        transforms = torch.cat((turned[:, :6], shaped, turned[:, 6:]), 1)
        return transforms, torch.cat((moved[:, :6], shaped_joints, moved[:, 6:]), 1)

    def _by_betas(self, rows: FitRows, q: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the betas [B 10 ...], by central differences of the skeleton, minus the motion of d."""
        offset = _DIFFERENCE * torch.eye(10, dtype=q.dtype, device=q.device)
        betas = rows.betas.double()[:, None, None] + torch.stack((offset, -offset), 1)  # [B 10 2 10]
        skeleton = Skeleton.of(self.model.skel, betas.flatten(0, 2))
        pose = self.model.kinematics.pose(q.repeat_interleave(20, 0), skeleton)

        def rate(values: Tensor) -> Tensor:
            ahead, behind = values.unflatten(0, (len(q), 10, 2)).unbind(2)
            return (ahead - behind) / (2 * _DIFFERENCE)

        transforms = rate(pose.transforms[:, :, :3])
        transforms[..., 3] -= self.mean.unsqueeze(1)
        return transforms, rate(pose.position) - self.mean.unsqueeze(1)

    def _matrix(self, rows: FitRows, pose: Pose, by_transforms: Tensor) -> Tensor:
        """J^T J [B 59 59] of the vertices' mean squared distance."""
        coefficients = mesh_coefficients(rows.betas, picked(pose.local, CORRECTED, 1).float())
        rest = (coefficients @ self.basis.flatten(1)).unflatten(1, (-1, 3))  # [B K 3]
        rotations = (self.weights @ pose.rotmat.float().flatten(2)).unflatten(2, (3, 3))  # [B K 3 3]
        levers = torch.cat((rest, torch.ones_like(rest[..., :1])), -1).unsqueeze(2) * self.weights.unsqueeze(-1)
        by_lever = by_transforms.permute(0, 2, 4, 3, 1).flatten(3).flatten(1, 2)  # [B (24 4) (3 59)]
        jacobian = (levers.flatten(2) @ by_lever).unflatten(2, (3, 59))
        jacobian[..., BETAS] += torch.einsum("bvij,kvj->bvik", rotations, self.basis[1:11])
        jacobian = jacobian.flatten(1, 2)
        return (jacobian.mT @ jacobian).double() / len(self.weights)


def _sum(products: Tensor) -> Tensor:
    """[B 59 ...] to [B 59]."""
    return products.flatten(2).sum(2)


def _damped_step(hessian: Tensor, gradient: Tensor, damping: Tensor, fixed: Tensor) -> Tensor:
    """The step [B D] that minimises the damped quadratic over the unknowns that are not `fixed`."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    free = ~fixed
    # The floor keeps an unknown that moves nothing from dividing by zero.
    floor = 1e-9 * diagonal.amax(1, keepdim=True) + 1e-30
    added = torch.where(free, damping[:, None] * diagonal + floor, torch.ones_like(diagonal))
    # LAPACK's last bits depend on where in memory a matrix begins, which depends on the row's place in the batch. In
    # matrices of whole cache lines every row begins alike.
    count, unknowns = gradient.shape
    size = -(-unknowns // 8) * 8
    eye = torch.eye(size, dtype=gradient.dtype, device=gradient.device)
    system = eye.repeat(count, 1, 1)
    inner = system[:, :unknowns, :unknowns]
    torch.mul(hessian, free[:, :, None] & free[:, None, :], out=inner)
    inner.diagonal(dim1=-2, dim2=-1).add_(added)
    factor, failed = torch.linalg.cholesky_ex(system)
    factor = torch.where((failed == 0)[:, None, None], factor, eye)
    padded = gradient.new_zeros(count, size, 1)
    padded[:, :unknowns, 0] = -gradient * free
    solution = torch.cholesky_solve(padded, factor)[:, :unknowns, 0]
    return solution.masked_fill(fixed, 0.0)
