"""Predict SKEL for boxes in pictures, a batch of people at a time, and the decoder's attention (Fig. S5)."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hmr_skel.data.images import UnreadableImage, box_affine, crop_image
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.checkpoint import PUBLISHED, load_any_network
from hmr_skel.model.config import token_grid
from hmr_skel.model.decoder import CrossAttention
from hmr_skel.model.network import Network
from hmr_skel.predict.boxes import PersonBox, square
from hmr_skel.predict.cameras import FocalLength
from hmr_skel.predict.frames import Frame


@dataclass(frozen=True)
class Predictor:
    """A network in evaluation mode, and the SKEL body of its predictions."""

    network: Network
    skel_gender: str
    title: str  # for messages
    published: bool
    steps: int | None = None  # of its training; None if its file does not say

    @property
    def num_stages(self) -> int:
        """The number of estimates in a prediction."""
        return len(self.network.config.stage_names)


def load_predictor(path: Path, device: torch.device) -> Predictor:
    """Read the network of a run, or the published network. Raises `UserError` as `load_any_network`."""
    network, info = load_any_network(path)
    published = info.recipe.startswith(PUBLISHED)
    steps = info.details.get("step")
    title = info.recipe if published else f"recipe {info.recipe}, step {steps}"
    return Predictor(network.to(device), info.skel_gender, title, published, steps)


TOKENS = ("pose", "shape", "camera")
"""The decoder's tokens, in its order."""

AttentionMaps = Float[Tensor, "T 3 rows columns"]
"""Attention by layer T, token and patch, on the CPU: means over the heads, which sum to 1 over the patches."""


@contextmanager
def recording(network: Network, on: bool) -> Generator[Callable[[], list[AttentionMaps]], None, None]:
    """Keep the attention of each layer inside the block; the yielded function returns it per sample.

    The weights are computed a second time, since the network's own kernels do not return them.
    """
    layers: list[Tensor] = []

    def keep(module: CrossAttention, inputs: tuple[Tensor, Tensor]) -> None:
        layers.append(weights(module, *inputs).cpu())

    def found() -> list[AttentionMaps]:
        grid = token_grid(network.config.vit)
        return [maps.unflatten(-1, grid) for maps in torch.stack(layers, 1)]

    attentions = [module for module in network.decoder.modules() if isinstance(module, CrossAttention)] if on else []
    handles = [module.register_forward_pre_hook(keep) for module in attentions]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def weights(module: CrossAttention, tokens: Float[Tensor, "B T D"], image: Float[Tensor, "B N D"]) -> Tensor:
    """The weight of each image token for each token: [B T N], mean over the heads."""
    query = module.query(module.norm(tokens)).unflatten(-1, (module.heads, -1))
    key = module.key_value(image).chunk(2, -1)[0].unflatten(-1, (module.heads, -1))
    scores = torch.einsum("bthd,bnhd->bhtn", query, key) * query.shape[-1] ** -0.5
    return scores.softmax(-1).mean(1)


@dataclass(frozen=True)
class Person:
    """A person to predict."""

    number: int  # in its picture, from 0
    box: PersonBox
    cam_int: Float[np.ndarray, "3 3"]  # px
    crop: UInt8[np.ndarray, "256 256 3"]  # RGB


@dataclass(frozen=True)
class Body:
    """The network's estimates for a person after each of S stages; the last one is the final estimate.

    The frame is the camera's (x right, y down, z forward). The decoder starts from stage 0.
    """

    q: Float[np.ndarray, "S 46"]  # rad
    betas: Float[np.ndarray, "S 10"]
    transl: Float[np.ndarray, "S 3"]  # m
    crop_camera: Float[np.ndarray, "S 3"]  # s, tx, ty: weak perspective in the crop, whose half width is 1 / s m
    attention: AttentionMaps | None = None


def cut_out(
    frame: Frame, number: int, box: PersonBox, cam_int: Float[np.ndarray, "3 3"], smooth: bool = True
) -> Person:
    """Cut out a person, `smooth` as in `crop_image`. Raises `UnreadableImage` if the box is outside the picture."""
    crop = crop_image(frame.rgb, box_affine(box.center, box.side), smooth=smooth)
    return Person(number, box, np.asarray(cam_int, np.float32), crop)


@torch.no_grad()
def predict(predictor: Predictor, people: Sequence[Person], *, attention: bool = False) -> list[Body]:
    """The bodies of a batch of people, in the same order.

    Translations are in the frame of each person's camera. This holds also for networks without a camera, which assume
    another one: the body's origin projects to the same pixel in both.

    Args:
        predictor: on any device.
        people: one batch.
        attention: keep the decoder's attention; the network's tokens must have a place in the image.
    """
    device = next(predictor.network.parameters()).device
    crops = torch.from_numpy(np.stack([person.crop.transpose(2, 0, 1) for person in people])).to(device)
    center = torch.tensor(np.stack([person.box.center for person in people]), dtype=torch.float32)
    side = torch.tensor([person.box.side for person in people], dtype=torch.float32)
    intrinsics = torch.from_numpy(np.stack([person.cam_int for person in people]))
    geometry = CropGeometry.from_box(center, side, intrinsics).to(device)
    with recording(predictor.network, attention) as seen:
        prediction = predictor.network(crops, geometry)
    stages = [vars(stage.skel_params(geometry)) | {"crop_camera": stage.camera} for stage in prediction.stages]
    arrays = {name: torch.stack([stage[name] for stage in stages], 1).float().cpu().numpy() for name in stages[0]}
    maps = seen() if attention else [None] * len(people)
    return [Body(**{name: array[i] for name, array in arrays.items()}, attention=maps[i]) for i in range(len(people))]


def image_to_skel(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Sequence[Sequence[float]] | Float[np.ndarray, "N 4"],
    *,
    network: str | Path | Predictor,
    focal: float,
    margin: float = 1.1,
    device: str = "auto",
) -> list[Body]:
    """Predict SKEL for the people in one picture.

    Args:
        image: RGB.
        boxes: x1, y1, x2, y2 of each person, px.
        network: `network.safetensors` of a run, or SKEL-CF's `best.pth`; or the result of `load_predictor`.
        focal: focal length, px; the principal point is the middle of the picture.
        margin: side of the network's square over the longer side of the box.
        device: cpu, cuda, cuda:1; auto takes the first CUDA device, else the CPU.

    Returns:
        A `Body` for each box, in that order. `q` [S 46] rad, `betas` [S 10] and `transl` [S 3] m, in the camera's frame
        (x right, y down, z forward), are the estimates after each of S stages; [-1] is the final estimate.

    Raises:
        UserError: the file is not a network, there is no such device, or a box is empty or outside the picture.
    """
    if not isinstance(network, Predictor):
        network = load_predictor(Path(network), resolve_device(device))
    frame = Frame(Path("image"), None, None, image)
    cam_int, people = FocalLength(focal).of(frame), []
    for number, corners in enumerate(boxes):
        try:
            people.append(cut_out(frame, number, square(np.asarray(corners), margin), cam_int))
        except UnreadableImage as error:
            raise UserError(f"box {number}, {list(corners)}: {error}. Expected x1, y1, x2, y2 in px.") from error
    return predict(network, people) if people else []
