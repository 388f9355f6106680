"""SMPL parameters from anywhere to SKEL.

from hmr_skel.convert import smpl_to_skel

skel = smpl_to_skel(poses, betas, transl, smpl_gender="male", frame_rate=60, body_models="/folder")
skel.q, skel.betas, skel.transl, skel.v2v_mm
"""

from hmr_skel.convert.call import smpl_to_skel
from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.convert.fit import Bodies, fit_clips
from hmr_skel.convert.formats import read_clips
from hmr_skel.convert.parameters import Units
from hmr_skel.convert.reading import ReadOptions

__all__ = ["Bodies", "ReadOptions", "SkelClip", "SmplClip", "Units", "fit_clips", "read_clips", "smpl_to_skel"]
