from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hmr_skel.body.open_body.export import export_body
from hmr_skel.open_data.labels import make_labels, truth_path


@dataclass(frozen=True)
class LabelSet:
    path: Path
    rows: int
    seed: int
    columns: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def body_models(tmp_path_factory) -> Path:
    """The exported open body, once per test process."""
    folder = tmp_path_factory.mktemp("body_models")
    export_body(folder)
    return folder


@pytest.fixture(scope="session")
def label_set(tmp_path_factory, body_models) -> LabelSet:
    """Two chunks of labels and a bit."""
    path = tmp_path_factory.mktemp("labels") / "labels.npz"
    rows, seed = 400, 11
    make_labels(path, rows, seed, body_models)
    columns, truth = (dict(np.load(p, allow_pickle=False)) for p in (path, truth_path(path)))
    return LabelSet(path, rows, seed, columns, truth)
