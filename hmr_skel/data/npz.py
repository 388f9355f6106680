"""Arrays out of an .npz, each when it is asked for: a label file of two million rows never needs its size in memory.

An .npz is a zip of .npy files. Without a cache folder an array is read into memory. With one it is checked against the
zip's checksum and memory-mapped: members stored uncompressed (`np.savez`) at their place inside the zip; compressed
ones (`np.savez_compressed`) are unpacked once to .npy files in the folder.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import struct
import tokenize
import weakref
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

    Raises `UserError` where the file is missing, cut short or not an .npz, and on access where a member is corrupt.
    """

    def __init__(self, path: Path, cache_dir: Path | None = None, allow_pickle: bool = False):
        self.path = path
        self.allow_pickle = allow_pickle
        self._cache_dir = cache_dir
        self._members: dict[str, _Member] = {}
        self._mapped: dict[Path, tuple[IO[bytes], tuple[int, int]]] = {}  # files kept open, as they were when opened
        size = 0
        try:
            size = path.stat().st_size
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        self._members[info.filename.removesuffix(".npy")] = _read_member(archive, info, path)
        except FileNotFoundError:
            raise UserError(f"no label file {path}. Put it there, or change `file` in the manifest.") from None
        except _DAMAGE as error:
            raise UserError(
                f"{path} ({size:,} bytes) is not a complete .npz: {error}. "
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

        The data is not read. The id stays the same when the file is compressed, copied or renamed.
        """
        members = [(k, self._members[k].info.file_size, self._members[k].info.CRC) for k in sorted(keys)]
        return hashlib.sha256(json.dumps(members).encode()).hexdigest()

    def array(self, key: str) -> np.ndarray:
        """The array; with a cache folder it is memory-mapped and read-only, unless it holds Python objects.

        Its bytes are compared with the zip's checksum; of a mapped array once per state of the file, then a note in the
        cache folder says so.
        """
        member = self._members[key]
        if member.dtype.hasobject and not self.allow_pickle:
            raise UserError(
                f"{self.path}: {key!r} holds Python objects (dtype object), which are read only where the manifest "
                "says so. If the file is from a source that you trust, add allow_pickle = true to the source; only "
                "plain types are then unpickled."
            )
        if self._cache_dir is None or member.dtype.hasobject:
            return self._read(key, member)
        cache = self._cache_dir / self.content_id([key])[:16]
        if member.info.compress_type == zipfile.ZIP_STORED:
            file = self._open(self.path)
            start = self._find_stored(key, member, file, cache / "checked.json")
        else:
            file, start = self._open(self._unpack(key, member, cache / "array.npy")), 0
        if math.prod(member.shape) == 0:  # nothing to map
            return np.empty(member.shape, member.dtype)
        order = "F" if member.fortran_order else "C"
        return np.memmap(file, member.dtype, "r", start + member.header_size, member.shape, order)

    def check_unchanged(self) -> None:
        """Raise `UserError` where a mapped file was written to since it was opened.

        Its rows would be others than `content_id` says; and where it was cut short, the operating system would end
        this process. A file that another takes the place of, by rename, is still the one that was mapped.
        """
        for path, (file, state) in self._mapped.items():
            if _size_and_time(file) != state:
                raise UserError(
                    f"{path} has changed since it was opened. Let nothing write to it during a build, and start again: "
                    "what is finished is kept where the file's content is as it was."
                )

    def _open(self, path: Path) -> IO[bytes]:
        if path not in self._mapped:
            file = open(path, "rb")  # noqa: SIM115  as long as this object lives
            weakref.finalize(self, file.close)
            self._mapped[path] = file, _size_and_time(file)
        return self._mapped[path][0]

    def _read(self, key: str, member: _Member) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member.info) as file:
                return read_npy(file)
        except Exception as error:  # a damaged pickle can raise anything
            raise self._corrupt(key, str(error)) from error

    def _find_stored(self, key: str, member: _Member, file: IO[bytes], note: Path) -> int:
        """Where an uncompressed member begins, in bytes; its checksum is compared."""
        info = member.info
        # The zip's directory does not say: the local header has a name and an extra field of its own.
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or info.compress_size != info.file_size:
            raise self._corrupt(key, "it is not where the file's directory says")
        start = info.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header)[1:])
        state = {"file": _state(self.path), "start": start}
        if _read_note(note) != state:
            file.seek(start)
            crc, left = 0, info.file_size
            while left and (piece := file.read(min(left, _PIECE))):
                crc, left = zlib.crc32(piece, crc), left - len(piece)
            if left or crc != info.CRC:
                raise self._corrupt(key, "its data does not have the checksum that the file records")
            _write_note(note, state)
        return start

    def _unpack(self, key: str, member: _Member, path: Path) -> Path:
        if not (path.exists() and path.stat().st_size == member.info.file_size):
            with replacing(path) as temporary, zipfile.ZipFile(self.path) as archive, open(temporary, "wb") as file:
                try:
                    with archive.open(member.info) as packed:
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
    try:
        with archive.open(info) as file:  # RuntimeError where it is encrypted
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


def file_sha256(path: Path, notes: Path | None = None) -> str:
    """sha256 hex of a file's bytes.

    `notes` is a folder to remember it in: the file is then read again only where its size or times are others.
    """
    if notes is None:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    note, state = notes / f"{path.name}.json", _state(path)
    noted = _read_note(note)
    if noted.get("file") == state and isinstance(noted.get("sha256"), str):
        return noted["sha256"]
    digest = file_sha256(path)
    _write_note(note, {"file": state, "sha256": digest})
    return digest


def _size_and_time(file: IO[bytes]) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


def _state(path: Path) -> list[Any]:
    path = path.resolve()
    state = path.stat()
    # ctime too: a copy that keeps the original's mtime has a ctime of its own.
    return [str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _read_note(note: Path) -> dict[str, Any]:
    """What an earlier check has noted; empty where there is no note, or a damaged one."""
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads(note.read_bytes())
        return noted if isinstance(noted, dict) else {}
    return {}


def _write_note(note: Path, content: dict[str, Any]) -> None:
    with contextlib.suppress(UserError), replacing(note) as temporary:  # on a read-only disk it is checked each time
        temporary.write_text(json.dumps(content))
