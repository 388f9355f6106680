"""A pair of body models made ready for fitting: every table that does not depend on a row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.config import FitConfig, Stage
from fitting.kinematics import Kinematics
from fitting.moments import MomentTable
from fitting.pairs import BonePairs
from fitting.part import MovingPart
from fitting.shape import ShapeMap, converted, copied
from fitting.solver import Box
from fitting.surface import Surface, spread
from fitting.target import TargetMaker
from hmr_skel.body import dofs
from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl

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


@dataclass(frozen=True)
class FitModel:
    """What `fit_batch` needs to know of an SMPL and a SKEL body. Made once by `prepare`, shared by all rows."""

    config: FitConfig
    skel: Skel
    skel_gender: str
    shape: ShapeMap
    targets: TargetMaker
    kinematics: Kinematics  # float64
    stages: tuple[StageTables, ...]
    low: Tensor  # [46] float64
    high: Tensor  # [46] float64

    @property
    def device(self) -> torch.device:
        return self.skel.template.device


def prepare(
    smpl: Smpl, skel: Skel, config: FitConfig, skel_gender: str | None = None, device: str | torch.device = "cpu"
) -> FitModel:
    """Tables for fitting SKEL to annotations of one SMPL model.

    Args:
        smpl: the model that the annotations are for (its own gender).
        skel: the male or the female SKEL.
        config: the recipe.
        skel_gender: written into the result; the SKEL model's own if not given.
        device: where fits run; both bodies are moved there for good.

    Raises:
        ValueError: the gender is neither given nor known from the SKEL model.
    """
    gender = skel_gender or skel.gender
    if gender not in ("male", "female"):
        raise ValueError(f"the SKEL model's gender is {gender!r}, expected 'male' or 'female': give skel_gender")
    smpl, skel = smpl.to(device), skel.to(device)
    kinematics = Kinematics(skel.axes.double(), skel.dof_index)
    bounds = torch.from_numpy(dofs.limits(config.limits)).to(device)
    shape = copied(skel.template.device) if config.shape == "copy" else converted(smpl, skel, config.betas_rms)
    return FitModel(
        config=config,
        skel=skel,
        skel_gender=gender,
        shape=shape,
        targets=TargetMaker(smpl, skel),
        kinematics=kinematics,
        stages=tuple(_tables(stage, skel, kinematics, bounds, config) for stage in config.stages),
        low=bounds[:, 0],
        high=bounds[:, 1],
    )


def _tables(stage: Stage, skel: Skel, kinematics: Kinematics, bounds: Tensor, config: FitConfig) -> StageTables:
    numbers = _DOFS_OF[stage.part]
    part = MovingPart(numbers, kinematics)
    bone = skel.weights.argmax(1)
    vertices = torch.isin(bone, torch.tensor(part.bones, device=bone.device)).nonzero().squeeze(1)
    if stage.part == "full":
        vertices = torch.arange(len(bone), device=bone.device)
    if 0 < stage.vertices < len(vertices):
        vertices = vertices[spread(bone[vertices], stage.vertices)]
    importance = torch.full((len(vertices),), 1 / len(vertices)).to(skel.template)
    counted = [j for j in part.bones if stage.joints == "all" or j in _SCAPULAE]
    joint_importance = torch.zeros(24).to(skel.template)
    joint_importance[counted] = stage.joint_weight / max(len(counted), 1)
    low, high = bounds[numbers, 0], bounds[numbers, 1]
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
