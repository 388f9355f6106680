"""hmr-skel: SMPL annotations to SKEL, at dataset scale."""

import os

__version__ = "0.1.0"

# OpenCV reads this once, when it is imported. With its own limit, 2^30 px, a small file could take 3 GB.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))

__all__ = ["__version__", "load_shards"]


def __getattr__(name: str):
    # Lazy, so that `hmr_skel.body` and `fitting` need torch and numpy only: shards need pyarrow.
    if name == "load_shards":
        from hmr_skel.data.load import load_shards

        return load_shards
    raise AttributeError(f"module 'hmr_skel' has no attribute {name!r}")
