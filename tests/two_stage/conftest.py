"""The stand-in benchmarks, and bodies to convert to."""

from pathlib import Path

import pytest
import torch

from hmr_skel.convert.fit import Bodies
from tests.evaluate.conftest import male, opened, stand_in

__all__ = ["male", "opened", "stand_in"]


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """A few rows are too few to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bodies(open_body_dir: Path) -> Bodies:
    return Bodies(open_body_dir)
