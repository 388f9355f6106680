"""Fitting SKEL to SMPL annotations. Arrays in, arrays out: torch and numpy are all it needs.

smpl, skel = Smpl.load("SMPL_NEUTRAL.pkl"), Skel.load("skel_male.pkl")
model = prepare(smpl, skel, recipe("default"))
result = fit_batch(params, model)  # result.skel.q, result.v2v_mm, ...
"""

from fitting.config import FitConfig, Stage, recipe
from fitting.fit import FitResult, fit_batch
from fitting.many import fit_best, fit_many
from fitting.model import FitModel, prepare
from fitting.quality import Status

__all__ = [
    "FitConfig", "FitModel", "FitResult", "Stage", "Status", "fit_batch", "fit_best", "fit_many", "prepare",
    "recipe",
]  # fmt: skip
