"""Named sets of virtual markers on the skin.

A marker is the skin vertex nearest to a position in the T-pose of the mean body, so it is the same vertex in all shapes
and poses. Positions are relative to SKEL's joints, so bodies of any topology have them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from hmr_skel.body.joints import SKEL_JOINTS
from hmr_skel.body.skel import Skel
from hmr_skel.opensim.person import Motion, RestBody

SETS = ("rajagopal", "plug-in-gait")
"""The sets: the markers of Rajagopal's full-body OpenSim model (2016), and the usual Plug-in-Gait markers."""


@dataclass(frozen=True)
class Marker:
    """A marker: its name, its skin vertex, and the bone that it is fixed to in a model."""

    name: str
    vertex: int
    bone: str


class _Spot(NamedTuple):
    """The position of markers in the T-pose of the mean body."""

    names: tuple[str | None, str | None]  # in each of `SETS`, without the side; None if the set lacks it
    bone: str  # likewise; the marker is fixed to it in a model
    start: str  # the joint from which the place is measured,
    towards: str  # ... towards which other one,
    share: float  # ... and how far, as a share of their distance;
    offset: tuple[float, float, float]  # ... and then m to the left, up and forward


# The right side; the left is its mirror image.
_SIDED = (
    _Spot(("ASI", "ASI"), "pelvis", "femur", "femur", 0.0, (-0.035, 0.10, 0.09)),
    _Spot(("PSI", "PSI"), "pelvis", "femur", "femur", 0.0, (0.045, 0.13, -0.085)),
    _Spot(("TH1", None), "femur", "femur", "tibia", 0.4, (-0.02, 0.0, 0.09)),
    _Spot(("TH2", "THI"), "femur", "femur", "tibia", 0.5, (-0.08, 0.0, 0.0)),
    _Spot(("TH3", None), "femur", "femur", "tibia", 0.65, (-0.05, 0.0, 0.06)),
    _Spot(("LFC", "KNE"), "femur", "tibia", "tibia", 0.0, (-0.055, 0.0, 0.0)),
    _Spot(("MFC", None), "femur", "tibia", "tibia", 0.0, (0.055, 0.0, 0.0)),
    _Spot(("TB1", None), "tibia", "tibia", "talus", 0.3, (0.0, 0.0, 0.06)),
    _Spot(("TB2", "TIB"), "tibia", "tibia", "talus", 0.4, (-0.06, 0.0, 0.0)),
    _Spot(("TB3", None), "tibia", "tibia", "talus", 0.55, (-0.03, 0.0, 0.05)),
    _Spot(("LMAL", "ANK"), "tibia", "talus", "talus", 0.0, (-0.045, 0.0, -0.01)),
    _Spot(("MMAL", None), "tibia", "talus", "talus", 0.0, (0.045, 0.01, 0.01)),
    _Spot(("CAL", "HEE"), "calcn", "calcn", "calcn", 0.0, (0.0, 0.0, -0.04)),
    _Spot(("TOE", "TOE"), "calcn", "toes", "toes", 0.0, (0.0, 0.03, 0.0)),
    _Spot(("MT5", None), "calcn", "toes", "toes", 0.0, (-0.06, 0.0, -0.02)),
    _Spot(("ACR", "SHO"), "scapula", "scapula", "humerus", 0.5, (0.0, 0.05, 0.0)),
    _Spot(("ASH", None), "humerus", "humerus", "humerus", 0.0, (0.0, 0.0, 0.07)),
    _Spot(("PSH", None), "humerus", "humerus", "humerus", 0.0, (0.0, 0.0, -0.07)),
    _Spot(("UA1", "UPA"), "humerus", "humerus", "ulna", 0.5, (0.0, 0.06, 0.0)),
    _Spot(("UA2", None), "humerus", "humerus", "ulna", 0.6, (0.0, 0.03, -0.04)),
    _Spot(("UA3", None), "humerus", "humerus", "ulna", 0.7, (0.0, 0.03, 0.04)),
    _Spot(("LEL", "ELB"), "humerus", "ulna", "ulna", 0.0, (0.0, 0.05, 0.0)),
    _Spot(("MEL", None), "humerus", "ulna", "ulna", 0.0, (0.0, -0.05, 0.0)),
    _Spot(("FAsuperior", "FRM"), "radius", "radius", "hand", 0.4, (0.0, 0.05, 0.0)),
    _Spot(("FAradius", "WRA"), "radius", "hand", "hand", 0.0, (0.01, 0.0, 0.04)),
    _Spot(("FAulna", "WRB"), "radius", "hand", "hand", 0.0, (0.01, 0.0, -0.04)),
    _Spot((None, "FIN"), "hand", "hand", "hand", 0.0, (-0.085, 0.03, 0.0)),
    _Spot((None, "FHD"), "head", "head", "head", 0.0, (-0.065, 0.10, 0.09)),
    _Spot((None, "BHD"), "head", "head", "head", 0.0, (-0.06, 0.10, -0.07)),
)
_MIDDLE = (
    _Spot(("C7", "C7"), "thorax", "head", "head", 0.0, (0.0, -0.06, -0.10)),
    _Spot(("CLAV", "CLAV"), "thorax", "head", "head", 0.0, (0.0, -0.14, 0.06)),
    _Spot((None, "STRN"), "thorax", "thorax", "head", 0.3, (0.0, 0.0, 0.17)),
    _Spot((None, "T10"), "thorax", "thorax", "head", 0.15, (0.0, 0.0, -0.10)),
    _Spot((None, "RBAK"), "thorax", "scapula_r", "scapula_r", 0.0, (0.08, -0.08, -0.08)),
)


def marker_set(name: str, skel: Skel) -> list[Marker]:
    """The markers of a set of `SETS` on this body."""
    skin, joints = skel.template.double().cpu().numpy(), skel.joint_template.double().cpu().numpy()

    def marker(own: str, spot: _Spot) -> Marker:
        first, second = joints[SKEL_JOINTS.index(spot.start)], joints[SKEL_JOINTS.index(spot.towards)]
        place = first + spot.share * (second - first) + np.array(spot.offset)
        return Marker(own, int(np.linalg.norm(skin - place, axis=1).argmin()), spot.bone)

    number = SETS.index(name)
    found = [marker(own, spot) for spot in _MIDDLE if (own := spot.names[number]) is not None]
    for side, sign in (("r", 1.0), ("l", -1.0)):
        for spot in _SIDED:
            if (own := spot.names[number]) is not None:
                left, up, forward = spot.offset
                parts = (part if part in SKEL_JOINTS else f"{part}_{side}" for part in spot[1:4])
                found.append(
                    marker(side.upper() + own, _Spot(spot.names, *parts, spot.share, (sign * left, up, forward)))
                )
    return found


@torch.no_grad()
def marker_places(person: RestBody, motion: Motion, markers: list[Marker]) -> np.ndarray:
    """The positions of markers on the posed skin in each frame [N M 3], m, in the ground frame."""
    like = person.skel.template
    few = person.skel.at_vertices(torch.tensor([marker.vertex for marker in markers], device=like.device))
    shape = few.prepare_shape(torch.from_numpy(person.betas).to(like))
    posed = few.pose(torch.from_numpy(motion.q).to(like), shape, torch.zeros(3).to(like))
    from_pelvis = (posed.vertices - posed.joints[:, :1]).double().cpu().numpy()
    return from_pelvis @ person.dof_frame[0] + motion.pelvis[:, None]
