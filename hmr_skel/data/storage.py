"""The interface to a dataset's files, in a folder of this machine or in an object store.

A place on this machine is a `Path`. A place in a store is a `RemotePath`, which has the methods of `Path` that datasets
need. Only this module distinguishes them. A file appears whole (`put_bytes`): by rename, or when its object is closed.

    s3://bucket/prefix?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1

The options, or AWS_ENDPOINT_URL, are for stores other than Amazon's. Credentials come from the usual places of S3
clients, not from the URI, which reports, process lists and Prefect's database show.
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
"""The options of a URI."""

AT_ONCE = 16
"""The number of requests to a store at a time."""

_STAYS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_NOT_ALLOWED = re.compile(
    r"AWS Error (ACCESS_DENIED|\w*(ACCESS_KEY|SIGNATURE|TOKEN|CREDENTIALS)|\w+ \(HTTP status 403)"
)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, order=True)
class RemotePath:
    """A place in an object store, with the part of `pathlib.Path` that a dataset's readers use.

    Errors of the store, except "no such file", are raised as `UserError`.
    """

    key: str
    """`bucket/prefix/data/train-00007-of-00012.parquet`"""
    options: str = ""
    """The options after the question mark of the URI."""

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
        """The store, in which `key` is the object's path."""
        try:
            return _store(self.key.partition("/")[0], self.options)
        except (OSError, ValueError) as error:  # a wrong option raises ValueError
            _raise(self, "open", error)

    def exists(self) -> bool:
        return self._info().type != pyarrow.fs.FileType.NotFound

    def is_file(self) -> bool:
        return self._info().is_file

    def is_dir(self) -> bool:
        """Whether there is an object below it."""
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
        """Open for random reading. Raises `FileNotFoundError` if there is no such object."""
        with from_store(self):
            return self.store.open_input_file(self.key)

    def read_bytes(self) -> bytes:
        with from_store(self), self.open() as file:
            return file.read()

    def iterdir(self) -> Iterator["RemotePath"]:
        """The content of this folder, by name; empty if there is none."""
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
    """The place that a text names: a folder or a URI.

    Raises `UserError` for another scheme than `s3`, an unknown option, and credentials, which it does not show.
    """
    if isinstance(text, Path) and text.parts[:1] == ("s3:",):
        raise UserError("pathlib.Path removes the second slash of a URI. Give s3://bucket/prefix as str.")
    if not isinstance(text, str):
        return text
    scheme, is_uri, rest = text.partition("://")
    if not is_uri:
        return Path(text)
    if "@" in rest:
        raise UserError(
            "a URI must not contain credentials, since reports and process lists show it. Set "
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
    """Write a file, whole or not at all. Raises `UserError` if that fails."""
    if isinstance(place, Path):
        with replacing(place) as temporary:
            temporary.write_bytes(content)
        return

    def write() -> None:
        stream = place.store.open_output_stream(place.key)
        stream.write(content)
        stream.close()  # not in a `with`: if the store refuses a part, closing raises and stores nothing

    # In a thread of its own, so that Ctrl-C cannot interrupt these lines: a dropped stream stores what it has.
    # (pyarrow.fs.copy_files does not report that the store refuses the last part.)
    with from_store(place, "write"), ThreadPoolExecutor(1, "put") as thread:
        thread.submit(write).result()


def put_new(place: Place, content: bytes) -> bool:
    """Write a small file unless it exists. Returns whether it was written.

    In a folder this is one step, so only one of two processes succeeds. In a store it is a check, then a write, and two
    processes that do so within the same second may both succeed.
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
        if is_new:  # an empty file would look like another build's
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
    """Whether an error comes from storage and may not occur at another try."""
    if isinstance(error, UserError):
        error = error.__cause__
    return isinstance(error, OSError) and error.errno not in _STAYS


@contextlib.contextmanager
def open_parquet(place: Place) -> Generator[pq.ParquetFile]:
    """Open a Parquet file; from a store, only the parts that are read are fetched.

    Raises `UserError` if there is no such file, or if pyarrow finds it damaged, now or while it is read.
    """
    try:
        with from_store(place), pq.ParquetFile(place if isinstance(place, Path) else place.open()) as parquet:
            yield parquet
    except FileNotFoundError:
        raise UserError(f"no file {place}. Expected a Parquet shard.") from None
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the content
            raise UserError(f"cannot read {place}: {text}. Make it readable, and try again.") from error
        raise UserError(f"{place} is not a Parquet file that can be read: {text}. Build the shard again.") from error


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply `function` to every item, to several at once, since a store answers slowly."""
    with ThreadPoolExecutor(AT_ONCE, "store") as threads:
        return list(threads.map(function, items))


def sha256_of(place: Place) -> str:
    """The sha256 of a file's bytes, hex; an object is streamed."""
    with from_store(place), place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_folder(out: Place) -> Path:
    """The local folder for a dataset's unpacked labels: its own, or for a store one in the local cache.

    It may be deleted between builds.
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
    """Turn errors of a store into one `UserError`. "No such file", damage inside a file, and errors of local folders
    pass unchanged."""
    try:
        yield
    except OSError as error:
        if "AWS Error" not in str(error):
            raise
        _raise(place, doing, error)


def _raise(place: Place, doing: str, error: Exception) -> NoReturn:
    """Raise a `UserError` whose cause is an `OSError`; its errno marks credentials and a missing bucket as lasting."""
    text = " ".join(str(error).split())
    if _NOT_ALLOWED.search(text):
        number, todo = errno.EACCES, "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    elif "NO_SUCH_BUCKET" in text or "not found" in text:
        number, todo = errno.ENOENT, f"Make the bucket {str(place).split('/')[2]!r} first, or name another one."
    else:
        number, todo = errno.EIO, "Check the store and its endpoint (AWS_ENDPOINT_URL)."
    raise UserError(f"cannot {doing} {place}: {text} {todo} Finished shards are kept.") from OSError(number, text)
