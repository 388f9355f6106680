"""The published SKEL aligner's protocol, to be compared with: autograd through the whole mesh, torch's L-BFGS.

Written from facts about it, none of its code: Keller et al. 2023, "From skin to skeleton", and the steps, masks and
weights that its repository (github.com/MarilynKeller/SKEL, skel/alignment) configures. A file of its is a batch here:
it starts every later batch of a file from the last row of the one before, which suits a recording and not photographs,
so here every batch starts by itself. What does not depend on the pose (shape, masks, targets) is computed once a batch,
which is faster than the original and changes no result.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hmr_skel.body.dofs import NUM_DOFS
from hmr_skel.body.skel import Skel
from hmr_skel.body.skel_shape import SkelShape
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SkelParams, SmplParams


@dataclass(frozen=True, kw_only=True)
class AlignerStep:
    """One of the aligner's steps. Joint numbers in `vertices` are SMPL's, the others SKEL's."""

    name: str
    vertices: tuple[int, ...] = ()
    """Vertices that one of these SMPL joints dominates (skin weight over a half) count; none given: all count."""
    vertices_excluded: tuple[int, ...] = ()
    joints: tuple[int, ...] = tuple(range(24))
    """SKEL joints that the joint term pulls to where its regressor sees them on the target mesh."""
    dofs: tuple[int, ...] = tuple(range(NUM_DOFS))
    moves_transl: bool = False
    vertex_weight: float = 600.0
    joint_weight: float = 1000.0
    pose_weight: float = 1e-4
    lr: float = 0.1
    tolerance: float = 1e-7


STEPS = (
    AlignerStep(
        name="torso root", vertices=(0, 3), dofs=(0, 1, 2), moves_transl=True, vertex_weight=300.0, joint_weight=0.0,
        pose_weight=0.0, lr=1.0, tolerance=1e-4,
    ),
    AlignerStep(
        name="upper limbs", vertices=(0, 1, 2, 3, 6, 9, 12, 15, 16, 17), joint_weight=500.0,
        joints=tuple(j for j in range(24) if j not in (3, 4, 5, 8, 9, 10, 18, 23)),
        dofs=tuple(k for k in range(3, NUM_DOFS) if k != 19),  # without the lumbar twist
    ),
    AlignerStep(name="fixed root", vertices_excluded=(1, 2, 16, 17), dofs=tuple(range(3, NUM_DOFS))),
    AlignerStep(name="free", joints=(14, 19)),
)  # fmt: skip


@dataclass(frozen=True)
class BaselineResult:
    """What the aligner made of [N] rows, on the CPU."""

    skel: SkelParams
    losses: list[list[tuple[float, float]]]  # per batch and step: its own loss before and after
    seconds: float


def published_fit(
    params: SmplParams,
    smpl: Smpl,
    skel: Skel,
    *,
    rounds: int = 10,
    iterations: int = 20,
    batch: int = 32,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> BaselineResult:
    """Fit [N] rows as the published aligner does, float32, on the models' device.

    Args:
        params: annotations of `smpl`.
        rounds, iterations: calls of the optimiser per step, and its iterations per call; published: 10 and 20.
        batch: rows optimised together. They share one line search and one prior, so the result depends on it.
        progress: called after every call of the optimiser with how many calls there were, of how many.
    """
    device = skel.template.device
    start = time.perf_counter()
    found, losses, calls = [], [], itertools.count(1)
    total = -(-len(params.betas) // batch) * len(STEPS) * rounds

    for first in range(0, len(params.betas), batch):
        rows = params[first : first + batch].to(device, torch.float32)
        with torch.no_grad():
            target = smpl(rows.global_orient, rows.body_pose, rows.betas, rows.transl).vertices
            problem = _Alignment(smpl, skel, skel.prepare_shape(rows.betas), target)
        q = torch.zeros(len(target), NUM_DOFS, device=device)
        q[:, :3] = rows.global_orient * torch.tensor([-1.0, 1.0, 1.0], device=device)
        transl = rows.transl.clone()
        around = rounds, iterations, lambda: progress(next(calls), total)
        losses.append([problem.run(step, q, transl, *around) for step in STEPS])
        found.append((q, rows.betas, transl))
    skel_params = SkelParams(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))
    return BaselineResult(skel_params, losses, time.perf_counter() - start)


class _Alignment:
    """The rows that are optimised together."""

    def __init__(self, smpl: Smpl, skel: Skel, shape: SkelShape, target: Tensor) -> None:
        self.skel, self.shape, self.target = skel, shape, target
        self.weights = smpl.weights
        self.anatomical_joints = skel.joint_regressor @ target

    def loss(self, step: AlignerStep, q: Tensor, transl: Tensor, vertices: Tensor, joints: Tensor) -> Tensor:
        """The step's loss of the whole batch. `vertices` [V 1] and `joints` [24 1] are its masks."""
        posed = self.skel.pose(q, self.shape, transl)
        count = vertices.sum() * len(q)
        loss = step.vertex_weight * (vertices * (posed.vertices - self.target).square()).sum() / count
        if step.joint_weight:
            loss = loss + step.joint_weight * (joints * (posed.joints - self.anatomical_joints).square()).mean()
        if step.pose_weight:
            # As published: the largest singular value of all rows' poses together, not a norm per row.
            loss = loss + step.pose_weight * torch.linalg.matrix_norm(q[:, 3:], ord=2)
        return loss

    def run(
        self, step: AlignerStep, q: Tensor, transl: Tensor, rounds: int, iterations: int, called: Callable[[], object]
    ) -> tuple[float, float]:
        """One step, in place. Returns the loss before and after."""
        vertices, joints, moving = self._masks(step, q)
        free_q, fixed_q = q.clone().requires_grad_(), q.clone()
        free_transl = transl.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [free_transl, free_q] if step.moves_transl else [free_q],
            lr=step.lr, max_iter=iterations, tolerance_change=step.tolerance, line_search_fn="strong_wolfe",
        )  # fmt: skip
        place = free_transl if step.moves_transl else transl

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = self.loss(step, free_q * moving + fixed_q * (1 - moving), place, vertices, joints)
            loss.backward()
            return loss

        losses = []
        for _ in range(rounds):
            losses.append(optimiser.step(closure).item())  # the loss at the start of the call
            called()
        with torch.no_grad():
            q.copy_(free_q * moving + fixed_q * (1 - moving))
            transl.copy_(place)
            return losses[0], float(self.loss(step, q, transl, vertices, joints))

    def _masks(self, step: AlignerStep, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vertices = torch.ones_like(self.weights[:, :1])
        if step.vertices:
            vertices = (self.weights[:, list(step.vertices)] > 0.5).any(1, keepdim=True).to(vertices)
        if step.vertices_excluded:
            vertices = vertices * ~(self.weights[:, list(step.vertices_excluded)] > 0.5).any(1, keepdim=True)
        joints, moving = q.new_zeros(24, 1), torch.zeros_like(q[0])
        joints[list(step.joints)] = 1
        moving[list(step.dofs)] = 1
        return vertices, joints, moving
