"""hmr-skel converts SMPL annotations to SKEL, at dataset scale.

from hmr_skel import Skel, Smpl, convert, fit, load_shards, predict

`convert` and `predict` are packages, each with one function: `convert.smpl_to_skel`, `predict.image_to_skel`.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitting.many import fit
    from hmr_skel import convert, predict
    from hmr_skel.body.skel import Skel
    from hmr_skel.body.smpl import Smpl
    from hmr_skel.data.load import load_shards

__version__ = "0.1.0"

# OpenCV reads this once, when it is imported. With its own limit, 2^30 px, a small file could take 3 GB.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))

__all__ = ["Skel", "Smpl", "__version__", "convert", "fit", "load_shards", "predict"]

# Imported when used, so that `hmr_skel.body` and `fitting` need only torch and numpy, and not pyarrow.
_MODULES = {
    "Skel": "hmr_skel.body.skel", "Smpl": "hmr_skel.body.smpl", "fit": "fitting.many",
    "load_shards": "hmr_skel.data.load",
}  # fmt: skip


def __getattr__(name: str):
    if name in ("convert", "predict"):
        return import_module(f"hmr_skel.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'hmr_skel' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
