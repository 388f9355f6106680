"""A small network and a batch of made-up crops."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch

from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.config import DecoderConfig, NetworkConfig, VitConfig
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Network
from tests.conftest import torch_threads

SMALL_VIT = VitConfig(width=32, depth=2, heads=2, patch=32)
SMALL_DECODER = DecoderConfig(depth=3, heads=2, head_width=8, hidden=32)


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None, None, None]:
    """Many tiny products: a second thread only waits, and very long where other processes run."""
    with torch_threads(1):
        yield


@pytest.fixture
def small_config() -> Callable[..., NetworkConfig]:
    usual = {"vit": SMALL_VIT, "decoder": SMALL_DECODER, "head_hidden": 16}
    return lambda **switches: NetworkConfig(**usual | switches)


@pytest.fixture
def small_network(small_config) -> Callable[..., Network]:
    def make(seed: int = 0, **switches) -> Network:
        torch.manual_seed(seed)
        return Network(small_config(**switches))

    return make


@pytest.fixture
def geometry() -> Callable[..., CropGeometry]:
    def make(batch: int, seed: int = 0) -> CropGeometry:
        g = torch.Generator().manual_seed(seed)
        center = 300 + 50 * torch.randn(batch, 2, generator=g)
        size = 200 + 100 * torch.rand(batch, generator=g)
        intrinsics = torch.tensor([[900.0, 0, 320], [0, 900, 240], [0, 0, 1]]).expand(batch, 3, 3)
        return CropGeometry.from_box(center, size, intrinsics)

    return make


@pytest.fixture(scope="session")
def body(open_body_dir: Path) -> SkelKeypoints:
    return SkelKeypoints.load(open_body_dir, "male")
