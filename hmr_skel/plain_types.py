"""Stand-ins for what pickles of arrays name: they make what `pickle.dump` means by them, and nothing else.

Called with other arguments, numpy's own and the built-in ones ask for as much memory as a file says: a few bytes would
be enough to take all there is.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

_DTYPE = re.compile(r"[|<>=]?[biufcSUO?]\d{0,9}")
_KEYS = (float, type(None), np.integer, np.bool_, np.float32)  # complex and long ones can all have one hash
_LONGEST_KEY = 2**12
_LARGEST_KEY = 2**61 - 1  # the hash of a number is its rest, divided by this: beyond, all can have one
_LARGEST_SIDE = 2**48
_LARGEST_MATRIX = 100_000  # a side of an empty sparse matrix
_MOST_SIDES = 64


class ArrayType:
    """Stands for `numpy.ndarray`, which a pickle names as what `_reconstruct` is to make; it cannot be called."""

    def __new__(cls, *args: Any) -> "ArrayType":
        raise pickle.UnpicklingError("numpy.ndarray with arguments is not on the allow-list")


class Stated:
    """Base of stand-ins for classes: made without arguments, then given their state."""

    takes_arguments = False


def _reconstruct(kind: type, shape: Any, typecode: Any) -> np.ndarray:
    """numpy's: an empty array, which the pickle's next step fills."""
    if kind is not ArrayType or not isinstance(shape, tuple | list) or list(shape) != [0]:
        raise pickle.UnpicklingError("an array that is not empty to begin with is not on the allow-list")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _dtype(kind: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """A type of plain entries, always a copy: its state comes next, and numpy's own must not get it."""
    if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
        raise pickle.UnpicklingError(f"dtype {shown(kind)} is not on the allow-list")
    return np.dtype(kind, False, True)


def _scalar(dtype: Any, data: Any) -> Any:
    """One number or text. Without data numpy would make one of any width."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes | str):
        raise pickle.UnpicklingError("a scalar without its bytes is not on the allow-list")
    content = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote its bytes as text
    if not 0 < len(content) == dtype.itemsize:
        raise pickle.UnpicklingError(f"a scalar of {dtype} from {len(content)} bytes is not on the allow-list")
    return np.frombuffer(content, dtype)[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> np.ndarray:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise pickle.UnpicklingError("an array of anything but bytes is not on the allow-list")
    if not is_shape(shape) or (order not in ("C", "F") and not (order == "K" and is_shape(axes))):
        raise pickle.UnpicklingError("an array of such a shape is not on the allow-list")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape).transpose(axes) if order == "K" else array.reshape(shape, order=order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # numpy pickles raw bytes under protocol 2 as a latin1 string; other codecs have no business here.
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise pickle.UnpicklingError(f"codec {shown(encoding)} is not allowed")
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
    return set(checked_keys(_container(keys)))


def plain_dict(items: Any = ()) -> dict:
    """`OrderedDict`, as Python 2 (with its items) and Python 3 (without) write one."""
    pairs = list(items.items() if isinstance(items, dict) else _container(items))
    checked_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _container(value: Any) -> Any:
    if not isinstance(value, list | tuple | set | dict):
        raise pickle.UnpicklingError(f"a container of what a {type(value).__name__} holds is not on the allow-list")
    return value


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


def is_object(target: Any) -> bool:
    """Whether it is a stand-in's object or a sparse matrix, and no class or function of everybody's."""
    return isinstance(target, Stated) or type(target).__module__.startswith("scipy.sparse")


def made_of(kind: type, arguments: Any) -> Any:
    """An object of a class before its state. Older scipy called its matrices with their shape, and they are empty."""
    if arguments and issubclass(kind, Stated) and kind.takes_arguments:
        return new_object(kind)
    if arguments and kind.__module__.startswith("scipy.sparse"):
        (shape,) = arguments
        if isinstance(shape, tuple) and all(type(side) is int and 0 <= side <= _LARGEST_MATRIX for side in shape):
            return kind(shape)
    if arguments:
        raise pickle.UnpicklingError(f"{kind.__name__} with arguments is not on the allow-list")
    return new_object(kind)


def set_dtype(dtype: Any, state: Any) -> None:
    """Set what a state may say of a plain type, its byte order. numpy would take widths and flags that are lies."""
    _, order, *more = state
    if order not in ("<", ">", "|", "=") or any(part is not None for part in more[:3]):
        raise pickle.UnpicklingError("a dtype of fields is not on the allow-list")
    told = dtype.newbyteorder(order) if order in "<>" else dtype
    dtype.__setstate__(told.__reduce__()[2])


def set_array(array: np.ndarray, state: Any) -> None:
    """Fill an empty array. numpy takes a list of objects for as long as the shape says."""
    shape, dtype, _, content = state[-4:]
    if array.size or not isinstance(dtype, np.dtype) or not is_shape(shape):
        raise pickle.UnpicklingError("an array's state is none that numpy writes")
    count = prod(shape)
    if dtype.hasobject:
        right = isinstance(content, list) and len(content) == count
    else:
        right = isinstance(content, bytes | str) and len(content) == count * dtype.itemsize and (content or not count)
    if not right:
        raise pickle.UnpicklingError(f"an array of shape {shape} has another number of entries")
    array.__setstate__(state)


def checked_keys(keys: Any) -> Any:
    """The keys, none of which holds containers: the hash of tuples in tuples without end takes the process's stack."""
    for key in keys:
        check_key(key)
    return keys


def check_key(key: Any) -> None:
    """Raise `pickle.UnpicklingError` where it holds containers, or could be one of many that all have one hash."""
    if isinstance(key, str | bytes):
        right = len(key) <= _LONGEST_KEY
    elif isinstance(key, tuple):
        right = len(key) <= _MOST_SIDES and all(isinstance(part, str) and len(part) <= _LONGEST_KEY for part in key)
    elif isinstance(key, int):
        right = -_LARGEST_KEY < key < _LARGEST_KEY
    else:
        right = isinstance(key, _KEYS)
    if not right:
        raise pickle.UnpicklingError(f"such a {type(key).__name__} as a key is not on the allow-list")


def is_shape(shape: Any) -> bool:
    """Whether it is a tuple of sides whose product is a number that computing takes no time."""
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MOST_SIDES
        and all(type(side) is int and 0 <= side < _LARGEST_SIDE for side in shape)
    )


def shown(value: Any) -> str:
    """A text or number of a file for a message; of anything else its type: few bytes can be longer than memory."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    is_short = value is None or type(value) is float or (type(value) is int and abs(value) < 2**64)
    return repr(value) if is_short else f"a {type(value).__name__}"


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
