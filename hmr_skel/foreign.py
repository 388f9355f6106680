"""Files from elsewhere: pickles, joblib's and torch's files, read so that nothing in them runs; see docs/security.md.

A pickle calls what it names. Here every name is looked up in a list of what writers of arrays name; any other is
refused. Where an original could be misused, a stand-in takes its place: numpy fills an array without checks, and a
state could change a class or function for the whole process.
"""

import bz2
import gzip
import io
import lzma
import mmap
import pickle
import re
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hmr_skel.errors import UserError

PACKED: Mapping[bytes, Callable[[Any], bytes]] = {
    b"x": zlib.decompress, b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress,
    b"]\x00\x00": lzma.decompress,
}  # fmt: skip
"""How a compressed pickle starts (no plain one starts so), and what unpacks it."""

_DTYPE = re.compile(r"[|<>=]?[biufcSUO?]\d{0,9}")
_SPARSE = re.compile(r"(csc|csr|coo)_(matrix|array)")


def load_pickle(path: Path, what: str = "a pickle of arrays") -> Any:
    """The content of a pickle, as `pickle.dump` or `joblib.dump` has written it, compressed or not.

    It may hold plain containers, numbers, texts, arrays and tensors. A sparse matrix of scipy or an object of chumpy
    comes as an `Inert` of a class of its name. Raises `UserError` where it is missing, damaged, or names anything else.
    """
    # A map has no `peek`: the unpickler then reads no further than it needs, and joblib's arrays are read between.
    with _readable(path, what), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        unpack = next((PACKED[start] for start in PACKED if data[:6].startswith(start)), None)
        content = Unpickler(io.BytesIO(unpack(data)) if unpack else data).load()
        return content.view(np.ndarray) if isinstance(content, np.ndarray) else content


def load_torch(path: Path, foreign: bool = False) -> Any:
    """What `torch.save` has written: tensors (on the CPU, mapped from the file), arrays and plain containers.

    With `foreign`, an object of another class (a configuration, say) becomes a `Counter` without a meaning, and what
    is not of this class is read all the same; else such a file is refused. Raises `UserError` as `load_pickle`.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    with _readable(path, "a PyTorch file"), warnings.catch_warnings(action="ignore"):  # they are about the file's age
        names = get_unsafe_globals_in_checkpoint(path) if (zipped := zipfile.is_zipfile(path)) else []
        known = {name: _stand_in(*name.rpartition(".")[::2]) or (_Foreign if foreign else None) for name in names}
        with safe_globals([(stand_in, name) for name, stand_in in known.items() if stand_in]):  # others are refused
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


@contextmanager
def _readable(path: Path, what: str) -> Generator[None]:
    """What goes wrong in a file becomes one clear error."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Give the path of one that is there.") from None
    except Exception as error:  # damage can raise anything
        text = getattr(error, "strerror", None) or str(error)
        if name := re.search(r"GLOBAL (\S+)", text):  # torch's refusal, without its advice to load the file unsafely
            text = str(_refused(name[1]))
        line = text.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
        line = line if " " in line else "it is damaged, or of another kind"  # a KeyError says only a number
        raise UserError(
            f"{path}: cannot be read as {what}: {line}. Only containers, numbers, texts and arrays are read from it, "
            "and nothing in it is run. Fetch the file again."
        ) from None


def _refused(name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"{name[:100]!r} is not on the allow-list")


class Unpickler(pickle.Unpickler):
    """Reads one pickle; joblib's from a stream without `peek`. Raises what a damaged one raises: any `Exception`."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")  # Python 2's texts
        self._stream = stream

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in this file. Raises `pickle.UnpicklingError` for one that is not on the list."""
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return type(name, (_ArrayFollows,), {"stream": self._stream})
        if (found := _stand_in(module, name)) is None:
            raise _refused(f"{module}.{name}")
        return found


def _stand_in(module: str, name: str) -> Any:
    """What stands for a name; None where that is not on the list."""
    module = _RENAMED.get(module, module)
    if module.partition(".")[0] == "chumpy" or (module.startswith("scipy.sparse") and _SPARSE.fullmatch(name)):
        return type(name, (Inert,), {})
    found = _NAMES.get((module, name))
    return found if found is None or isinstance(found, type) else partial(found)  # a state changes that alone


# Stand-ins. Each class has `__setstate__`, without which a pickle could change the class itself.
class Inert:
    """Stands in for an object of a foreign class: keeps its state, and does nothing."""

    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype:
    """Stands in for `numpy.dtype`. numpy's own believes any width and flags that a state says."""

    def __init__(self, kind: str, *_: Any) -> None:
        if not _DTYPE.fullmatch(kind):
            raise _refused(f"dtype {kind}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple) -> None:
        if any(part is not None for part in state[2:5]):
            raise _refused("dtype with fields")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands in for `numpy.ndarray` and `_reconstruct`: is empty until its state fills it, once."""

    def __new__(cls, *_: Any) -> "_Array":
        return super().__new__(cls, (0,), "b")

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, fortran, content = state
        # numpy reads as many objects as the shape says, and frees what views of a filled array still see.
        entries = len(content) if dtype.dtype.hasobject else len(content) // max(dtype.dtype.itemsize, 1)
        if self.size or entries != prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} has {entries} entries")
        super().__setstate__((1, shape, dtype.dtype, fortran, content))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else array


class _ArrayFollows(_Array):
    """Stands in for joblib's `NumpyArrayWrapper`, after which the array's content follows in the stream."""

    stream: Any

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran = state["shape"], state["dtype"], state["order"] == "F"
        if dtype.dtype.hasobject:
            content, fortran = Unpickler(self.stream).load().ravel().tolist(), False
        else:
            if state.get("numpy_array_alignment_bytes") is not None:
                self.stream.read(self.stream.read(1)[0])  # padding, and before it how long that is
            content = self.stream.read(prod(shape) * dtype.dtype.itemsize)
        super().__setstate__((shape, dtype, fortran, content))


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    content = _encode(data) if isinstance(data, str) else data  # Python 2 wrote bytes as text
    if dtype.dtype.hasobject or len(content) != dtype.dtype.itemsize:
        raise pickle.UnpicklingError(f"a scalar of {dtype.dtype} has {len(content)} bytes")
    return np.ndarray((), dtype.dtype, content)[()]


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple, order: Any = "C", axes: tuple | None = None) -> np.ndarray:
    flat = np.frombuffer(data, dtype.dtype)
    return flat.reshape(shape).transpose(axes) if order == "K" else flat.reshape(shape, order=order)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):  # as numpy and Python write raw bytes in older protocols
        raise _refused(f"codec {encoding}")
    return text.encode("latin1")


def _storage(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Any:
    import torch

    # Not torch's own function: for a tensor beyond its storage, that makes the storage longer.
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage).as_strided(size, stride, offset)


# Stands in for a foreign class in a file of torch's, whose reader gives only a `Counter` both items and a state.
class _Foreign:
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return Counter()


_RENAMED: Mapping[str, str] = {
    "__builtin__": "builtins", "copy_reg": "copyreg", "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric", "pathlib._local": "pathlib",
}  # fmt: skip
_BUILT_IN = (bool, bytearray, bytes, dict, float, int, list, object, set, slice, str, tuple)
_NAMES: Mapping[tuple[str, str], Any] = {
    **{("builtins", kind.__name__): kind for kind in _BUILT_IN},
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda factory=None: {},  # what is not there is not to be made up
    ("copyreg", "_reconstructor"): lambda kind, *_: kind(),  # an object before its state
    ("numpy", "dtype"): _Dtype,
    **dict.fromkeys([("numpy", "ndarray"), ("numpy._core.multiarray", "_reconstruct")], _Array),
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    **{("pathlib", kind): lambda *parts: PurePosixPath(*parts) for kind in ("PosixPath", "PurePosixPath")},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
