"""Bodies, a prepared model and a few people to fit."""

from pathlib import Path

import pytest
import torch

import fitting
from fitting import FitModel
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """A few rows are too few to share out: more threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smpl(open_body_dir: Path) -> Smpl:
    return Smpl.load(open_body_dir / "SMPL_NEUTRAL.pkl")


@pytest.fixture(scope="session")
def skel(open_body_dir: Path) -> Skel:
    return Skel.load(open_body_dir / "skel_male.pkl")


@pytest.fixture(scope="session")
def model(smpl: Smpl, skel: Skel) -> FitModel:
    return fitting.prepare(smpl, skel, fitting.recipe("default"), "male", compiled=True)


@pytest.fixture(scope="session")
def plain_model(smpl: Smpl, skel: Skel) -> FitModel:
    """The same in plain torch, as it runs on a GPU."""
    return fitting.prepare(smpl, skel, fitting.recipe("default"), "male", compiled=False)


@pytest.fixture(scope="session", params=["compiled", "plain"])
def either_model(request: pytest.FixtureRequest, model: FitModel, plain_model: FitModel) -> FitModel:
    return model if request.param == "compiled" else plain_model


@pytest.fixture(scope="session")
def people() -> SmplParams:
    """Four people in mild poses, anywhere in front of a camera."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return SmplParams(
        global_orient=normal(4, 3),
        body_pose=0.2 * normal(4, 23, 3),
        betas=normal(4, 10),
        transl=normal(4, 3) + torch.tensor([0.0, 0.0, 5.0]),
    )
