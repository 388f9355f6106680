"""Pickles are read without running what they name."""

import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from hmr_skel.convert.pickles import load_results
from hmr_skel.errors import UserError


class Bomb:
    """Runs a command when unpickled by the usual means."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


CONTENT = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(0.5),
    "zero_d": np.array(3),
    "objects": np.array(["text", None], object),
    "texts": np.array(["x", "yy"]),
    "nested": [{"b": (1, "two", 3.0, True, None, b"raw")}],
    "ordered": OrderedDict(a=1),
    "default": defaultdict(list, {1: [2]}),
    "path": Path("a/b"),
}


def assert_equal(found, expected) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert str(found) == str(expected) if isinstance(expected, Path) else found == expected


@pytest.mark.parametrize("compress", [0, 3, "gzip", "bz2", "lzma", "xz"])
def test_joblib(tmp_path: Path, compress):
    joblib.dump(CONTENT, tmp_path / "x.pkl", compress=compress if isinstance(compress, int) else (compress, 3))
    assert_equal(load_results(tmp_path / "x.pkl"), CONTENT)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(tmp_path: Path, protocol: int):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    assert_equal(load_results(tmp_path / "x.pkl"), CONTENT)


def test_tensors(tmp_path: Path):
    content = {"a": torch.rand(2, 3), "b": torch.arange(3), "c": torch.rand(4, 4).T}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    found = load_results(tmp_path / "x.pkl")
    assert all(found[key].equal(value) for key, value in content.items())


@pytest.mark.parametrize("where", ["value", "joblib", "in an object array", "in a tensor's storage"])
def test_nothing_is_run(tmp_path: Path, where: str):
    place, path = tmp_path / "run", tmp_path / "x.pkl"
    bomb = Bomb(place)
    if where == "value":
        path.write_bytes(pickle.dumps({"a": bomb}))
    elif where == "joblib":
        joblib.dump({"a": bomb}, path)
    elif where == "in an object array":
        joblib.dump({"a": np.array([bomb], object)}, path)
    else:
        path.write_bytes(pickle.dumps(torch.rand(2)).replace(b"torch._utils", b"torch._utilX"))
    with pytest.raises(UserError, match=r"x\.pkl: cannot be read as a pickle of arrays.*not on the allow-list"):
        load_results(path)
    assert not place.exists()


def test_a_cut_file(tmp_path: Path):
    joblib.dump(CONTENT, tmp_path / "x.pkl")
    content = (tmp_path / "x.pkl").read_bytes()
    for length in (3, 50, len(content) // 2, len(content) - 5):
        (tmp_path / "x.pkl").write_bytes(content[:length])
        with pytest.raises(UserError, match="cannot be read"):
            load_results(tmp_path / "x.pkl")
