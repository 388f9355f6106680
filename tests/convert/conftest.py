"""One person walking through a few frames, and bodies to fit."""

from pathlib import Path

import numpy as np
import pytest

from hmr_skel.convert import Bodies
from tests.conftest import torch_threads

FRAMES = 12


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """A few rows are too few to share out: more threads mostly wait for each other."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="package", autouse=True)
def _bodies_once(bodies_once):
    """To prepare them is most of a command's time here."""


@pytest.fixture(scope="session")
def bodies(open_body_dir: Path, bodies_of) -> Bodies:
    return bodies_of(open_body_dir)


def walk(frames: int = FRAMES, up: str = "z-up", seed: int = 0) -> dict[str, np.ndarray]:
    """SMPL parameters of a person who swings arms and legs: pose [T 24 3], betas [16], transl [T 3], float64."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None, None] / 30
    swing = 0.25 * rng.normal(size=(1, 24, 3)) * np.sin(2 * np.pi * (0.5 * time + rng.uniform(size=(1, 24, 3))))
    pose = 0.05 * rng.normal(size=(1, 24, 3)) + swing
    pose[:, 0] *= 0.2
    pose[:, 0, 0] += {"z-up": np.pi / 2, "y-up": 0.0, "camera": np.pi}[up]
    transl = np.concatenate((0.02 * time[:, 0] * 30, np.zeros((frames, 1)), np.full((frames, 1), 0.9)), 1)
    return {"pose": pose, "betas": rng.normal(size=16), "transl": transl}
