"""Boxes in pictures to SKEL, a batch of people at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from hmr_skel.data.images import box_affine, crop_image
from hmr_skel.model.camera import CropGeometry
from hmr_skel.predict.attention import Attention, recording
from hmr_skel.predict.boxes import Box
from hmr_skel.predict.frames import Frame
from hmr_skel.predict.networks import Predictor


@dataclass(frozen=True)
class Person:
    """A box to be looked at."""

    number: int  # in its picture, from 0
    box: Box
    cam_int: Float[np.ndarray, "3 3"]  # px
    crop: UInt8[np.ndarray, "256 256 3"]  # RGB


@dataclass(frozen=True)
class Body:
    """What the network says of a person, after every stage; the last is the answer.

    The frame is the camera's (x right, y down, z forward). Stage 0 is what the decoder starts from.
    """

    q: Float[np.ndarray, "S 46"]  # rad
    betas: Float[np.ndarray, "S 10"]
    transl: Float[np.ndarray, "S 3"]  # m
    crop_camera: Float[np.ndarray, "S 3"]  # s, tx, ty: weak perspective in the crop; its half width is 1 / s metres
    attention: Attention | None = None


def cut_out(frame: Frame, number: int, box: Box, cam_int: Float[np.ndarray, "3 3"]) -> Person:
    """The person's crop. Raises `UnreadableImage` where the box lies outside the picture."""
    crop = crop_image(frame.rgb, box_affine(box.center, box.side))
    return Person(number, box, np.asarray(cam_int, np.float32), crop)


@torch.no_grad()
def predict(predictor: Predictor, people: Sequence[Person], *, attention: bool = False) -> list[Body]:
    """The bodies of a batch of people, in the order given.

    Translations are in the frame of each person's own camera, of networks without a camera too (whose own belief is a
    camera that they never see): the body's origin is projected to the same pixel either way.

    Args:
        predictor: on any device.
        people: one batch.
        attention: keep what the decoder's tokens look at; the network's tokens must have a place in the image.
    """
    device = next(predictor.network.parameters()).device
    crops = torch.from_numpy(np.stack([person.crop.transpose(2, 0, 1) for person in people])).to(device)
    center = torch.tensor(np.stack([person.box.center for person in people]), dtype=torch.float32)
    side = torch.tensor([person.box.side for person in people], dtype=torch.float32)
    intrinsics = torch.from_numpy(np.stack([person.cam_int for person in people]))
    geometry = CropGeometry.from_box(center, side, intrinsics).to(device)
    with recording(predictor.network, attention) as seen:
        prediction = predictor.network(crops, geometry)
    stages = [stage.skel_params(geometry) for stage in prediction.stages]
    q, betas, transl, camera = (
        torch.stack(parts, 1).float().cpu().numpy()
        for parts in (
            [stage.q for stage in stages],
            [stage.betas for stage in stages],
            [stage.transl for stage in stages],
            [stage.camera for stage in prediction.stages],
        )
    )
    maps = seen() if attention else [None] * len(people)
    return [Body(q[i], betas[i], transl[i], camera[i], maps[i]) for i in range(len(people))]
