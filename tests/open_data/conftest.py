from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hmr_skel.body.smpl import Smpl
from hmr_skel.open_data.labels import make_labels


@dataclass(frozen=True)
class LabelSet:
    path: Path
    rows: int
    seed: int
    columns: dict[str, np.ndarray]
    progress: list[int]


@pytest.fixture(scope="session")
def smpl(open_body_dir: Path) -> Smpl:
    return Smpl.load(open_body_dir / "SMPL_NEUTRAL.pkl")


@pytest.fixture(scope="session")
def label_set(tmp_path_factory, open_body_dir) -> LabelSet:
    """A chunk of labels and a bit of another."""
    path = tmp_path_factory.mktemp("labels") / "labels.npz"
    rows, seed, progress = 240, 11, []
    make_labels(path, rows, seed, open_body_dir, progress.append)
    with np.load(path, allow_pickle=False) as file:
        return LabelSet(path, rows, seed, dict(file), progress)
