"""Small label files in the formats that the data layer reads, and fits that were never fitted."""

from pathlib import Path

import numpy as np
import pytest

from hmr_skel.data.manifest import Manifest, Source, parse_manifest
from tests.data.sample_set import write_sample_set


def label_arrays(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a CameraHMR label file."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=(rows, *shape)).astype(np.float32)

    cam_int = np.tile(np.array([[1000, 0, 640], [0, 1000, 360], [0, 0, 1]], np.float32), (rows, 1, 1))
    return {
        "imgname": np.array([f"aic-train/{i:06d}.jpg" for i in range(rows)]),
        "center": 400 + 10 * normal(2),
        "scale": np.abs(normal()) + 1,
        "pose_cam": 0.3 * normal(72),
        "shape": normal(10),
        "trans_cam": normal(3) + np.array([0, 0, 5], np.float32),
        "cam_int": cam_int,
        "gtkps": np.concatenate([300 + normal(44, 2), np.ones((rows, 44, 1), np.float32)], axis=-1),
    }


def hsmr_arrays(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """HSMR's records as arrays: SKEL, names without extension, no intrinsics."""
    rng = np.random.default_rng(seed)
    labels = label_arrays(rows, seed)
    return {
        "imgname": np.array([f"S1_{i:06d}" for i in range(rows)]),
        "center": labels["center"],
        "scale": labels["scale"],
        "orig_poses": rng.normal(size=(rows, 46)).astype(np.float32),
        "orig_betas": labels["shape"],
        "keypoints_2d": labels["gtkps"],
        "keypoints_3d": rng.normal(size=(rows, 44, 4)).astype(np.float32),
    }


def make_manifest(sources: list[dict], **changes) -> Manifest:
    """A manifest of the given sources."""
    content = {
        "name": "test",
        "skel_gender": "male",
        "rows_per_shard": 8,
        "body_models": {"kind": "open", "path": "nowhere"},
        "sources": sources,
    }
    return parse_manifest(content | changes, "test.toml")


def make_source(file: Path, **changes) -> Source:
    """A source that reads a file."""
    return make_manifest([{"name": "aic", "format": "camerahmr", "file": str(file)} | changes]).sources[0]


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory):
    """A small dataset with images, read only: see `sample_set.py`."""
    return write_sample_set(tmp_path_factory.mktemp("samples"))
