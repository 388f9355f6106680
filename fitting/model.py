"""A pair of body models made ready for fitting: every table that does not depend on a row."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec

import torch
from torch import Tensor

from fitting.batch import Fitted
from fitting.config import FitConfig
from fitting.kinematics import Kinematics
from fitting.plain import PlainSolver
from fitting.plausible import Signs
from fitting.shape import ShapeMap, converted, copied
from fitting.stages import StageTables, stage_tables
from fitting.target import FitRows, Mesher, PlainMesher, TargetMaker
from hmr_skel.body import dofs
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl

Solver = Callable[[FitRows, Tensor], Fitted]


@dataclass(frozen=True)
class FitModel:
    """What `fit_batch` needs to know of an SMPL and a SKEL body. Made once by `prepare`, shared by all rows."""

    config: FitConfig
    skel: Skel
    skel_gender: str
    shape: ShapeMap
    targets: TargetMaker
    kinematics: Kinematics  # float64
    signs: Signs
    stages: tuple[StageTables, ...]
    solve: Solver  # from starts q [B 46] to the end of the last stage
    polish: Solver | None  # the last stage alone, where the recipe refines shape or root
    compiled: bool  # by numba, for CPUs; else plain torch
    low: Tensor  # [46] float64
    high: Tensor  # [46] float64

    @cached_property
    def skin(self) -> Mesher:
        """Poses SKEL's own mesh."""
        return type(self.targets.mesher)(self.skel, self.skel.joint_regressor)

    @property
    def device(self) -> torch.device:
        return self.skel.template.device


def prepare(
    smpl: Smpl,
    skel: Skel,
    config: FitConfig,
    skel_gender: str | None = None,
    device: str | torch.device = "cpu",
    compiled: bool | None = None,
) -> FitModel:
    """Tables for fitting SKEL to annotations of one SMPL model.

    Args:
        smpl: the model that the annotations are for (its own gender).
        skel: the male or the female SKEL.
        config: the recipe.
        skel_gender: written into the result; the SKEL model's own if not given.
        device: where fits run; both bodies are moved there for good.
        compiled: the solver that numba compiles for CPUs, or the plain one in torch. Not given: the compiled one on a
            CPU where numba is installed. Both end in the same minima, to the last bits of float32. The first time on a
            CPU it takes some seconds to compile.

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
    stages = tuple(stage_tables(stage, skel, kinematics, bounds, config) for stage in config.stages)
    low, high = bounds.unbind(1)
    solver = PlainSolver(config, kinematics, stages, low, high)
    if compiled is None:
        compiled = smpl.template.device.type == "cpu" and find_spec("numba") is not None
    if compiled:  # imported here: a GPU machine has no use for numba and need not have it
        from fitting.lanes.cache import ready
        from fitting.lanes.mesh import LaneMesher

        ready()
        mesher = LaneMesher(smpl, skel.joint_regressor)
    else:
        mesher = PlainMesher(smpl, skel.joint_regressor)
    solve, polish = solvers(solver, skel, compiled)
    return FitModel(
        config=config,
        skel=skel,
        skel_gender=gender,
        shape=shape,
        targets=TargetMaker(smpl, skel, mesher),
        kinematics=kinematics,
        signs=Signs(skel.template.device),
        stages=stages,
        solve=solve,
        polish=polish,
        compiled=compiled,
        low=low,
        high=high,
    )


def solvers(plain: PlainSolver, skel: Skel, compiled: bool) -> tuple[Solver, Solver | None]:
    """`FitModel.solve` and `FitModel.polish`."""
    last = replace(plain, stages=plain.stages[-1:]) if plain.config.refines else None
    if not compiled:
        return plain, last
    from fitting.lanes.descend import LaneSolver

    return LaneSolver(plain, skel), None if last is None else LaneSolver(last, skel)
