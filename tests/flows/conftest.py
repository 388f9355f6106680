"""A small dataset to build: real labels of the default kind, the open body, four shards of six rows."""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fitting
from flows import fitter
from flows.shard import Builder
from hmr_skel.open_data.labels import make_labels
from tests.conftest import torch_threads
from tests.flows.served import Served, shared
from tools.drill.small import MANIFEST, make_small

ROWS, ROWS_PER_SHARD = 24, 6
BAD_ROW = 8  # in shard 1


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """Six rows are too few to share out: more threads mostly wait for each other, the more so on a busy machine."""
    with torch_threads(1):
        yield


def models_once() -> Iterator[None]:
    """Builders of many tests fit with the same models: a file that did not change is loaded and prepared once."""

    def load(model: type) -> SimpleNamespace:
        once = lru_cache(maxsize=None)(lambda path, state: model.load(path))
        return SimpleNamespace(load=lambda path: once(path.resolve(), (path.stat().st_size, path.stat().st_mtime_ns)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitter, "Smpl", load(fitter.Smpl))
        patch.setattr(fitter, "Skel", load(fitter.Skel))
        patch.setattr(fitting, "prepare", lru_cache(maxsize=None)(fitting.prepare))
        yield


_models_once = pytest.fixture(models_once, scope="package", autouse=True, name="_models_once")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The `make serve` of this run of tests."""
    base = tmp_path_factory.getbasetemp()
    with shared(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[None]:
    """Flows of this process go to the served server.

    At the end Prefect sends it what it has to say, and closes its connections: with the server gone, the process would
    try for a minute before it ends.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: served.url, PREFECT_API_AUTH_STRING: served.password}):
        yield
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all()


@pytest.fixture(scope="package")
def finished(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The builder of a finished dataset, which the drills' manifest describes; read only."""
    folder = tmp_path_factory.mktemp("finished")
    builder = Builder.open(make_small(folder, open_body_dir), folder / "out", "cpu", quiet=True)
    build_all(builder)
    return builder


def build_all(builder: Builder) -> list[bool]:
    """Every shard, and the card. Returns whether each shard was skipped."""
    skipped = [builder.build(shard.index, progress=False).skipped for shard in builder.shards]
    builder.write_card()
    return skipped


@pytest.fixture
def elsewhere(finished: Builder, tmp_path: Path) -> Iterator[tuple[Builder, Path]]:
    """That builder, at work on an empty folder; and the folder of the finished dataset."""
    before = finished.out
    finished.out = tmp_path / "out"
    yield finished, before
    finished.out = before


@pytest.fixture(scope="session")
def small_labels(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The arrays of a label file with one bad row."""
    path = tmp_path_factory.mktemp("small") / "labels.npz"
    make_labels(path, ROWS, 3, open_body_dir)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["shape"][BAD_ROW, 4] = np.inf
    return arrays


@pytest.fixture
def small(tmp_path: Path, open_body_dir: Path, small_labels: dict[str, np.ndarray]) -> Path:
    """The manifest of a dataset in a folder of its own."""
    return write_small(tmp_path, open_body_dir, small_labels)


def write_small(folder: Path, body_models: Path, labels: dict[str, np.ndarray], **extra: np.ndarray) -> Path:
    """Write the label file and the manifest; `extra` are more columns of the label file."""
    np.savez(folder / "labels.npz", **labels, **extra)
    manifest = folder / "small.toml"
    values = {"name": "small", "rows_per_shard": ROWS_PER_SHARD, "labels": folder / "labels.npz"}
    manifest.write_text(MANIFEST.format(**values, body_models=body_models))
    return manifest
