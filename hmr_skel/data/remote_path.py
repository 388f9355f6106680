"""A place in an object store, with as much of `pathlib.Path` as a dataset's readers use."""

import contextlib
import errno
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal, NoReturn

import pyarrow as pa
import pyarrow.fs

from hmr_skel.errors import UserError

_AWS_ERROR = re.compile(r"AWS Error ([A-Z0-9_]+)(?: \(HTTP status (\d+)\))?")
_NOT_ALLOWED = re.compile("ACCESS_DENIED|.*(ACCESS_KEY|SIGNATURE|TOKEN|CREDENTIALS|CLIENT_TOKEN).*")


@dataclass(frozen=True)
class Stat:
    """Of an object; named as `os.stat_result`."""

    st_size: int  # bytes
    st_mtime: float  # s since 1970, by the store's clock


@dataclass(frozen=True, order=True)
class RemotePath:
    """A place in an object store. What the store answers but "no such file" is raised as `UserError`."""

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
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    @property
    def bucket(self) -> str:
        return self.key.partition("/")[0]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(str(PurePosixPath(self.key).parent), self.options)

    @property
    def store(self) -> pyarrow.fs.FileSystem:
        """In which `key` is the object's path."""
        try:
            return _store(self.bucket, self.options)
        except (OSError, ValueError) as error:  # the latter is of an option
            _raise(self, "open", error)

    def exists(self) -> bool:
        return self._info().type != pyarrow.fs.FileType.NotFound

    def is_file(self) -> bool:
        return self._info().is_file

    def is_dir(self) -> bool:
        """Whether there is anything below it."""
        return self._info().type == pyarrow.fs.FileType.Directory

    def stat(self) -> Stat:
        """Raises `FileNotFoundError` where there is no such object."""
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return Stat(info.size, info.mtime_ns / 1e9)

    def open(self, mode: Literal["rb"] = "rb") -> pa.NativeFile:
        """For reading, at random. Raises `FileNotFoundError` where there is no such object."""
        with from_store(self):
            return self.store.open_input_file(self.key)

    def read_bytes(self) -> bytes:
        with from_store(self), self.open() as file:
            return file.read()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def infos(self) -> list[pyarrow.fs.FileInfo]:
        """What is in the folder, by name; nothing where there is none."""
        selector = pyarrow.fs.FileSelector(self.key, allow_not_found=True)
        with from_store(self, "list"):
            return sorted(self.store.get_file_info(selector), key=lambda info: info.base_name)

    def iterdir(self) -> Iterator["RemotePath"]:
        return (self / info.base_name for info in self.infos())

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Of a name in this folder, not below it."""
        return (place for place in self.iterdir() if fnmatchcase(place.name, pattern))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with from_store(self, "delete"):
                self.store.delete_file(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _info(self) -> pyarrow.fs.FileInfo:
        with from_store(self):
            return self.store.get_file_info(self.key)


@lru_cache
def _store(bucket: str, options: str) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.FileSystem.from_uri(f"s3://{bucket}" + (f"?{options}" if options else ""))[0]


@contextlib.contextmanager
def from_store(place: RemotePath, doing: str = "read") -> Generator[None]:
    """What a store answers becomes one `UserError`; "no such file" and what is wrong inside a file pass.

    Its cause is an `OSError` whose errno tells what another try cannot mend: credentials, and a bucket that is not.
    """
    try:
        yield
    except OSError as error:
        if _AWS_ERROR.search(str(error)) is None:
            raise
        _raise(place, doing, error)


def _raise(place: RemotePath, doing: str, error: Exception) -> NoReturn:
    text = " ".join(str(error).split())
    found = _AWS_ERROR.search(text)
    number, todo = errno.EIO, "Is the store there, and its endpoint right (AWS_ENDPOINT_URL)?"
    if found is not None and (found[2] == "403" or _NOT_ALLOWED.fullmatch(found[1])):
        number, todo = errno.EACCES, "Are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY those of someone who may?"
    elif (found is not None and found[1] == "NO_SUCH_BUCKET") or "not found" in text:
        number, todo = errno.ENOENT, f"Make the bucket {place.bucket!r} first, or name another."
    raise UserError(f"cannot {doing} {place}: {text} {todo} What is finished is kept.") from OSError(number, text)
