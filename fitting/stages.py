"""The tables of a stage that do not depend on rows: its dofs, vertices, weights, moments and limits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.config import FitConfig, Stage
from hmr_skel.body import dofs
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS, subtree
from hmr_skel.body.lbs import picked
from hmr_skel.body.skel import Skel

_DOFS_OF = {
    "lower": [*range(46)[dofs.LOWER_BODY]],
    "upper": [*range(46)[dofs.UPPER_BODY]],
    "full": [*range(46)[dofs.BODY]],
}
_SCAPULAE = [SKEL_JOINTS.index("scapula_r"), SKEL_JOINTS.index("scapula_l")]
_MONOMIALS = [(a, b) for a in range(11) for b in range(a, 11)]


def monomials(betas: Tensor) -> Tensor:
    """The 66 products of [1, betas] with itself, [B 66]."""
    extended = torch.cat((torch.ones_like(betas[:, :1]), betas), 1)
    low, high = zip(*_MONOMIALS, strict=True)
    return picked(extended, low, 1) * picked(extended, high, 1)


def moment_table(
    skel: Skel, vertices: Tensor, importance: Tensor, joint_importance: Tensor, bones: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Second moments of the skin, M_mn = sum_v c_v w_vm w_vn [x; 1][x; 1]^T, as a table over betas.

    The rest skin is linear in betas, so M is quadratic in them: 66 monomials times one 4x4 block per pair of bones that
    share vertices. Pose correctives are left out. They change M by a few per cent, which sometimes costs a step but
    moves no minimum, because gradients come from the vertices. The table contains licensed data, so it is never stored.

    Args:
        vertices: [V] numbers, with weights c `importance` [V].
        joint_importance: [24] an anatomical joint is one more point of its bone.
        bones: those that move.

    Returns:
        The pairs of bones m <= n [P] that share vertices, diagonal pairs included, and the table [66 P * 16].
    """
    weights = skel.weights[vertices].double()
    moving = torch.tensor(bones, device=weights.device)
    overlap = (weights[:, moving].T @ weights[:, moving]) > 0
    overlap |= torch.eye(len(bones), dtype=torch.bool, device=weights.device)
    first, second = moving[overlap.triu().nonzero()].unbind(1)
    rest = _homogeneous(skel.template, skel.shapedirs)[:, vertices]  # [11 V 4]
    joints = _homogeneous(skel.joint_template, skel.joint_shapedirs)  # [11 24 4]
    product = importance.double()[:, None] * weights[:, first] * weights[:, second]  # [V P]
    table = torch.stack([product.T @ _outer(rest, a, b) for a, b in _MONOMIALS])  # [66 P 16]
    diagonal = (first == second).nonzero().squeeze(1)
    bone = first[diagonal]
    for row, (a, b) in enumerate(_MONOMIALS):
        table[row, diagonal] += joint_importance.double()[bone, None] * _outer(joints[:, bone], a, b)
    return first, second, table.flatten(1).to(skel.template.dtype)


def _homogeneous(template: Tensor, directions: Tensor) -> Tensor:
    """Points and their shape directions as [x; 1] and [d; 0]: float64 [11 N 4]."""
    rows = torch.cat((template.flatten()[None], directions)).double().unflatten(-1, (-1, 3))
    rows = torch.cat((rows, torch.zeros_like(rows[..., :1])), -1)
    rows[0, :, 3] = 1
    return rows


def _outer(rows: Tensor, a: int, b: int) -> Tensor:
    """The factor of the monomial of betas a and b for each point [N 16]; betas_a betas_b occurs twice."""
    outer = rows[a][:, :, None] * rows[b][:, None, :]
    return (outer if a == b else outer + outer.mT).flatten(1)


@dataclass(frozen=True)
class StageTables:
    """The tables of one stage on one device."""

    stage: Stage
    dofs: Tensor  # [D] that move
    bones: list[int]  # below their joints
    vertices: Tensor  # [V] that count
    importance: Tensor  # [V] float32, weights of their squared distances; they sum to 1
    joint_importance: Tensor  # [24] weights of squared distances of anatomical joints
    first: Tensor  # [P] pairs of bones that share vertices,
    second: Tensor  # [P] and
    moments: Tensor  # [66 P * 16] their moments, see `moment_table`
    prior: Tensor  # [D] weight over squared half range, per dof, m^2
    low: Tensor  # [D] limits, rad
    high: Tensor  # [D]
    max_step: float  # rad

    @property
    def correctives(self) -> bool:
        """Whether visits include the correctives, for the exact gradient of E; early stages move roughly."""
        return self.stage.part == "full"


def stage_tables(stage: Stage, skel: Skel, bounds: Tensor, config: FitConfig) -> StageTables:
    """The tables of a stage; `bounds` [46 2] are the limits of all dofs, rad."""
    bone, dofs = skel.weights.argmax(1), torch.tensor(_DOFS_OF[stage.part], device=bounds.device)
    joints = {DOF_JOINTS[k] for k in _DOFS_OF[stage.part]}
    bones = sorted({below for joint in joints for below in subtree(SKEL_PARENTS, joint)})
    vertices = torch.isin(bone, torch.tensor(bones, device=bone.device)).nonzero().squeeze(1)
    if stage.part == "full":
        vertices = torch.arange(len(bone), device=bone.device)
    if 0 < stage.vertices < len(vertices):
        vertices = vertices[spread(bone[vertices], stage.vertices)]
    importance = torch.full((len(vertices),), 1 / len(vertices)).to(skel.template)
    counted = [j for j in bones if stage.joints == "all" or j in _SCAPULAE]
    share = stage.joint_weight / max(len(counted), 1)
    joint_importance = torch.tensor([share if j in counted else 0.0 for j in range(24)]).to(skel.template)
    low, high = bounds[dofs].unbind(1)
    # A dof without limits in a published table gets the range of half a turn.
    half_range = torch.where(torch.isfinite(high - low), (high - low) / 2, torch.pi)
    prior = config.prior_weight / half_range**2
    pairs_and_moments = moment_table(skel, vertices, importance, joint_importance, bones)
    return StageTables(
        stage, dofs, bones, vertices, importance, joint_importance, *pairs_and_moments, prior, low, high,
        config.max_step,
    )  # fmt: skip


def spread(parts: Tensor, count: int) -> Tensor:
    """`count` vertices spread evenly over the bones, as sorted numbers into `parts` [V] (a bone number per vertex).

    Vertices are ordered by bone and every n-th is taken, so that each bone keeps its share.
    """
    order = torch.argsort(parts, stable=True)
    picked = torch.linspace(0, len(order) - 1, count, dtype=torch.float64).round().long()
    return order[picked.to(order.device)].unique()
