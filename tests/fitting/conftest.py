"""Bodies, a prepared model and a few people to fit."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fitting
from fitting import FitConfig, FitModel, FitResult
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams
from tests.conftest import torch_threads


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """A few rows are too few to share out: more threads mostly wait for each other."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="session")
def smpl(open_body_dir: Path) -> Smpl:
    return Smpl.load(open_body_dir / "SMPL_NEUTRAL.pkl")


@pytest.fixture(scope="session")
def skel(open_body_dir: Path) -> Skel:
    return Skel.load(open_body_dir / "skel_male.pkl")


@pytest.fixture(scope="session")
def prepared(smpl: Smpl, skel: Skel) -> Callable[..., FitModel]:
    """Models by configuration, or name of a recipe: each prepared once."""

    @functools.cache
    def of_config(config: FitConfig) -> FitModel:
        return fitting.prepare(smpl, skel, config, "male")

    def prepared(config: str | FitConfig) -> FitModel:
        return of_config(fitting.recipe(config) if isinstance(config, str) else config)

    return prepared


@pytest.fixture(scope="session")
def model(prepared: Callable[..., FitModel]) -> FitModel:
    return prepared("default")


@pytest.fixture(scope="session")
def fits(people: SmplParams, prepared: Callable[..., FitModel]) -> Callable[[str], FitResult]:
    """The people fitted by a recipe: by each once."""
    return functools.cache(lambda recipe: fitting.fit_batch(people, prepared(recipe)))


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
