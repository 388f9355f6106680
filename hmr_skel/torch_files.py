"""Files that `torch.save` has written, looked over before torch reads them with `weights_only=True`.

That keeps a file from running anything, but not from taking all memory: torch unpacks members that are compressed to
whatever size, allocates storages as long as the pickle says, and calls functions that make as many bytes as they are
told. So the pickle is read here first, where a tensor is no more than its extent in the file.
"""

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.serialization import MAGIC_NUMBER, get_unsafe_globals_in_checkpoint, safe_globals

from hmr_skel.plain_pickle import STEP_BYTES, PlainUnpickler, mapped
from hmr_skel.plain_types import NUMPY, Stated, is_shape, plain_dict, plain_set, shown

_ZIP = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # a number, a version, the machine, the content, the storages' keys; then the storages themselves


class Inert(Stated):
    """Stands in for an object of a foreign class."""

    takes_arguments = True

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def is_torch_archive(path: Path) -> bool:
    """Whether a zip archive is one of torch's. Raises what damaged archives raise."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def load_torch(file: Path | BufferedIOBase, *, inert: bool = False, mmap: bool = False) -> Any:
    """What `torch.save` has written: tensors on the CPU and plain containers.

    Args:
        file: to read.
        inert: make stand-ins for objects of foreign classes; otherwise there must be none.
        mmap: map an archive's tensors from the file.

    Raises what damaged and refused files raise: anything that is an `Exception`.
    """
    with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as stream, ExitStack() as stack:
        zipped = stream.read(len(_ZIP)) == _ZIP
        size = stream.seek(0, 2)
        stream.seek(0)
        if zipped:
            named = _check_archive(stream, size)
            stream.seek(0)
            foreign = get_unsafe_globals_in_checkpoint(cast(IO[bytes], stream))
            if refused := sorted(named - set(foreign)):
                raise pickle.UnpicklingError(f"{refused[0]} is not on the allow-list")
            if inert:
                stack.enter_context(safe_globals([(Inert, name) for name in foreign]))
        else:
            _check_legacy(mapped(stream) if isinstance(file, Path) else stream, size)
        stream.seek(0)
        source: Any = file if mmap and zipped else stream
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap and zipped)


def check_view(offset: Any, size: Sequence[int], stride: Sequence[int], entries: int) -> None:
    """Raise `ValueError` where a tensor reaches beyond its storage of so many entries: torch would make that longer."""
    if len(size) != len(stride) or not is_shape((offset,)) or not is_shape(tuple(size)) or not is_shape(tuple(stride)):
        raise ValueError("a tensor of a size, stride or offset that torch does not write")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if all(size) and last >= entries:
        raise ValueError(f"a tensor of size {tuple(size)} in a storage of {entries:,} entries")


@dataclass(frozen=True)
class _StorageType:
    itemsize: int


@dataclass(frozen=True)
class _Storage:
    entries: int


def _tensor(storage: _Storage, offset: Any, size: Any, stride: Any, *more: Any) -> None:
    check_view(offset, size, stride, storage.entries)


def _nothing(*args: Any) -> None:
    """Of what takes no memory worth counting."""


_NAMES: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): plain_dict,
    ("collections", "Counter"): plain_dict,
    ("builtins", "set"): plain_set,
    ("_codecs", "encode"): NUMPY["_codecs", "encode"],
    ("torch", "Size"): _nothing,
    ("torch", "device"): _nothing,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _nothing,
}


class _Look(PlainUnpickler):
    """Reads a pickle of torch's without making tensors; `named` are the classes in it that it does not know."""

    step_bytes = 4 * STEP_BYTES  # torch takes each again, twice, and more slowly

    def __init__(self, stream: Any, size: int, storage_bytes: Callable[[str, int], int]) -> None:
        super().__init__(stream, self._stand_in, size)
        self.named: set[str] = set()
        self._storage_bytes = storage_bytes

    def find_class(self, module: str, name: str) -> Any:
        return self._names({"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module), name)

    def _stand_in(self, module: str, name: str) -> Any:
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            kind = torch.uint8 if name == "UntypedStorage" else torch.serialization.StorageType(name).dtype
            return _StorageType(kind.itemsize)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        self.named.add(f"{module}.{name}")
        return Inert

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        what, kind, key, _, entries, *view = pid
        known = what in ("storage", b"storage") and isinstance(kind, _StorageType) and type(key) is str
        if not known or not is_shape((entries,)):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        if entries * kind.itemsize > self._storage_bytes(key, entries * kind.itemsize):
            raise ValueError(f"storage {shown(key)} claims {entries:,} entries, which the file does not hold")
        if view and view[0] is not None:
            _, offset, length = view[0]
            check_view(offset, (length,), (1,), entries)
            return _Storage(length)
        return _Storage(entries)


def _check_archive(stream: BufferedIOBase, size: int) -> set[str]:
    """Foreign names in an archive whose members are as large as they claim. Raises where something is not right."""
    with zipfile.ZipFile(stream) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("two of its members have one name")
        if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members.values()):
            raise ValueError("its members are compressed, which torch does not write")
        if (total := sum(member.file_size for member in members.values())) > size:
            raise ValueError(f"its members claim {total:,} bytes, in a file of {size:,}")
        top = next(iter(members)).partition("/")[0]

        def storage_bytes(key: str, claimed: int) -> int:
            return members[f"{top}/data/{key}"].file_size

        with archive.open(f"{top}/data.pkl") as content:
            look = _Look(content, size, storage_bytes)
            look.load()
            return look.named


def _check_legacy(stream: Any, size: int) -> None:
    """Raise where a file from before torch 1.6 is not right."""
    claimed: dict[str, int] = {}
    left = size

    def storage_bytes(key: str, bytes_of_it: int) -> int:
        nonlocal left
        before = claimed.get(key, 0)
        claimed[key] = max(before, bytes_of_it)
        left -= claimed[key] - before
        return left + claimed[key]

    for number in range(_LEGACY_PICKLES):
        look = _Look(stream, size, storage_bytes)
        content = look.load()
        if number == 0 and content != MAGIC_NUMBER:
            raise ValueError("it is of no kind that torch writes")
        if look.named:
            raise pickle.UnpicklingError(f"{min(look.named)} is not on the allow-list")
