"""Prepare a pair of body models for fitting: all tables that do not depend on rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fitting.config import FitConfig
from fitting.kinematics import Kinematics
from fitting.mesh import Engine, Mesher
from fitting.plausible import Signs
from fitting.shape import ShapeMap, converted, copied
from fitting.stages import StageTables, stage_tables
from fitting.target import TargetMaker
from hmr_skel.body import dofs
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl

if TYPE_CHECKING:
    from fitting.descend import Solver


@dataclass(frozen=True)
class FitModel:
    """An SMPL and a SKEL body with their tables, made once by `prepare` for `fit_batch`."""

    config: FitConfig
    skel: Skel
    skel_gender: str
    shape: ShapeMap
    targets: TargetMaker
    kinematics: Kinematics  # float64
    signs: Signs
    stages: tuple[StageTables, ...]
    solve: "Solver"
    low: Tensor  # [46] float64
    high: Tensor  # [46] float64

    @cached_property
    def skin(self) -> Mesher:
        """The mesher of SKEL's skin."""
        return Mesher(self.skel, self.skel.joint_regressor, self.solve.engine)

    @property
    def device(self) -> torch.device:
        return self.skel.template.device


def prepare(
    smpl: Smpl,
    skel: Skel,
    config: FitConfig,
    skel_gender: str | None = None,
    device: str | torch.device = "cpu",
) -> FitModel:
    """Prepare fits of SKEL to annotations of one SMPL model.

    Args:
        smpl: the SMPL model of the annotations.
        skel: the male or female SKEL.
        config: the recipe.
        skel_gender: the gender in the result; by default that of `skel`.
        device: the device of fits; both bodies are moved there and stay there.

    The first time on a CPU takes some seconds: numba compiles the solver. On a GPU every process compiles it.

    Raises:
        UserError: kernels do not run on that device.
        ValueError: the gender is neither given nor known from the SKEL model.
    """
    gender = skel_gender or skel.gender
    if gender not in ("male", "female"):
        raise ValueError(f"the gender of the SKEL model is {gender!r}, expected 'male' or 'female': give skel_gender")
    smpl, skel = smpl.to(device), skel.to(device)
    kinematics = Kinematics(skel.axes.double(), skel.dof_index)
    bounds = torch.from_numpy(dofs.limits(config.limits)).to(device)
    shape = copied(skel.template.device) if config.shape == "copy" else converted(smpl, skel, config.betas_rms)
    stages = tuple(stage_tables(stage, skel, bounds, config) for stage in config.stages)
    low, high = bounds.unbind(1)
    # Imported here, because numba takes a second to load, which recipes do not need.
    from fitting.descend import Solver

    engine = engine_on(skel.template.device)
    model = FitModel(
        config=config,
        skel=skel,
        skel_gender=gender,
        shape=shape,
        targets=TargetMaker(smpl, skel, Mesher(smpl, skel.joint_regressor, engine)),
        kinematics=kinematics,
        signs=Signs(skel.template.device),
        stages=stages,
        solve=Solver(config, skel, kinematics, stages, (low, high), engine),
        low=low,
        high=high,
    )
    if model.device.type != "cpu":
        from fitting.gpu.device import try_out

        try_out(model)
    return model


def engine_on(device: torch.device) -> Engine:
    """What runs kernels on that device. On a CPU they are then compiled."""
    if device.type == "cpu":
        from fitting.lanes.cache import ready
        from fitting.lanes.cpu import Cpu

        ready()
        return Cpu()
    from fitting.gpu.device import Gpu, check

    check(device)
    return Gpu()
