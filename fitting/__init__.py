"""Fit SKEL to SMPL annotations. This package works on arrays and needs only torch and numpy.

smpl, skel = Smpl.load("SMPL_NEUTRAL.pkl"), Skel.load("skel_male.pkl")
model = prepare(smpl, skel, recipe("default"))
result = fit_batch(params, model)  # result.skel.q, result.v2v_mm, ...
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fitting.config import FitConfig, Stage, recipe

if TYPE_CHECKING:
    from fitting.fit import FitResult, Status, fit_batch
    from fitting.many import fit_best, fit_many
    from fitting.meshes import fit_meshes
    from fitting.model import FitModel, prepare

__all__ = [
    "FitConfig", "FitModel", "FitResult", "Stage", "Status", "fit_batch", "fit_best", "fit_many", "fit_meshes",
    "prepare", "recipe",
]  # fmt: skip

# Imported when used, so that recipes need no torch.
_MODULES = {
    "FitResult": "fit", "fit_batch": "fit", "fit_best": "many", "fit_many": "many", "fit_meshes": "meshes",
    "FitModel": "model", "prepare": "model", "Status": "fit",
}  # fmt: skip


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
