"""Model files of random numbers, and the models read from them."""

from pathlib import Path

import pytest
import torch

from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from tests.body import stand_in


@pytest.fixture(scope="session")
def skel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.write(tmp_path_factory.mktemp("skel") / "skel_male.pkl", stand_in.skel_arrays())


@pytest.fixture(scope="session")
def smpl_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.write(tmp_path_factory.mktemp("smpl") / "SMPL_NEUTRAL.pkl", stand_in.smpl_arrays())


@pytest.fixture(scope="session")
def skel64(skel_file: Path) -> Skel:
    return Skel.load(skel_file, dtype=torch.float64)


@pytest.fixture(scope="session")
def smpl64(smpl_file: Path) -> Smpl:
    return Smpl.load(smpl_file, dtype=torch.float64)
