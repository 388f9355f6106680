"""Pickled results, as `pickle.dump` and `joblib.dump` write them, without running anything that they name.

Trackers (PHALP, so 4D-Humans and TokenHMR) write joblib's format: a pickle, compressed as a whole, in which the bytes
of each array follow the object that announces it. joblib itself would run whatever the file asks for.
"""

import bz2
import gzip
import io
import lzma
import pickle
import zlib
from collections import OrderedDict, defaultdict
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from hmr_skel.body.assets import allowed_class
from hmr_skel.errors import UserError
from hmr_skel.plain_types import plain_bytes

MAX_UNPACKED_BYTES = 2**29
"""What a small compressed file may unpack to; larger ones to `_PACKED_AT_MOST` times their size."""
_PACKED_AT_MOST = 20
_UNPACKERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x5d\x00\x00": lzma.open,
}
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


def load_results(path: Path) -> Any:
    """The content of a results file: plain containers, numbers, texts, numpy arrays and torch tensors.

    Raises:
        UserError: the file cannot be read, or holds an object of any other class (which is never run).
    """
    try:
        with path.open("rb") as file:
            return unpickle(_decompressed(file))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path}: cannot be read as a pickle of arrays: {error}. Expected plain containers, numbers, texts, numpy "
            "arrays and torch tensors; nothing else in it is run. Save the parameters as .npz, or fetch the file again."
        ) from None


def unpickle(stream: io.BufferedIOBase) -> Any:
    """The object that the stream holds from here on. Raises what a damaged pickle raises: anything."""
    return _Unpickler(stream).load()


def is_pickle(start: bytes) -> bool:
    """Whether a file that starts so is a pickle, compressed or not."""
    compressed = (*_ZLIB, b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00\x00")
    return start.startswith(compressed) or start[:1] in (b"\x80", b"(", b"c", b"}", b"]")


def _decompressed(file: io.BufferedIOBase) -> io.BufferedIOBase:
    start = file.read(6)
    file.seek(0)
    limit = max(MAX_UNPACKED_BYTES, _PACKED_AT_MOST * file.seek(0, io.SEEK_END))
    file.seek(0)
    if start.startswith(_ZLIB):
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(file.read(), limit + 1)
        if len(content) <= limit and not unpacker.eof:
            raise EOFError("it is cut off")
    elif unpack := next((unpack for first, unpack in _UNPACKERS.items() if start.startswith(first)), None):
        with unpack(file) as packed:
            content = packed.read(limit + 1)
    else:
        return file
    if len(content) > limit:
        raise ValueError(f"unpacked it has more than {limit:,} bytes; save it without compression")
    return io.BytesIO(content)


class _ArrayFollows:
    """Stands in for joblib's `NumpyArrayWrapper`: says what array the bytes after it are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: str
    numpy_array_alignment_bytes: int | None = None

    def read(self, stream: io.BufferedIOBase) -> np.ndarray:
        if self.dtype.hasobject:
            return unpickle(stream)
        if self.numpy_array_alignment_bytes is not None:
            stream.read(stream.read(1)[0])  # padding, and before it how long that is
        size = prod(self.shape) * self.dtype.itemsize
        data = stream.read(size)
        if len(data) != size:
            raise EOFError("an array is cut off")
        flat = np.frombuffer(data, self.dtype)
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


def _storage(data: bytes) -> Any:
    # What torch's own function of that name does, but by torch's allow-list.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


_MORE = {
    ("collections", "defaultdict"): defaultdict,
    ("collections", "OrderedDict"): OrderedDict,
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib", "PurePosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _ArrayFollows,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{("builtins", kind.__name__): kind for kind in (dict, list, tuple, int, float, bool, str)},
    ("builtins", "bytes"): plain_bytes,
}


# Python's own unpickler, not the one in C: arrays have to be read between two of its steps. joblib builds on it too.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    dispatch = _PythonUnpickler.dispatch.copy()

    def __init__(self, stream: io.BufferedIOBase) -> None:
        super().__init__(stream, encoding="latin1")
        self.stream = stream

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        found = _MORE.get((module, name))
        return allowed_class(module, name) if found is None else found

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _ArrayFollows):
            self.stack[-1] = self.stack[-1].read(self.stream)

    dispatch[pickle.BUILD[0]] = load_build
