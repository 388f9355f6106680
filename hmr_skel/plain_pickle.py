"""Pickles of arrays and plain containers, read so that nothing they name is run and no small file fills the memory.

What a pickle names is looked up in a table of stand-ins, which make what `pickle.dump` means by them and nothing else:
called as a file pleases, numpy's own and the built-in ones ask for as much memory as it says, and a state that no
writer gives makes numpy read and write outside its arrays. What steps take and calls make is added up too: a megabyte
that six bytes copy again a hundred thousand times is no more than a small file.
"""

import mmap
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any, ClassVar, no_type_check

import numpy as np

from hmr_skel.plain_types import check_key, checked_keys, is_object, made_of, set_array, set_dtype

MAX_MADE_BYTES = 2**29
"""What a small pickle may make; larger ones up to `_MADE_AT_MOST` times their size."""
STEP_BYTES = 64
"""What a step counts, as time and for its place in the memo; a call counts as much for each entry that it gets."""
_MADE_AT_MOST = STEP_BYTES  # so that steps alone, of a byte each, are never too many in a file that is not compressed
_CALL_BYTES = 512  # what a call counts at the least, as time: so that ten megabytes of calls end within seconds
_OBJECT_BYTES = 2**12
_EMPTY_BYTES = 2**8
_LARGEST_FRAME = 2**20  # writers begin another at 64 kB
_LONGEST_NAME = 256

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "__builtin__": "builtins", "copy_reg": "copyreg", "numpy.core.multiarray": "numpy._core.multiarray",
        "numpy.core.numeric": "numpy._core.numeric",
    }
)  # fmt: skip
"""Modules as Python 2 and numpy 1 called them."""


# Python's own unpickler, not the one in C, whose steps nobody can look over. Its steps are many only in small objects.
_PythonUnpickler: Any = pickle._Unpickler


@no_type_check  # tests check types as they run, which takes thirty times as long as a step
def _counted(name: str) -> Callable[["PlainUnpickler"], None]:
    def take(unpickler: "PlainUnpickler") -> None:
        unpickler._left -= unpickler.step_bytes  # a call of `count` would be a third of the time
        if unpickler._left < 0:
            unpickler.count(0)
        getattr(unpickler, name)()

    return take


def mapped(file: Any) -> mmap.mmap:
    """An open file, mapped: a read takes what there is, where that of a file first takes what it is asked for."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class PlainUnpickler(_PythonUnpickler):
    """Reads one pickle. Raises what a damaged one raises: anything that is an `Exception`."""

    # Steps by their names: a subclass has others by defining them.
    dispatch: ClassVar = {code: _counted(step.__name__) for code, step in _PythonUnpickler.dispatch.items()}
    step_bytes = STEP_BYTES

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

    def load_inner(self) -> Any:
        """The content of a pickle inside of this one, in the same stream, whose bytes count as this one's."""
        inner = type(self)(self.stream, self._names, 0)
        inner._left = self._left
        content = inner.load()
        self._left = inner._left
        return content

    def find_class(self, module: str, name: str) -> Any:
        if len(module) + len(name) > _LONGEST_NAME:
            raise pickle.UnpicklingError(f"a name of more than {_LONGEST_NAME} characters is not on the allow-list")
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
        self.count(_extent(arguments) + sum(map(_extent, arguments)))
        if isinstance(called, type):
            self.stack[-1] = self._made(made_of(called, arguments), _OBJECT_BYTES)
        elif isinstance(called, FunctionType):
            self.stack[-1] = self._made(called(*arguments))
        else:
            raise pickle.UnpicklingError(f"a call of a {type(called).__name__} is not on the allow-list")

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, type):
            raise pickle.UnpicklingError(f"an object of a {type(kind).__name__} is not on the allow-list")
        self.append(self._made(made_of(kind, arguments), _OBJECT_BYTES if arguments else _CALL_BYTES))

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        self.count(_extent(state))
        if isinstance(target, np.dtype):
            self._made(target)
            set_dtype(target, state)
        elif isinstance(target, np.ndarray):
            set_array(target, state)
            self._made(target)
        elif hasattr(type(target), "__setstate__") and is_object(target):
            target.__setstate__(state)
        elif isinstance(state, dict) and is_object(target):
            for name in state:
                if not isinstance(name, str) or callable(getattr(type(target), name, None)):
                    raise pickle.UnpicklingError("a state with methods is not on the allow-list")
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

    def load_empty_list(self) -> None:
        self.append(self._made([], _EMPTY_BYTES))

    def load_empty_dictionary(self) -> None:
        self.append(self._made({}, _EMPTY_BYTES))

    def load_empty_set(self) -> None:
        self.append(self._made(set(), _EMPTY_BYTES))

    def load_mark(self) -> None:
        super().load_mark()
        self.count(_EMPTY_BYTES)

    def load_put(self) -> None:
        index = int(self.readline())
        if not 0 <= index < 2**32:  # as in the other protocols; larger ones can all have one hash
            raise pickle.UnpicklingError("it has a place in the memo that no writer counts to")
        self.memo[index] = self.stack[-1]

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self._content(length)))

    def load_binunicode(self) -> None:
        (length,) = struct.unpack("<I", self.read(4))
        self._append_text(self._content(length), "utf-8", "surrogatepass")

    def load_binunicode8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self._append_text(self._content(length), "utf-8", "surrogatepass")

    def load_unicode(self) -> None:
        self._append_text(self.readline()[:-1], "raw-unicode-escape", "strict")

    def _content(self, length: int) -> bytes:
        content = self.read(length) if length <= sys.maxsize else b""
        if len(content) != length:
            raise EOFError("it is cut off")
        return content

    def _append_text(self, content: bytes, encoding: str, errors: str) -> None:
        """A text takes up to four bytes for each in the file."""
        if 4 * len(content) > self._left:
            raise pickle.UnpicklingError("a text is too long")
        text = str(content, encoding, errors)
        self.count(sys.getsizeof(text))
        self.append(text)

    def load_frame(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        if size > _LARGEST_FRAME:
            raise pickle.UnpicklingError(f"a frame of {size:,} bytes is larger than any that is written")
        self._unframer.load_frame(size)

    def load_refused(self) -> None:
        raise pickle.UnpicklingError("it has a step that no writer of arrays takes")

    load_inst = load_obj = load_newobj_ex = load_refused


def _extent(value: Any) -> int:
    """What it counts for a call that goes through it."""
    if isinstance(value, tuple | list | dict | set | frozenset):
        return STEP_BYTES * len(value)
    return len(value) if isinstance(value, str | bytes | bytearray) else 0
