"""A batch with every kind of label, that some body really has."""

from collections.abc import Callable
from functools import lru_cache, partial

import pytest
import torch

from hmr_skel.data.samples import Batch
from hmr_skel.model.camera import CropGeometry, image_to_crop, project
from hmr_skel.model.decoder import HSMR_MEAN_Q, Estimate
from hmr_skel.model.keypoints import SkelKeypoints
from hmr_skel.model.network import Prediction
from hmr_skel.model.pose_rep import q_to_rep
from hmr_skel.train import flops
from hmr_skel.train.losses import keypoints_of
from tests.data.sample_set import SampleSet, write_sample_set
from tests.model.conftest import body, geometry, one_thread, small_config, small_network

__all__ = ["body", "geometry", "one_thread", "small_config", "small_network"]


@pytest.fixture(scope="package", autouse=True)
def _measured_once():
    """The speed of the machine, which a run finds out at its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flops, "_measured_peak", lru_cache(partial(flops._measured_peak, seconds=0.01)))
        yield


@pytest.fixture(scope="package")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    """Two shards of 12 rows to learn, and held-out ones. Read only."""
    return write_sample_set(tmp_path_factory.mktemp("samples"), held_out=2)


def random_estimate(batch: int, seed: int) -> Estimate:
    g = torch.Generator().manual_seed(seed)
    q = torch.tensor(HSMR_MEAN_Q) + 0.2 * torch.randn(batch, 46, generator=g)
    camera = torch.tensor([0.9, 0.05, 0.0]) + 0.05 * torch.randn(batch, 3, generator=g)
    return Estimate(q_to_rep(q), 0.5 * torch.randn(batch, 10, generator=g), camera)


def labels(keypoints_2d, keypoints_3d, q, betas, has_skel) -> Batch:
    """A batch of which only the labels are of interest."""
    batch = len(q)
    image = torch.zeros(batch, 3, 256, 256, dtype=torch.uint8)
    where = torch.zeros(batch, 2), torch.ones(batch), torch.zeros(batch, 3, 3), torch.zeros(batch, 2, 3)
    transl, row = torch.zeros(batch, 3), torch.arange(batch)
    return Batch(image, *where, keypoints_2d, keypoints_3d, q, betas, has_skel, transl, row)


def targets_of(estimate: Estimate, geometry: CropGeometry, body: SkelKeypoints) -> Batch:
    """The labels that this estimate answers perfectly."""
    with torch.no_grad():
        keypoints = keypoints_of([estimate], geometry, body)[0]
        in_crop = image_to_crop(project(keypoints, geometry.intrinsics), geometry)
        one = torch.ones(len(keypoints), 44, 1)
        params = estimate.skel_params(geometry)
        has = torch.ones(len(keypoints), dtype=torch.bool)
        return labels(torch.cat((in_crop, one), -1), torch.cat((keypoints, one), -1), params.q, params.betas, has)


@pytest.fixture
def prediction(geometry) -> Callable[..., Prediction]:
    """Of three samples, with a coarse stage and three layers, all different."""

    def make(batch: int = 3) -> Prediction:
        return Prediction(tuple(random_estimate(batch, seed) for seed in range(4)), geometry(batch), True)

    return make
