"""Pickled results, as `pickle.dump` and `joblib.dump` write them, without running anything that they name.

Trackers (PHALP, so 4D-Humans and TokenHMR) write joblib's format: a pickle, compressed as a whole, in which the bytes
of each array follow the object that announces it. joblib itself would run whatever the file asks for.
"""

import bz2
import gzip
import io
import lzma
import pickle
import sys
import zlib
from collections import defaultdict
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from hmr_skel.body.assets import allowed_class
from hmr_skel.errors import UserError
from hmr_skel.plain_pickle import PlainUnpickler, mapped
from hmr_skel.plain_types import Stated, is_shape, plain_bytes
from hmr_skel.torch_files import check_view, load_torch

MAX_UNPACKED_BYTES = 2**29
"""What a small compressed file may unpack to; larger ones to `_PACKED_AT_MOST` times their size."""
_PACKED_AT_MOST = 20
_UNPACKERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x5d\x00\x00": lzma.open,
}
_LONGEST_PATH = 4096
_LONGEST_HEAD = 4096  # of a storage: pickles of some 300 bytes
_STORAGE_BYTES = 2**16  # what reading a tensor's storage counts at the least: it takes half a millisecond
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


def load_results(path: Path) -> Any:
    """The content of a results file: plain containers, numbers, texts, numpy arrays and torch tensors.

    Raises:
        UserError: the file cannot be read, or holds an object of any other class (which is never run).
    """
    try:
        with path.open("rb") as file:
            return unpickle(_decompressed(file), path.stat().st_size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path}: cannot be read as a pickle of arrays: {error}. Expected plain containers, numbers, texts, numpy "
            "arrays and torch tensors; nothing else in it is run. Save the parameters as .npz, or fetch the file again."
        ) from None


def unpickle(stream: Any, size: int) -> Any:
    """The object that the stream, of a file of so many bytes, holds from here on.

    Raises what a damaged pickle raises: anything that is an `Exception`.
    """
    return _Unpickler(stream, _allowed, size).load()


def is_pickle(start: bytes) -> bool:
    """Whether a file that starts so is a pickle, compressed or not."""
    compressed = (*_ZLIB, b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00\x00")
    return start.startswith(compressed) or start[:1] in (b"\x80", b"(", b"c", b"}", b"]")


def _decompressed(file: io.BufferedIOBase) -> Any:
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
        return mapped(file)
    if len(content) > limit:
        raise ValueError(f"unpacked it has more than {limit:,} bytes; save it without compression")
    return io.BytesIO(content)


class _ArrayFollows(Stated):
    """Stands in for joblib's `NumpyArrayWrapper`: says what array the bytes after it are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: str
    numpy_array_alignment_bytes: int | None = None

    def read(self, unpickler: "_Unpickler") -> np.ndarray:
        stream = unpickler.stream
        if not isinstance(self.dtype, np.dtype) or not is_shape(self.shape):
            raise ValueError("an array of a shape or dtype that joblib does not write")
        if self.dtype.hasobject:
            return unpickler.load_inner()
        if self.numpy_array_alignment_bytes is not None:
            stream.read(stream.read(1)[0])  # padding, and before it how long that is
        count = prod(self.shape)
        size = count * self.dtype.itemsize
        if count and not size:
            raise ValueError(f"an array of shape {self.shape} and {self.dtype} is not read")
        data = stream.read(min(size, sys.maxsize))
        if len(data) != size:
            raise EOFError("an array is cut off")
        flat = np.frombuffer(data, self.dtype)
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


def _storage(data: bytes) -> Any:
    # What torch's own function of that name does, but by torch's allow-list. Before the entries it writes short
    # pickles: long ones would take time that the file's bytes do not count.
    if data.startswith(b"PK"):
        raise pickle.UnpicklingError("a storage in an archive is not what torch writes here")
    storage = load_torch(io.BytesIO(data))
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError(f"a {type(storage).__name__} in place of a storage is not on the allow-list")
    if len(data) - storage._nbytes() > _LONGEST_HEAD:
        raise pickle.UnpicklingError("a storage has more before its entries than torch writes")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> torch.Tensor:
    check_view(offset, size, stride, storage._size())
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, {})


def _path(*parts: str) -> PurePosixPath:
    if len(parts) > _LONGEST_PATH or sum(map(len, parts)) > _LONGEST_PATH:
        raise pickle.UnpicklingError(f"a path of more than {_LONGEST_PATH} characters is not on the allow-list")
    return PurePosixPath(*parts)


def _defaultdict(factory: Any = None) -> defaultdict:
    """Without its factory: what is not there is not to be made up."""
    return defaultdict()


def _factory(*args: Any) -> Any:
    """A built-in type, which a pickle may name as a defaultdict's; none is called."""
    raise pickle.UnpicklingError("a built-in type with arguments is not on the allow-list")


_MORE = {
    ("collections", "defaultdict"): _defaultdict,
    ("pathlib", "PosixPath"): _path,
    ("pathlib", "PurePosixPath"): _path,
    ("pathlib._local", "PosixPath"): _path,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _ArrayFollows,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{("builtins", kind): _factory for kind in ("dict", "list", "tuple", "int", "float", "bool", "str")},
    ("builtins", "bytes"): plain_bytes,
}


def _allowed(module: str, name: str) -> Any:
    found = _MORE.get((module, name))
    return allowed_class(module, name) if found is None else found


class _Unpickler(PlainUnpickler):
    """Reads joblib's arrays, too, between two steps of a pickle."""

    def load_reduce(self) -> None:
        called, arguments = self.stack[-2:]
        if called is _storage:
            if len(arguments) != 1 or type(arguments[0]) is not bytes:
                raise pickle.UnpicklingError("a tensor's storage of anything but bytes is not on the allow-list")
            self.count(_STORAGE_BYTES + len(arguments[0]))
        super().load_reduce()

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _ArrayFollows):
            self.stack[-1] = self._made(_ArrayFollows.read(self.stack[-1], self))
