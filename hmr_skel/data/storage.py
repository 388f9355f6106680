"""The one interface to a dataset's files, in a folder of this machine or in an object store.

A place of this machine is a `Path`, one of a store a `RemotePath`, which has the methods of `Path` that datasets need.
Only this module knows the difference. A file appears whole (`put_bytes`): in a folder by rename, in a store when its
object is closed.

    s3://bucket/prefix?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1

The options are for stores other than Amazon's; AWS_ENDPOINT_URL says the same. Credentials come from where all clients
of S3 look for them, never from the URI, which goes into reports, process lists and Prefect's database.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Literal, NoReturn, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from hmr_skel.data.atomic import cannot_write, remove_abandoned, replacing, temporary_name
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder

OPTIONS = ("endpoint_override", "region", "scheme")
"""What a URI may say beside the place."""

AT_ONCE = 16
"""Questions to a store at a time."""

_STAYS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_NOT_ALLOWED = re.compile(
    r"AWS Error (ACCESS_DENIED|\w*(ACCESS_KEY|SIGNATURE|TOKEN|CREDENTIALS)|\w+ \(HTTP status 403)"
)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, order=True)
class RemotePath:
    """A place in an object store, with as much of `pathlib.Path` as a dataset's readers use.

    What the store answers but "no such file" is raised as `UserError`.
    """

    key: str
    """`bucket/prefix/data/train-00007-of-00012.parquet`"""
    options: str = ""
    """As in the URI after the question mark."""

    def __str__(self) -> str:
        return f"s3://{self.key}" + (f"?{self.options}" if self.options else "")

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.key}/{name}", self.options)

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(str(PurePosixPath(self.key).parent), self.options)

    @property
    def store(self) -> pyarrow.fs.FileSystem:
        """In which `key` is the object's path."""
        try:
            return _store(self.key.partition("/")[0], self.options)
        except (OSError, ValueError) as error:  # the latter is of an option
            _raise(self, "open", error)

    def exists(self) -> bool:
        return self._info().type != pyarrow.fs.FileType.NotFound

    def is_file(self) -> bool:
        return self._info().is_file

    def is_dir(self) -> bool:
        """Whether there is anything below it."""
        return self._info().type == pyarrow.fs.FileType.Directory

    def stat(self) -> SimpleNamespace:
        """`st_size` (bytes) and `st_mtime` (s since 1970, by the store's clock), as `os.stat_result` has them.

        Raises `FileNotFoundError` where there is no such object.
        """
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return SimpleNamespace(st_size=info.size, st_mtime=info.mtime_ns / 1e9)

    def open(self, mode: Literal["rb"] = "rb") -> pa.NativeFile:
        """Open for reading, at random. Raises `FileNotFoundError` where there is no such object."""
        with from_store(self):
            return self.store.open_input_file(self.key)

    def read_bytes(self) -> bytes:
        with from_store(self), self.open() as file:
            return file.read()

    def iterdir(self) -> Iterator["RemotePath"]:
        """What is in this folder, by name; nothing where there is none."""
        with from_store(self, "list"):
            found = self.store.get_file_info(pyarrow.fs.FileSelector(self.key, allow_not_found=True))
        return iter(sorted(self / info.base_name for info in found))

    def unlink(self, missing_ok: bool = False) -> None:
        with contextlib.suppress(*((FileNotFoundError,) if missing_ok else ())), from_store(self, "delete"):
            self.store.delete_file(self.key)

    def _info(self) -> pyarrow.fs.FileInfo:
        with from_store(self):
            return self.store.get_file_info(self.key)


Place: TypeAlias = Path | RemotePath


def locate(text: str | Place) -> Place:
    """The place that a command line or a caller names.

    Raises `UserError` for another scheme than `s3`, an unknown option, and credentials, which its text does not repeat.
    """
    if isinstance(text, Path) and text.parts[:1] == ("s3:",):
        raise UserError(
            "a URI is a text, and pathlib.Path takes its second slash away. Give s3://bucket/prefix as str."
        )
    if not isinstance(text, str):
        return text
    scheme, is_uri, rest = text.partition("://")
    if not is_uri:
        return Path(text)
    if "@" in rest:
        raise UserError(
            "a URI must hold no credentials, as it goes into reports and process lists. Set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, and give the URI without."
        )
    where, _, query = rest.partition("?")
    options, parts = dict(parse_qsl(query, keep_blank_values=True)), where.strip("/").split("/")
    if scheme != "s3" or not all(parts) or {".", ".."} & set(parts) or not set(options) <= set(OPTIONS):
        raise UserError(
            f"{scheme}://{where}: expected a folder, or s3://bucket/prefix with no other options after a question mark "
            f"than {', '.join(OPTIONS)}."
        )
    return RemotePath("/".join(parts), urlencode(sorted(options.items()), safe=":/"))


def put_bytes(place: Place, content: bytes | pa.Buffer) -> None:
    """Write a file, whole or not at all. Raises `UserError` where that fails."""
    if isinstance(place, Path):
        with replacing(place) as temporary:
            temporary.write_bytes(content)
        return

    def write() -> None:
        stream = place.store.open_output_stream(place.key)
        stream.write(content)
        stream.close()  # not in a `with`: where the store refuses a part, closing tells, and stores nothing

    # In a thread of its own, so that no Ctrl-C gets between these lines: a stream that is dropped stores what it has.
    # (pyarrow.fs.copy_files, one call, says nothing when the store refuses the last part.)
    with from_store(place, "write"), ThreadPoolExecutor(1, "put") as thread:
        thread.submit(write).result()


def put_new(place: Place, content: bytes) -> bool:
    """Write a small file unless there is one. Returns whether it was written.

    In a folder this is one step, and of two processes one succeeds. A store has no such step: it is asked, then written
    to, and two processes that do so within the same second may both succeed.
    """
    if not isinstance(place, Path):
        is_new = not place.exists()
        if is_new:
            put_bytes(place, content)
        return is_new
    is_new = False
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            place.touch(exist_ok=False)
            is_new = True
            place.write_bytes(content)
    except OSError as error:
        if is_new:  # an empty file would be taken for somebody else's
            place.unlink(missing_ok=True)
        raise cannot_write(place, error) from error
    return is_new


def clock(folder: Place) -> float:
    """The time, in seconds since 1970, by the clock that dates the folder's files. It may be another machine's.

    Writes a small file there and removes it, with those that killed processes left in a folder of this machine. Raises
    `UserError` where that is not possible.
    """
    probe = folder / temporary_name(Path("clock")).name
    put_bytes(probe, b"?")
    if isinstance(folder, Path):
        remove_abandoned(folder)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def may_pass(error: object) -> bool:
    """Whether an error is trouble with storage, and of a kind that may be over at another try."""
    if isinstance(error, UserError):
        error = error.__cause__
    return isinstance(error, OSError) and error.errno not in _STAYS


@contextlib.contextmanager
def open_parquet(place: Place) -> Generator[pq.ParquetFile]:
    """A Parquet file; of an object, only the parts that are read are fetched.

    Raises `UserError` where there is no such file, or where pyarrow finds it damaged, now or while it is read.
    """
    try:
        with from_store(place), pq.ParquetFile(place if isinstance(place, Path) else place.open()) as parquet:
            yield parquet
    except FileNotFoundError:
        raise UserError(f"no file {place}. Expected a Parquet shard.") from None
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, and not of what is in the file
            raise UserError(f"cannot read {place}: {text}. Expected a file that may be read; try again.") from error
        raise UserError(f"{place} is not a Parquet file that can be read: {text}. Build the shard again.") from error


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of every item, of several at once: each answer of a store takes its time."""
    with ThreadPoolExecutor(AT_ONCE, "store") as threads:
        return list(threads.map(function, items))


def sha256_of(place: Place) -> str:
    """sha256 of a file's bytes, hex; of an object as it streams by."""
    with from_store(place), place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_folder(out: Place) -> Path:
    """The folder of this machine that goes with a dataset: its own, or for one in a store one of the local cache.

    Unpacked labels are in it. May be deleted between builds.
    """
    if isinstance(out, Path):
        return out
    folder = data_folder() / ".remote"
    return folder / f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:12]}"


@lru_cache
def _store(bucket: str, options: str) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.FileSystem.from_uri(f"s3://{bucket}" + (f"?{options}" if options else ""))[0]


@contextlib.contextmanager
def from_store(place: Place, doing: str = "read") -> Generator[None]:
    """What a store answers becomes one `UserError`. "No such file", damage inside a file, and errors of this machine's
    own folders pass as they are."""
    try:
        yield
    except OSError as error:
        if "AWS Error" not in str(error):
            raise
        _raise(place, doing, error)


def _raise(place: Place, doing: str, error: Exception) -> NoReturn:
    """Its cause is an `OSError` whose errno tells what another try cannot mend: credentials, and a missing bucket."""
    text = " ".join(str(error).split())
    if _NOT_ALLOWED.search(text):
        number, todo = errno.EACCES, "Are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY those of someone who may?"
    elif "NO_SUCH_BUCKET" in text or "not found" in text:
        number, todo = errno.ENOENT, f"Make the bucket {str(place).split('/')[2]!r} first, or name another."
    else:
        number, todo = errno.EIO, "Is the store there, and its endpoint right (AWS_ENDPOINT_URL)?"
    raise UserError(f"cannot {doing} {place}: {text} {todo} What is finished is kept.") from OSError(number, text)
