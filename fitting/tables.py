"""What a stage needs to know that no row decides: its dofs, vertices, weights, moments and limits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.config import FitConfig, Stage
from fitting.kinematics import Kinematics
from fitting.moments import MomentTable
from fitting.pairs import BonePairs
from fitting.part import MovingPart
from fitting.solver import Box
from fitting.surface import Surface, spread
from hmr_skel.body import dofs
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.body.skel import Skel

_DOFS_OF = {
    "lower": [*range(46)[dofs.LOWER_BODY]],
    "upper": [*range(46)[dofs.UPPER_BODY]],
    "full": [*range(46)[dofs.BODY]],
}
_SCAPULAE = [SKEL_JOINTS.index("scapula_r"), SKEL_JOINTS.index("scapula_l")]


@dataclass(frozen=True)
class StageTables:
    """One stage on one device."""

    stage: Stage
    part: MovingPart
    surface: Surface
    moments: MomentTable
    pairs: BonePairs
    joint_importance: Tensor  # [24], of squared distances in m^2 beside the vertices' 1
    prior: Tensor  # [D]
    box: Box

    @property
    def correctives(self) -> bool:
        """Whether a visit's gradient is that of E itself: early parts of the body are moved roughly only."""
        return self.stage.part == "full"


def stage_tables(stage: Stage, skel: Skel, kinematics: Kinematics, bounds: Tensor, config: FitConfig) -> StageTables:
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
    # A dof that a published table leaves unbounded counts as if it could turn half way round.
    half_range = torch.where(torch.isfinite(high - low), (high - low) / 2, torch.pi)
    moments = MomentTable(skel, vertices, importance, joint_importance, part.bones)
    return StageTables(
        stage=stage,
        part=part,
        surface=Surface(skel, vertices, importance),
        moments=moments,
        pairs=BonePairs(part, moments.first, moments.second),
        joint_importance=joint_importance,
        prior=config.prior_weight / half_range**2,
        box=Box(low, high, config.max_step),
    )
