"""Predict SKEL from photographs and videos: find people and cameras, run the network, write files.

from hmr_skel.predict import image_to_skel

for body in image_to_skel(rgb, [[x1, y1, x2, y2]], network="network.safetensors", focal=1100):
    body.q[-1], body.betas[-1], body.transl[-1]
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmr_skel.predict.people import image_to_skel

__all__ = ["image_to_skel"]


def __getattr__(name: str):
    if name != "image_to_skel":  # imported when used, since it needs torch
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hmr_skel.predict.people import image_to_skel

    return image_to_skel
