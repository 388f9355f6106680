"""SMPL parameters from anywhere to SKEL.

from hmr_skel.convert import smpl_to_skel

skel = smpl_to_skel(poses, betas, transl, smpl_gender="male", frame_rate=60, body_models="/folder")
skel.q, skel.betas, skel.transl, skel.v2v_mm
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmr_skel.convert.call import smpl_to_skel
    from hmr_skel.convert.clips import SkelClip, SmplClip
    from hmr_skel.convert.fit import Bodies, fit_clips
    from hmr_skel.convert.formats import read_clips
    from hmr_skel.convert.parameters import Units
    from hmr_skel.convert.reading import ReadOptions

__all__ = ["Bodies", "ReadOptions", "SkelClip", "SmplClip", "Units", "fit_clips", "read_clips", "smpl_to_skel"]

# Lazy, so that the tables' columns are there without torch.
_MODULES = {
    "Bodies": "fit", "ReadOptions": "reading", "SkelClip": "clips", "SmplClip": "clips", "Units": "parameters",
    "fit_clips": "fit", "read_clips": "formats", "smpl_to_skel": "call",
}  # fmt: skip


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
