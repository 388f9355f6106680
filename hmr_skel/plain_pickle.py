"""Pickles of arrays and plain containers, read so that nothing they name is run and no small file fills the memory.

What a pickle names is looked up in a table of stand-ins, which make what `pickle.dump` means by them and nothing else:
called as a file pleases, numpy's own and the built-in ones ask for as much memory as it says, and a state that no
writer gives makes numpy read and write outside its arrays. What calls make is added up too: a megabyte that six bytes
copy again a hundred thousand times is no more than a small file.
"""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import prod
from types import FunctionType, MappingProxyType
from typing import Any

import numpy as np

from hmr_skel.plain_types import Stated, check_key, checked_keys, new_object

MAX_MADE_BYTES = 2**29
"""What a small pickle may make; larger ones up to `_MADE_AT_MOST` times their size."""
_MADE_AT_MOST = 20
_CALL_BYTES = 512  # what a call counts at the least, as time: so that ten megabytes of calls end within seconds
_OBJECT_BYTES = 2**12
_EMPTY_BYTES = 2**8
_LARGEST_SIDE = 100_000  # of an empty sparse matrix
_OP = {name: getattr(pickle, name)[0] for name in (
    "BUILD", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "INST", "MARK", "NEWOBJ", "NEWOBJ_EX", "OBJ", "REDUCE",
    "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET", "DICT",
)}  # fmt: skip

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "__builtin__": "builtins", "copy_reg": "copyreg", "numpy.core.multiarray": "numpy._core.multiarray",
        "numpy.core.numeric": "numpy._core.numeric",
    }
)  # fmt: skip
"""Modules as Python 2 and numpy 1 called them."""


# Python's own unpickler, not the one in C, whose steps nobody can look over. Its steps are many only in small objects.
_PythonUnpickler: Any = pickle._Unpickler


class PlainUnpickler(_PythonUnpickler):
    """Reads one pickle. Raises what a damaged one raises: anything that is an `Exception`."""

    dispatch = _PythonUnpickler.dispatch.copy()

    def __init__(self, stream: Any, names: Callable[[str, str], Any], size: int) -> None:
        """
        Args:
            stream: to read from.
            names: what stands for a module's name; functions may be called, classes be made and given a state. Raises
                `pickle.UnpicklingError` for what is not on the allow-list.
            size: of the file, bytes.
        """
        super().__init__(stream, encoding="latin1")
        self.stream = stream
        self._names = names
        self._left = max(MAX_MADE_BYTES, _MADE_AT_MOST * size)

    def inner(self) -> "PlainUnpickler":
        """For a pickle inside of this one, in the same stream, whose bytes count as this one's."""
        inner = type(self)(self.stream, self._names, 0)
        inner._left = self._left
        return inner

    def find_class(self, module: str, name: str) -> Any:
        return self._names(RENAMED.get(module, module), name)

    def _made(self, value: Any, least: int = _CALL_BYTES) -> Any:
        size = 0
        if isinstance(value, np.ndarray):
            size = value.nbytes
        elif isinstance(value, str | bytes | bytearray | dict | set | list):
            size = sys.getsizeof(value)
        self.count(max(size, least))
        return value

    def count(self, size: int) -> None:
        """Add up what is made. Raises `pickle.UnpicklingError` where that is too much."""
        self._left -= size
        if self._left < 0:
            raise pickle.UnpicklingError("it makes many times more than it holds")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        called = self.stack[-1]
        if isinstance(called, type):
            self.stack[-1] = self._made(_new(called, arguments), _OBJECT_BYTES)
        elif isinstance(called, FunctionType):
            self.stack[-1] = self._made(called(*arguments))
        else:
            raise pickle.UnpicklingError(f"a call of a {type(called).__name__} is not on the allow-list")

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, type):
            raise pickle.UnpicklingError(f"an object of {kind!r:.40} is not on the allow-list")
        self.append(self._made(_new(kind, arguments), _OBJECT_BYTES if arguments else _CALL_BYTES))

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            self._made(target)
            _set_dtype(target, state)
        elif isinstance(target, np.ndarray):
            _set_array(target, state)
            self._made(target)
        elif hasattr(type(target), "__setstate__") and _is_object(target):
            target.__setstate__(state)
        elif isinstance(state, dict) and _is_object(target):
            for name in state:
                check_key(name)
            vars(target).update(state)
        elif not isinstance(target, OrderedDict):  # attributes of a dict: torch notes versions there
            raise pickle.UnpicklingError(f"a state of a {type(target).__name__} is not on the allow-list")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _set_items(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise pickle.UnpicklingError(f"items of a {type(target).__name__} are not on the allow-list")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            target[key] = value

    def load_additems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(checked_keys(items))

    def load_frozenset(self) -> None:
        self.append(frozenset(checked_keys(self.pop_mark())))

    def load_empty(self, kind: Callable[[], Any]) -> None:
        self.append(self._made(kind(), _EMPTY_BYTES))

    def load_mark(self) -> None:
        super().load_mark()
        self.count(_EMPTY_BYTES)

    def load_refused(self) -> None:
        raise pickle.UnpicklingError("it has a step that no writer of arrays takes")

    dispatch[_OP["REDUCE"]] = load_reduce
    dispatch[_OP["NEWOBJ"]] = load_newobj
    dispatch[_OP["BUILD"]] = load_build
    dispatch[_OP["SETITEM"]] = load_setitem
    dispatch[_OP["SETITEMS"]] = load_setitems
    dispatch[_OP["DICT"]] = load_dict
    dispatch[_OP["ADDITEMS"]] = load_additems
    dispatch[_OP["FROZENSET"]] = load_frozenset
    dispatch[_OP["MARK"]] = load_mark
    dispatch[_OP["EMPTY_LIST"]] = lambda self: self.load_empty(list)
    dispatch[_OP["EMPTY_DICT"]] = lambda self: self.load_empty(dict)
    dispatch[_OP["EMPTY_SET"]] = lambda self: self.load_empty(set)
    for _op in ("INST", "OBJ", "NEWOBJ_EX"):
        dispatch[_OP[_op]] = load_refused


def _is_object(target: Any) -> bool:
    """Whether it is a stand-in's object or a sparse matrix, and no class or function of everybody's."""
    return isinstance(target, Stated) or type(target).__module__.startswith("scipy.sparse")


def _new(kind: type, arguments: Any) -> Any:
    """An object of a class before its state. Older scipy called its matrices with their shape, and they are empty."""
    if arguments and issubclass(kind, Stated) and kind.takes_arguments:
        return new_object(kind)
    if arguments and kind.__module__.startswith("scipy.sparse"):
        (shape,) = arguments
        if isinstance(shape, tuple) and all(type(side) is int and 0 <= side <= _LARGEST_SIDE for side in shape):
            return kind(shape)
    if arguments:
        raise pickle.UnpicklingError(f"{kind.__name__} with arguments is not on the allow-list")
    return new_object(kind)


def _set_dtype(dtype: Any, state: Any) -> None:
    """Set what a state may say of a plain type, its byte order. numpy would take widths and flags that are lies."""
    _, order, *more = state
    if order not in ("<", ">", "|", "=") or any(part is not None for part in more[:3]):
        raise pickle.UnpicklingError("a dtype of fields is not on the allow-list")
    told = dtype.newbyteorder(order) if order in "<>" else dtype
    dtype.__setstate__(told.__reduce__()[2])


def _set_array(array: np.ndarray, state: Any) -> None:
    """Fill an empty array. numpy takes a list of objects for as long as the shape says."""
    shape, dtype, _, content = state[-4:]
    if array.size or not isinstance(dtype, np.dtype) or not all(type(side) is int and side >= 0 for side in shape):
        raise pickle.UnpicklingError("an array's state is none that numpy writes")
    count = prod(shape)
    if dtype.hasobject:
        right = isinstance(content, list) and len(content) == count
    else:
        right = isinstance(content, bytes | str) and len(content) == count * dtype.itemsize and (content or not count)
    if not right:
        raise pickle.UnpicklingError(f"an array of shape {shape!r:.60} has another number of entries")
    array.__setstate__(state)
