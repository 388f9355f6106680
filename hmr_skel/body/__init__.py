"""Body models: SMPL and SKEL, their files and the openly licensed stand-in."""

from hmr_skel.body.skel import Skel, SkelOutput
from hmr_skel.body.smpl import Smpl, SmplOutput

__all__ = ["Skel", "SkelOutput", "Smpl", "SmplOutput"]
