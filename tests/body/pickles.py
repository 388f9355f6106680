"""Pickles as other programs wrote them, made without those programs."""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def fake_chumpy() -> Iterator[types.SimpleNamespace]:
    """Classes that pickle as chumpy's do. The modules are gone again afterwards, as they are for any reader."""
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}

    def cls(module: str, name: str) -> type:
        made = type(name, (), {"__module__": module, "__init__": lambda self, **state: self.__dict__.update(state)})
        setattr(modules[module], name, made)
        return made

    made = types.SimpleNamespace(
        Ch=cls("chumpy.ch", "Ch"), Select=cls("chumpy.reordering", "Select"), MatVecMult=cls("chumpy.ch", "MatVecMult")
    )
    sys.modules |= modules
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


def chumpy_era(arrays: dict, path: Path) -> Path:
    """An SMPL file with chumpy objects where the downloads had them, in Python 2's protocol."""
    old = dict(arrays)
    with fake_chumpy() as chumpy:
        state = {"_dirty_vars": set(), "_itr": None, "_depends_on_deps": {}}
        old["v_template"] = chumpy.Ch(x=arrays["v_template"], **state)
        old["weights"] = chumpy.Ch(x=chumpy.Ch(x=arrays["weights"]))
        # A reordering of another array's entries, here of the reversed one.
        flat = arrays["shapedirs"].ravel()[::-1].copy()
        old["shapedirs"] = chumpy.Select(
            a=chumpy.Ch(x=flat), idxs=np.arange(flat.size)[::-1], preferred_shape=arrays["shapedirs"].shape
        )
        old["J"] = chumpy.MatVecMult(mtx=arrays["J_regressor"], v=old["v_template"])  # computed, holds no x
        old["pose_training_info"] = {"gender": "x", "mean": [chumpy.Ch(x=np.arange(3.0))]}
        path.write_bytes(pickle.dumps(old, protocol=2))
    return path


def renamed(data: bytes, names: dict[str, str]) -> bytes:
    """A pickle of protocol 2 in which modules are called otherwise (they stand in lines of their own)."""
    for now, then in names.items():
        data = data.replace(b"c" + now.encode() + b"\n", b"c" + then.encode() + b"\n")
    return data


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call
