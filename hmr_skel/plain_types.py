"""Stand-ins for what pickles of arrays name: they make what `pickle.dump` means by them, and nothing else.

Called with other arguments, numpy's own and the built-in ones ask for as much memory as a file says: a few bytes would
be enough to take all there is.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

_DTYPE = re.compile(r"[|<>=]?[biufcSUO?]\d{0,9}")
_SCALARS = (str, bytes, int, float, type(None))


class ArrayType:
    """Stands for `numpy.ndarray`, which a pickle names as what `_reconstruct` is to make; it cannot be called."""

    def __new__(cls, *args: Any) -> "ArrayType":
        raise pickle.UnpicklingError("numpy.ndarray with arguments is not on the allow-list")


class Stated:
    """Base of stand-ins for classes: made without arguments, then given their state."""

    takes_arguments = False


def _reconstruct(kind: type, shape: Any, typecode: Any) -> np.ndarray:
    """numpy's: an empty array, which the pickle's next step fills."""
    if kind is not ArrayType or shape not in ((0,), [0]):
        raise pickle.UnpicklingError(f"an array of {kind} and shape {shape} to begin with is not on the allow-list")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _dtype(kind: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """A type of plain entries, always a copy: its state comes next, and numpy's own must not get it."""
    if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
        raise pickle.UnpicklingError(f"dtype {kind!r:.40} is not on the allow-list")
    return np.dtype(kind, False, True)


def _scalar(dtype: Any, data: Any) -> Any:
    """One number or text. Without data numpy would make one of any width."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes | str):
        raise pickle.UnpicklingError("a scalar without its bytes is not on the allow-list")
    content = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote its bytes as text
    if not 0 < len(content) == dtype.itemsize:
        raise pickle.UnpicklingError(f"a scalar of {dtype} from {len(content)} bytes is not on the allow-list")
    return np.frombuffer(content, dtype)[0]


def _frombuffer(data: Any, dtype: Any, *shape: Any) -> np.ndarray:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise pickle.UnpicklingError("an array of anything but bytes is not on the allow-list")
    numeric: Any = np._core.numeric
    return numeric._frombuffer(data, dtype, *shape)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # numpy pickles raw bytes under protocol 2 as a latin1 string; other codecs have no business here.
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise pickle.UnpicklingError(f"codec {encoding!r:.40} is not allowed")
    return text.encode("latin1")


def plain_bytes(*args: Any) -> bytes:
    """`bytes` of a content, not of a number."""
    return _of_content(bytes, args)


def plain_bytearray(*args: Any) -> bytearray:
    """`bytearray` of a content, not of a number."""
    return _of_content(bytearray, args)


def _of_content(kind: type, args: tuple) -> Any:
    if args and not isinstance(args[0], str | bytes):
        raise pickle.UnpicklingError(f"{kind.__name__} of a {type(args[0]).__name__} is not on the allow-list")
    return kind(_encode(*args)) if args and isinstance(args[0], str) else kind(*args)


def plain_set(keys: Any = ()) -> set:
    """`set`."""
    return set(checked_keys(list(keys)))


def plain_dict(items: Any = ()) -> dict:
    """`OrderedDict`, as Python 2 (with its items) and Python 3 (without) write one."""
    pairs = list(items.items() if isinstance(items, dict) else items)
    checked_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


NUMPY: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        ("numpy", "ndarray"): ArrayType,
        ("numpy", "dtype"): _dtype,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
        ("_codecs", "encode"): _encode,
    }
)
"""What pickles of arrays name, and what stands in for it; modules as they are called now."""


def new_object(kind: Any) -> Any:
    """An object of a class, before its state."""
    return kind.__new__(kind)


def checked_keys(keys: Any) -> Any:
    """The keys, none of which holds containers: the hash of tuples in tuples without end takes the process's stack."""
    for key in keys:
        check_key(key)
    return keys


def check_key(key: Any) -> None:
    """Raise `pickle.UnpicklingError` where it holds containers."""
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, (*_SCALARS, np.generic)) for part in parts):
        raise pickle.UnpicklingError(f"a {type(key).__name__} as a key is not on the allow-list")


def entries(value: Any) -> int:
    """How many numbers and texts there are in lists, dicts, tuples and arrays once every list is written out.

    Raises `RecursionError` where lists contain each other.
    """
    return _entries(value, {})


def _entries(value: Any, known: dict[int, int]) -> int:
    if isinstance(value, np.ndarray):
        return value.size if not value.dtype.hasobject else _entries(value.ravel().tolist(), known)
    if callable(numel := getattr(value, "numel", None)):  # a tensor, of which a few bytes stand for any size
        return numel()
    if not isinstance(value, dict | list | tuple):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = sum(_entries(part, known) for part in parts)
    return known[id(value)]
