"""The tables of a stage that do not depend on rows: its dofs, vertices, weights, moments and limits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.config import FitConfig, Stage
from fitting.kinematics import Kinematics
from fitting.surface import Surface, spread
from hmr_skel.body import dofs
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS, subtree
from hmr_skel.body.lbs import picked
from hmr_skel.body.moving_joints import MOVING_JOINTS
from hmr_skel.body.skel import Skel

_DOFS_OF = {
    "lower": [*range(46)[dofs.LOWER_BODY]],
    "upper": [*range(46)[dofs.UPPER_BODY]],
    "full": [*range(46)[dofs.BODY]],
}
# A row has arrived where its step lowered the reduced energy by no more than this share.
LITTLE = 1e-4
DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MIN, DAMPING_MAX = 1e-4, 0.2, 8.0, 1e-9, 1e6

_SCAPULAE = [SKEL_JOINTS.index("scapula_r"), SKEL_JOINTS.index("scapula_l")]
_MONOMIALS = [(a, b) for a in range(11) for b in range(a, 11)]


class MovingPart:
    """The dofs that a stage moves, their joints, and the bones below each joint, on one device."""

    def __init__(self, dofs: list[int], kinematics: Kinematics) -> None:
        device = kinematics.unit.device
        joints = sorted({DOF_JOINTS[k] for k in dofs})
        self.dofs = torch.tensor(dofs, device=device)
        self.joints = torch.tensor(joints, device=device)
        self.bones = sorted({bone for joint in joints for bone in subtree(SKEL_PARENTS, joint)})
        # Each joint has room for three dofs; `slots` are those in use.
        self.slots = torch.tensor(
            [3 * joints.index(DOF_JOINTS[k]) + int(kinematics.dof_order[k]) for k in dofs], device=device
        )
        below = [[float(bone in subtree(SKEL_PARENTS, joint)) for bone in range(24)] for joint in joints]
        self.below = torch.tensor(below, device=device)  # [J 24]
        self.moving = [i for i, j in enumerate(MOVING_JOINTS) if j in joints]


def monomials(betas: Tensor) -> Tensor:
    """The 66 products of [1, betas] with itself, [B 66]."""
    extended = torch.cat((torch.ones_like(betas[:, :1]), betas), 1)
    low, high = zip(*_MONOMIALS, strict=True)
    return picked(extended, low, 1) * picked(extended, high, 1)


class MomentTable:
    """Second moments of the skin, M_mn = sum_v c_v w_vm w_vn [x; 1][x; 1]^T, as a table over betas.

    The rest skin is linear in betas, so M is quadratic in them: 66 monomials times one 4x4 block per pair of bones that
    share vertices. Pose correctives are left out. They change M by a few per cent, which sometimes costs a step but
    moves no minimum, because gradients come from the vertices. The table contains licensed data, so it is never stored.

    Attributes: `first`, `second` [P]: the pairs of bones m <= n that share vertices, diagonal pairs included.
    """

    def __init__(
        self, skel: Skel, vertices: Tensor, importance: Tensor, joint_importance: Tensor, bones: list[int]
    ) -> None:
        """Weights `importance` [V], `joint_importance` [24]: an anatomical joint is one more point of its bone."""
        weights = skel.weights[vertices].double()
        moving = torch.tensor(bones, device=weights.device)
        overlap = (weights[:, moving].T @ weights[:, moving]) > 0
        overlap |= torch.eye(len(bones), dtype=torch.bool, device=weights.device)
        pairs = moving[overlap.triu().nonzero()]
        self.first, self.second = pairs.unbind(1)
        rest = _homogeneous(skel.template, skel.shapedirs)[:, vertices]  # [11 V 4]
        joints = _homogeneous(skel.joint_template, skel.joint_shapedirs)  # [11 24 4]
        product = importance.double()[:, None] * weights[:, self.first] * weights[:, self.second]  # [V P]
        table = torch.stack([product.T @ _outer(rest, a, b) for a, b in _MONOMIALS])  # [66 P 16]
        diagonal = (self.first == self.second).nonzero().squeeze(1)
        bone = self.first[diagonal]
        for row, (a, b) in enumerate(_MONOMIALS):
            table[row, diagonal] += joint_importance.double()[bone, None] * _outer(joints[:, bone], a, b)
        self.table = table.flatten(1).to(skel.template.dtype)


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
class PartLimits:
    """The limits [D] of a part's dofs, and the largest step, rad."""

    low: Tensor
    high: Tensor
    max_step: float


@dataclass(frozen=True)
class StageTables:
    """The tables of one stage on one device."""

    stage: Stage
    part: MovingPart
    surface: Surface
    moments: MomentTable
    joint_importance: Tensor  # [24] weights of squared distances, m^2; those of the vertices sum to 1
    prior: Tensor  # [D] weight over squared half range, per dof
    limits: PartLimits

    @property
    def correctives(self) -> bool:
        """Whether visits include the correctives, for the exact gradient of E; early stages move roughly."""
        return self.stage.part == "full"


def stage_tables(stage: Stage, skel: Skel, kinematics: Kinematics, bounds: Tensor, config: FitConfig) -> StageTables:
    """The tables of a stage; `bounds` [46 2] are the limits of all dofs, rad."""
    part = MovingPart(_DOFS_OF[stage.part], kinematics)
    bone = skel.weights.argmax(1)
    vertices = torch.isin(bone, torch.tensor(part.bones, device=bone.device)).nonzero().squeeze(1)
    if stage.part == "full":
        vertices = torch.arange(len(bone), device=bone.device)
    if 0 < stage.vertices < len(vertices):
        vertices = vertices[spread(bone[vertices], stage.vertices)]
    importance = torch.full((len(vertices),), 1 / len(vertices)).to(skel.template)
    counted = [j for j in part.bones if stage.joints == "all" or j in _SCAPULAE]
    share = stage.joint_weight / max(len(counted), 1)
    joint_importance = torch.tensor([share if j in counted else 0.0 for j in range(24)]).to(skel.template)
    low, high = bounds[part.dofs, 0], bounds[part.dofs, 1]
    # A dof without limits in a published table gets the range of half a turn.
    half_range = torch.where(torch.isfinite(high - low), (high - low) / 2, torch.pi)
    moments = MomentTable(skel, vertices, importance, joint_importance, part.bones)
    return StageTables(
        stage=stage,
        part=part,
        surface=Surface(skel, vertices, importance),
        moments=moments,
        joint_importance=joint_importance,
        prior=config.prior_weight / half_range**2,
        limits=PartLimits(low, high, config.max_step),
    )
