"""Arrays out of an .npz, each when it is asked for: a label file of two million rows never needs its size in memory.

An .npz is a zip of .npy files. Without a cache folder an array is read into memory. With one it is memory-mapped:
members stored uncompressed (`np.savez`) at their place inside the zip; compressed ones (`np.savez_compressed`) are
unpacked once to .npy files in the folder. Sizes that headers claim are compared with each other and with the file.
"""

import hashlib
import json
import math
import os
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hmr_skel.data.atomic import replacing
from hmr_skel.errors import UserError
from hmr_skel.foreign import Unpickler

_PIECE = 2 * 2**20
# What zipfile and zlib raise on damaged files, depending on where the damage is.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError),
    *(tokenize.TokenError, SyntaxError, TypeError, OverflowError, MemoryError),  # headers are Python literals to numpy
)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field


@dataclass(frozen=True)
class _Member:
    """One array of the file: what its headers say."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    header_size: int  # bytes of .npy before the data


class LabelFile(Mapping[str, Any]):
    """The arrays of an .npz, by key. Opening reads headers only.

    Raises `UserError` where the file is missing, truncated or not an .npz, and on access where a member is corrupt.
    """

    def __init__(self, path: Path, cache_dir: Path | None = None, allow_pickle: bool = False):
        self.path = path
        self.allow_pickle = allow_pickle
        self._cache_dir = cache_dir
        self._members: dict[str, _Member] = {}
        try:
            self._size = path.stat().st_size
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        self._members[info.filename.removesuffix(".npy")] = _read_member(archive, info, path)
        except FileNotFoundError:
            raise UserError(f"no label file {path}. Put it there, or change `file` in the manifest.") from None
        except _DAMAGE as error:
            raise UserError(
                f"{path} ({self._size:,} bytes) is not a complete .npz: {error}. "
                "It was cut off on the way, or is another kind of file; fetch it again."
            ) from error
        except OSError as error:
            raise UserError(f"cannot read the label file {path}: {error.strerror or error}.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __getitem__(self, key: str) -> Any:
        """The array; where numpy has wrapped another object in one (a dict, say), that object."""
        array = self.array(key)
        return array.item() if array.dtype == object and array.shape == () else array

    def shape(self, key: str) -> tuple[int, ...]:
        return self._members[key].shape

    def dtype(self, key: str) -> np.dtype:
        return self._members[key].dtype

    def content_id(self, keys: list[str]) -> str:
        """What the members hold, as sha256 hex of their names, sizes and checksums as the zip records them.

        Costs no read of the data, and is the same for a file that was compressed, copied or renamed.
        """
        members = [(k, self._members[k].info.file_size, self._members[k].info.CRC) for k in sorted(keys)]
        return hashlib.sha256(json.dumps(members).encode()).hexdigest()

    def array(self, key: str) -> np.ndarray:
        """The array; with a cache folder it is memory-mapped and read-only, unless it holds Python objects."""
        member = self._members[key]
        if member.dtype.hasobject and not self.allow_pickle:
            raise UserError(
                f"{self.path}: {key!r} holds Python objects (dtype object), which are read only where the manifest "
                "says so. If the file is from a source that you trust, add allow_pickle = true to the source; only "
                "plain types are then unpickled."
            )
        if self._cache_dir is None or member.dtype.hasobject:
            return self._read(key, member)
        if member.info.compress_type == zipfile.ZIP_STORED:
            path, offset = self.path, _data_offset(self.path, self._size, member.info) + member.header_size
        else:
            path, offset = self._unpack(key, member, self._cache_dir), member.header_size
        if math.prod(member.shape) == 0:  # nothing to map
            return np.empty(member.shape, member.dtype)
        order = "F" if member.fortran_order else "C"
        return np.memmap(path, member.dtype, mode="r", offset=offset, shape=member.shape, order=order)

    def _read(self, key: str, member: _Member) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member.info) as file:
                return read_npy(file)
        except Exception as error:  # a damaged pickle can raise anything
            raise self._corrupt(key, str(error)) from error

    def verify(self, keys: list[str]) -> None:
        """Compare the data of members with the zip's checksums, once per state of the file (then a note is kept).

        Mapped members are never read through the zip, so that a flipped bit would go unnoticed without this. To be
        called of a file with a cache folder.
        """
        assert self._cache_dir is not None
        state = self.path.stat()
        note = self._cache_dir / self.content_id(keys)[:16] / "verified.json"
        found = {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
        if _is_noted(note, found):
            return
        with open(self.path, "rb") as file:
            for key in keys:
                info = self._members[key].info
                if info.compress_type == zipfile.ZIP_STORED:  # others are checked as they are unpacked
                    file.seek(_data_offset(self.path, self._size, info))
                    if _checksum(file, info.file_size) != info.CRC:
                        raise self._corrupt(key, "its data does not have the checksum that the file records")
        with replacing(note) as temporary:
            temporary.write_text(json.dumps(found))

    def _unpack(self, key: str, member: _Member, cache_dir: Path) -> Path:
        if Path(key).name != key or "\0" in key:  # it names the file that is written
            raise UserError(f"{self.path}: {key!r} is no name of an array. Fetch the file again.")
        path = cache_dir / self.content_id([key])[:16] / f"{key}.npy"
        if path.exists() and path.stat().st_size == member.info.file_size:
            return path
        with replacing(path) as temporary:
            free = shutil.disk_usage(temporary.parent).free
            if member.info.file_size > free:
                raise UserError(
                    f"{self.path}: {key!r} is compressed and needs {member.info.file_size:,} bytes unpacked, but "
                    f"{cache_dir} has {free:,} free. Make room, or save the file with np.savez."
                )
            try:
                with (
                    zipfile.ZipFile(self.path) as archive,
                    archive.open(member.info) as packed,
                    open(temporary, "wb") as file,
                ):
                    shutil.copyfileobj(packed, file, _PIECE)  # zipfile stops at file_size and checks the checksum
            except _DAMAGE as error:
                raise self._corrupt(key, str(error)) from error
        return path

    def _corrupt(self, key: str, detail: str) -> UserError:
        return UserError(f"{self.path}: {key!r} is corrupt: {detail}. Fetch the file again.")


def read_npy(file: Any) -> np.ndarray:
    """The array of an .npy stream; Python objects in it as `Unpickler` reads them. Raises any `Exception`."""
    shape, _, dtype = _read_header(file)
    if not dtype.hasobject:
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    array = Unpickler(file).load()
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise ValueError(f"its header says {dtype} of shape {shape}, its content does not")
    return array.view(np.ndarray)


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy format {version}; 1.0 and 2.0 are read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if min(shape, default=0) < 0 or (math.prod(shape) and not dtype.itemsize):
        raise ValueError(f"its header claims shape {shape} of {dtype}")
    return shape, fortran_order, dtype


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> _Member:
    key = info.filename.removesuffix(".npy")
    if info.flag_bits & 1:
        raise UserError(f"{path}: {key!r} is encrypted. Expected a plain .npz.")
    try:
        with archive.open(info) as file:
            shape, fortran_order, dtype = _read_header(file)
            member = _Member(info, shape, dtype, fortran_order, header_size=file.tell())
    except (*_DAMAGE, OSError) as error:
        raise UserError(f"{path}: {key!r} is not an array that can be read: {error}. Fetch the file again.") from error
    claimed = member.header_size + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and claimed != info.file_size:
        raise UserError(
            f"{path}: {key!r} says that it is {dtype} {shape}, which is {claimed:,} bytes, but holds "
            f"{info.file_size:,}. The file is corrupt; fetch it again."
        )
    return member


def _data_offset(path: Path, size: int, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes start. The directory does not say: the local header has its own name and extra field."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) == _LOCAL_HEADER.size:
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            name = file.read(name_length)
            offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            if (
                signature == b"PK\x03\x04"
                and name == info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
                and info.compress_size == info.file_size
                and offset + info.file_size <= size
            ):
                return offset
    raise UserError(f"{path}: {info.filename!r} is not where the file's directory says. Fetch the file again.")


def _checksum(file: IO[bytes], size: int) -> int:
    crc = 0
    while size and (piece := file.read(min(size, _PIECE))):
        crc = zlib.crc32(piece, crc)
        size -= len(piece)
    return crc


def _is_noted(note: Path, state: dict[str, int]) -> bool:
    """Whether an earlier check left this note. One that cannot be read counts as none: the check is made again."""
    try:
        return json.loads(note.read_bytes()) == state
    except (OSError, ValueError):
        return False


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, cache_dir: Path) -> None:
    """Raise `UserError` where the file's hash is another. A file that passed is not read again until it changes."""
    state = os.stat(path)
    found = {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
    note = cache_dir / expected[:16] / "sha256.json"
    if _is_noted(note, found):
        return
    actual = file_sha256(path)
    if actual != expected:
        raise UserError(
            f"{path} has sha256 {actual}, but the manifest expects {expected}. It is another release or was damaged: "
            "fetch it again, or change `sha256` in the manifest."
        )
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(found))
