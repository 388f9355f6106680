"""The benchmarks' stand-in files and the bodies for them, once for all tests."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr_skel.evaluate.benchmarks import BENCHMARKS, Benchmark
from hmr_skel.evaluate.ground_truth import GroundTruth
from hmr_skel.evaluate.labels import BenchmarkRows, load_rows
from hmr_skel.model.keypoints import SkelKeypoints
from tests.evaluate.stand_in import StandIn, write_stand_in

CPU = torch.device("cpu")


@pytest.fixture(scope="package", autouse=True)
def _bodies_once(bodies_once):
    """For predictions that are converted."""


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory, open_body_dir: Path) -> StandIn:
    return write_stand_in(tmp_path_factory.mktemp("benchmarks"), open_body_dir)


@pytest.fixture(scope="session")
def male(open_body_dir: Path) -> SkelKeypoints:
    return SkelKeypoints.load(open_body_dir, "male")


@pytest.fixture(scope="session")
def opened(stand_in: StandIn, open_body_dir: Path) -> Callable[..., tuple[Benchmark, BenchmarkRows, GroundTruth]]:
    """A benchmark by name, its rows, and its truth."""

    @cache
    def open_(name: str, *legacy: str) -> tuple[Benchmark, BenchmarkRows, GroundTruth]:
        benchmark = BENCHMARKS[name].with_legacy(legacy)
        rows = load_rows(benchmark, stand_in.folder / "labels" / benchmark.labels, legacy)
        return benchmark, rows, GroundTruth(benchmark, rows, open_body_dir, CPU)

    return open_


def changed_labels(stand_in: StandIn, name: str, folder: Path, **changes) -> Path:
    """A label file with some arrays changed; None takes one out."""
    arrays = dict(np.load(stand_in.folder / "labels" / BENCHMARKS[name].labels, allow_pickle=True)) | changes
    path = folder / BENCHMARKS[name].labels
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path
