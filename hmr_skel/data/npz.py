"""Read the arrays of an .npz one by one, so that a label file of two million rows need not fit into memory.

An .npz is a zip of .npy files. Without a cache folder, an array is read into memory. With one, it is unpacked into the
folder once, compared with the zip's checksum, and memory-mapped; later changes of the .npz then do no harm.
"""

import contextlib
import hashlib
import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmr_skel.data.atomic import replacing
from hmr_skel.data.storage import sha256_of
from hmr_skel.errors import UserError
from hmr_skel.foreign import Unpickler

_PIECE = 2 * 2**20


class _Member(NamedTuple):
    """The headers of one array."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype


class LabelFile(Mapping[str, Any]):
    """The arrays of an .npz by key. Opening reads only headers.

    Raises `UserError` if the file is missing, cut short or not an .npz, and on access if an array is corrupt.
    """

    def __init__(self, path: Path, cache_dir: Path | None = None, allow_pickle: bool = False):
        self.path = path
        self.allow_pickle = allow_pickle
        self._cache_dir = cache_dir
        self._members: dict[str, _Member] = {}
        what = "it"
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    key, is_array, _ = info.filename.rpartition(".npy")
                    if is_array:
                        what = repr(key)
                        self._members[key] = _read_member(archive, info)
        except FileNotFoundError:
            raise UserError(f"no label file {path}. Put it there, or change `file` in the manifest.") from None
        except OSError as error:
            raise UserError(f"cannot read the label file {path}: {error.strerror or error}.") from error
        except Exception as error:  # zipfile, zlib and numpy raise many, depending on the place of the damage
            raise UserError(
                f"{path} is not a complete .npz: {what} cannot be read: {error}. It was cut off on the way, or is "
                "another kind of file; fetch it again."
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __getitem__(self, key: str) -> Any:
        """The array, or the object (such as a dict) that numpy has wrapped in an array."""
        array = self.array(key)
        return array.item() if array.dtype == object and array.shape == () else array

    def shape(self, key: str) -> tuple[int, ...]:
        return self._members[key].shape

    def dtype(self, key: str) -> np.dtype:
        return self._members[key].dtype

    def content_id(self, keys: list[str]) -> str:
        """The sha256 of the names, sizes and checksums of the arrays in the zip, without reading the data.

        It stays the same when the file is compressed, copied or renamed.
        """
        members = [(k, self._members[k].info.file_size, self._members[k].info.CRC) for k in sorted(keys)]
        return hashlib.sha256(json.dumps(members).encode()).hexdigest()

    def array(self, key: str) -> np.ndarray:
        """The array, checked by the zip's checksum.

        With a cache folder it is memory-mapped and read-only, unless it holds Python objects.
        """
        member = self._members[key]
        if member.dtype.hasobject and not self.allow_pickle:
            raise UserError(
                f"{self.path}: {key!r} has Python objects (dtype object), which are read only if the manifest "
                "says so. If you trust the source of the file, add allow_pickle = true to the source; only plain "
                "types are then unpickled."
            )
        try:
            if self._cache_dir is not None and not member.dtype.hasobject:
                return np.load(self._unpacked(key, self._cache_dir), mmap_mode="r")
            with zipfile.ZipFile(self.path) as archive, archive.open(member.info) as file:
                return read_npy(file)
        except UserError:  # the cache cannot be written
            raise
        except Exception as error:  # a damaged pickle can raise any exception
            raise UserError(f"{self.path}: {key!r} is corrupt: {error}. Fetch the file again.") from error

    def _unpacked(self, key: str, cache_dir: Path) -> Path:
        """The array as a file of its own, named by its content."""
        info = self._members[key].info
        path = cache_dir / self.content_id([key])[:16] / "array.npy"
        if not (path.exists() and path.stat().st_size == info.file_size):
            with (
                replacing(path) as temporary,
                open(temporary, "wb") as file,
                zipfile.ZipFile(self.path) as archive,
                archive.open(info) as packed,
            ):
                shutil.copyfileobj(packed, file, _PIECE)  # zipfile stops at file_size and compares the checksum
        return path


def read_npy(file: Any) -> np.ndarray:
    """The array in an .npy stream; `Unpickler` reads Python objects in it. Raises any `Exception`."""
    shape, dtype = _read_header(file)
    if not dtype.hasobject:
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    array = Unpickler(file).load()
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise ValueError(f"its header says {dtype} of shape {shape}, its content does not")
    return array.view(np.ndarray)


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy format {version}; 1.0 and 2.0 are read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if min(shape, default=0) < 0 or (math.prod(shape) and not dtype.itemsize):
        raise ValueError(f"its header claims shape {shape} of {dtype}")
    return shape, dtype


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    with archive.open(info) as file:  # RuntimeError if it is encrypted
        member = _Member(info, *_read_header(file))
        claimed = file.tell() + math.prod(member.shape) * member.dtype.itemsize
    if not member.dtype.hasobject and claimed != info.file_size:
        raise ValueError(f"its header says {claimed:,} bytes, but it holds {info.file_size:,}")
    return member


def file_sha256(path: Path, notes: Path | None = None, of: Callable[[Path], str] = sha256_of) -> str:
    """sha256 hex of a file's bytes, or what `of` makes of the file.

    `notes` is a folder to remember it in: the file is then read again only where its size or times are others. Each
    `of` needs a folder of its own.
    """
    if notes is None:
        return of(path)
    note, state = notes / f"{path.name}.json", path.stat()
    # ctime too: a copy that keeps the original's mtime has a ctime of its own.
    known = [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # there is no note, or it is damaged
        noted = json.loads(note.read_bytes())
        if noted["file"] == known and isinstance(noted["sha256"], str):
            return noted["sha256"]
    digest = of(path)
    with contextlib.suppress(UserError), replacing(note) as temporary:  # a read-only disk: it is read each time
        temporary.write_text(json.dumps({"file": known, "sha256": digest}))
    return digest
