"""The body models SMPL and SKEL, their files, and the open body in their formats."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmr_skel.body.skel import Skel, SkelOutput
    from hmr_skel.body.smpl import Smpl, SmplOutput

__all__ = ["Skel", "SkelOutput", "Smpl", "SmplOutput"]

# Imported when used, so that names of dofs, joints and model files need no torch.
_MODULES = {"Skel": "skel", "SkelOutput": "skel", "Smpl": "smpl", "SmplOutput": "smpl"}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
