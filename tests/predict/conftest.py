"""Photographs of known bodies, and networks: a small one on disk, and one that knows the answer."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from hmr_skel.body.skel import Skel
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.checkpoint import NetworkInfo, save_network
from hmr_skel.model.config import NetworkConfig
from hmr_skel.model.decoder import HSMR_MEAN_Q, Estimate
from hmr_skel.model.network import Network, Prediction
from hmr_skel.model.pose_rep import q_to_rep
from hmr_skel.predict.people import Predictor
from hmr_skel.render import render_mesh
from hmr_skel.rows import SkelParams
from tests.model.conftest import SMALL_DECODER, SMALL_VIT, one_thread, small_config

__all__ = ["one_thread", "small_config"]

CAM_INT = np.array([[420.0, 0, 170], [0, 420, 118], [0, 0, 1]], np.float32)  # the principal point is not the middle
WIDTH, HEIGHT = 320, 260


@dataclass(frozen=True)
class Photo:
    """A person in front of a wall, and what is true of both."""

    file: Path
    rgb: np.ndarray
    mask: np.ndarray  # [H W] where the person is seen
    params: SkelParams  # of one body
    corners: np.ndarray  # x1, y1, x2, y2 of the tight box, px


@pytest.fixture(scope="session")
def skel(open_body_dir: Path) -> Skel:
    return Skel.load(open_body_dir / "skel_male.pkl", gender="male")


@pytest.fixture(scope="session")
def photos(skel: Skel, tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """Three, in a folder with nothing else; read only."""
    folder = tmp_path_factory.mktemp("photos")
    return [_photo(skel, folder / f"{i}.png", i) for i in (1, 2, 10)]


def _photo(skel: Skel, file: Path, seed: int) -> Photo:
    g = torch.Generator().manual_seed(seed)
    q = torch.tensor(HSMR_MEAN_Q) + 0.15 * torch.randn(46, generator=g)
    q[:3] = torch.tensor([np.pi, 0.1, 0.4 * seed])
    transl = torch.tensor([0.3 - 0.05 * seed, 0.2, 3.6])
    params = SkelParams(q, 0.5 * torch.randn(10, generator=g), transl)
    with torch.no_grad():
        vertices = skel(params.q, params.betas, params.transl).vertices.numpy()
    body = render_mesh(vertices, skel.faces, CAM_INT, WIDTH, HEIGHT, np.array([[0.9, 0.5, 0.3]]))
    wall = np.random.default_rng(seed).uniform(0.1, 0.4, (HEIGHT, WIDTH, 3)).astype(np.float32)
    rgb = (255 * body.over(wall)).astype(np.uint8)
    cv2.imwrite(str(file), rgb[..., ::-1])
    rows, columns = np.nonzero(body.mask)
    corners = np.array([columns.min(), rows.min(), columns.max(), rows.max()], float)
    return Photo(file, rgb, body.mask, params, corners)


class Oracle(Network):
    """Answers with bodies that it was told, through the crop's camera, as networks do; earlier stages are the mean."""

    def __init__(self, params: SkelParams) -> None:
        super().__init__(NetworkConfig(vit=SMALL_VIT, decoder=SMALL_DECODER, refine=False))
        self.params = params  # [B]

    def forward(self, images: Tensor, geometry: CropGeometry, bf16: bool = False) -> Prediction:
        transl, focal = self.params.transl, geometry.intrinsics[:, 0, 0]
        offset = geometry.center - geometry.intrinsics[:, :2, 2]
        scale = 2 * focal / (geometry.size * transl[:, 2])
        shift = transl[:, :2] - 2 * offset / (geometry.size * scale)[:, None]
        camera = torch.cat((scale[:, None], shift), 1)
        final = Estimate(q_to_rep(self.params.q), self.params.betas, camera)
        mean = Estimate(q_to_rep(torch.tensor(HSMR_MEAN_Q)).expand_as(final.rep), 0 * final.betas, final.camera)
        return Prediction((mean, final), geometry, True)


@pytest.fixture
def oracle(photos: list[Photo]) -> Predictor:
    """Knows the people of `photos`, in their order."""
    fields = ("q", "betas", "transl")
    params = SkelParams(*(torch.stack([getattr(photo.params, name) for photo in photos]) for name in fields))
    return Predictor(Oracle(params), "male", "oracle", published=False)


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of 8 x 6 patches that knows nothing, as `train` leaves it."""
    torch.manual_seed(0)
    network = Network(NetworkConfig(vit=SMALL_VIT, decoder=SMALL_DECODER, head_hidden=16))
    path = tmp_path_factory.mktemp("run") / "network.safetensors"
    save_network(path, network, NetworkInfo(skel_gender="male", recipe="test", details={"step": 7}))
    return path


@pytest.fixture(scope="session")
def video(photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs, four frames of each, at 20 frames a second."""
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, (WIDTH, HEIGHT))
    for photo in photos:
        for _ in range(4):
            writer.write(np.ascontiguousarray(photo.rgb[..., ::-1]))
    writer.release()
    return path
