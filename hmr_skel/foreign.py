"""Read pickles, joblib files and torch files from elsewhere so that no code in them runs; see docs/security.md.

A pickle can call whatever it names. This reader allows only names on a list, those that writers of arrays use. Where an
original could be misused, a stand-in takes its place: numpy fills an array without checks, and a pickle's state could
change a class or function for the whole process.
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
"""The first bytes of a compressed pickle (no plain pickle starts so), and what decompresses it."""

_DTYPE = re.compile(r"[|<>=]?[biufcSUO?]\d{0,9}")
_SPARSE = re.compile(r"(csc|csr|coo)_(matrix|array)")


def load_pickle(path: Path, what: str = "a pickle of arrays") -> Any:
    """The content of a pickle that `pickle.dump` or `joblib.dump` has written, compressed or not.

    It may hold plain containers, numbers, strings, arrays and tensors. A sparse matrix of scipy or an object of chumpy
    becomes an `Inert` of a class with its name. Raises `UserError` if it is missing, damaged, or names anything else.
    """
    # A map has no `peek`, so the unpickler reads no further than it needs, and we can read joblib's arrays in between.
    with _readable(path, what), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        unpack = next((PACKED[start] for start in PACKED if data[:6].startswith(start)), None)
        content = Unpickler(io.BytesIO(unpack(data)) if unpack else data).load()
        return content.view(np.ndarray) if isinstance(content, np.ndarray) else content


def load_torch(path: Path, foreign: bool = False) -> Any:
    """The content of a file of `torch.save`: tensors (on the CPU, mapped from the file), arrays, plain containers.

    With `foreign`, an object of another class (such as a configuration) becomes a meaningless `Counter`, and the rest
    is read; without it, such a file is refused. Raises `UserError` as `load_pickle` does.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    with _readable(path, "a PyTorch file"), warnings.catch_warnings(action="ignore"):  # torch warns about old files
        names = get_unsafe_globals_in_checkpoint(path) if (zipped := zipfile.is_zipfile(path)) else []
        known = {name: _stand_in(*name.rpartition(".")[::2]) or (_Foreign if foreign else None) for name in names}
        with safe_globals([(stand_in, name) for name, stand_in in known.items() if stand_in]):  # others are refused
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


@contextmanager
def _readable(path: Path, what: str) -> Generator[None]:
    """Turn any exception from reading the file into one `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Give the path of a file that exists.") from None
    except Exception as error:  # damage can raise anything
        text = getattr(error, "strerror", None) or str(error)
        if name := re.search(r"GLOBAL (\S+)", text):  # leave out torch's advice to load the file unsafely
            text = str(_refused(name[1]))
        line = text.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
        line = line if " " in line else "it is damaged, or of another kind"  # the text of a KeyError is only a number
        raise UserError(
            f"{path}: cannot be read as {what}: {line}. hmr-skel reads only containers, numbers, strings and "
            "arrays, and runs nothing in the file. Fetch the file again."
        ) from None


def _refused(name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"{name[:100]!r} is not on the allow-list")


class Unpickler(pickle.Unpickler):
    """Reads one pickle, or a joblib file from a stream without `peek`. A damaged one can raise any `Exception`."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")  # for strings of Python 2
        self._stream = stream

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name in the file. Raises `pickle.UnpicklingError` if the name is not on the list."""
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return type(name, (_ArrayFollows,), {"stream": self._stream})
        if (found := _stand_in(module, name)) is None:
            raise _refused(f"{module}.{name}")
        return found


def _stand_in(module: str, name: str) -> Any:
    """The stand-in for a name; None if the name is not on the list."""
    module = _RENAMED.get(module, module)
    if module.partition(".")[0] == "chumpy" or (module.startswith("scipy.sparse") and _SPARSE.fullmatch(name)):
        return type(name, (Inert,), {})
    found = _NAMES.get((module, name))
    return found if found is None or isinstance(found, type) else partial(found)  # a state changes only the partial


# Stand-ins. Without `__setstate__`, a pickle could change the class itself.
class Inert:
    """Stands in for an object of a foreign class. It keeps the state and does nothing."""

    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype:
    """Stands in for `numpy.dtype`, which would accept any width and flags in a state."""

    def __init__(self, kind: str, *_: Any) -> None:
        if not _DTYPE.fullmatch(kind):
            raise _refused(f"dtype {kind}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple) -> None:
        if any(part is not None for part in state[2:5]):
            raise _refused("dtype with fields")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands in for `numpy.ndarray` and `_reconstruct`. It is empty until its state fills it, once."""

    def __new__(cls, *_: Any) -> "_Array":
        return super().__new__(cls, (0,), "b")

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, fortran, content = state
        # numpy would read as many objects as the shape says, and free memory that views of a filled array still use.
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
                self.stream.read(self.stream.read(1)[0])  # a byte with the length of the padding, then the padding
            content = self.stream.read(prod(shape) * dtype.dtype.itemsize)
        super().__setstate__((shape, dtype, fortran, content))


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    content = _encode(data) if isinstance(data, str) else data  # Python 2 wrote bytes as a string
    if dtype.dtype.hasobject or len(content) != dtype.dtype.itemsize:
        raise pickle.UnpicklingError(f"a scalar of {dtype.dtype} has {len(content)} bytes")
    return np.ndarray((), dtype.dtype, content)[()]


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple, order: Any = "C", axes: tuple | None = None) -> np.ndarray:
    flat = np.frombuffer(data, dtype.dtype)
    return flat.reshape(shape).transpose(axes) if order == "K" else flat.reshape(shape, order=order)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):  # numpy and Python write raw bytes so in older protocols
        raise _refused(f"codec {encoding}")
    return text.encode("latin1")


def _storage(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Any:
    import torch

    # torch's own function would enlarge the storage for a tensor that reaches beyond it.
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage).as_strided(size, stride, offset)


# Stands in for a foreign class in a torch file: torch's reader gives only a `Counter` both items and a state.
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
    ("collections", "defaultdict"): lambda factory=None: {},  # a missing key must not make a value
    ("copyreg", "_reconstructor"): lambda kind, *_: kind(),  # an object before its state
    ("numpy", "dtype"): _Dtype,
    **dict.fromkeys([("numpy", "ndarray"), ("numpy._core.multiarray", "_reconstruct")], _Array),
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    **{("pathlib", kind): lambda *parts: PurePosixPath(*parts) for kind in ("PosixPath", "PurePosixPath")},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
