"""Model files of random numbers, and the models read from them."""

from pathlib import Path

import pytest
import torch

from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from tests.body import stand_in

GENDERS = ("male", "female")


@pytest.fixture(scope="session")
def skel_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("skel") / "skel_male.pkl"
    return {"male": stand_in.write(path, stand_in.skel_arrays())}


@pytest.fixture(scope="session")
def smpl_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.write(tmp_path_factory.mktemp("smpl") / "SMPL_NEUTRAL.pkl", stand_in.smpl_arrays())


@pytest.fixture(scope="session")
def skel_male64(skel_files: dict[str, Path]) -> Skel:
    return Skel.load(skel_files["male"], dtype=torch.float64)


@pytest.fixture(scope="session")
def smpl64(smpl_file: Path) -> Smpl:
    return Smpl.load(smpl_file, dtype=torch.float64)
