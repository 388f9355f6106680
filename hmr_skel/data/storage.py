"""Places of files: folders of this machine, and of an object store by URI.

A place of this machine is a `Path`, one of a store a `RemotePath`. What `hmr_skel.data.atomic` does by rename a store
does by its put: an object is there whole, or as it was before.

    s3://bucket/prefix?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1

The options are for stores other than Amazon's; AWS_ENDPOINT_URL says the same. Credentials come from where all clients
of S3 look for them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, the machine's role) and never from the URI,
which goes into reports, process lists and Prefect's database.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from hmr_skel.data.atomic import replacing
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.remote_path import RemotePath, from_store
from hmr_skel.errors import UserError

OPTIONS = ("endpoint_override", "region", "scheme")
"""What a URI may say beside the place."""

AT_ONCE = 16
"""Questions to a store at a time."""

Place: TypeAlias = Path | RemotePath
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Entry:
    """A file in a folder."""

    name: str
    mtime: float  # s since 1970, by the clock of the disk or the store


def locate(text: str | Place) -> Place:
    """The place that a command line or a caller names.

    Raises `UserError` for another scheme than `s3`, an unknown option, and credentials: its text has none of them.
    """
    if isinstance(text, Path) and text.parts[:1] in (("s3:",), ("s3a:",)):
        raise UserError(
            "a URI is a text, and pathlib.Path takes its second slash away. Give s3://bucket/prefix as str."
        )
    if not isinstance(text, str):
        return text
    scheme, is_uri, rest = text.partition("://")
    if not is_uri:
        return Path(text)
    where, _, query = rest.partition("?")
    bare = f"{scheme}://{where.rpartition('@')[2]}"  # without what may be secret
    if scheme != "s3":
        raise UserError(f"{bare}: expected a folder, or s3://bucket/prefix; of other stores, their S3 interface.")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if bare != f"{scheme}://{where}" or any("@" in value for value in options.values()):
        raise UserError(
            f"{bare}: a URI must hold no credentials, as it goes into reports and process lists. Set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, and give the URI without."
        )
    if not set(options) <= set(OPTIONS):
        raise UserError(f"{bare}: unknown options in its query. Expected {', '.join(OPTIONS)}, or none.")
    parts = where.strip("/").split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise UserError(f"{bare}: expected s3://bucket/prefix.")
    return RemotePath("/".join(parts), urlencode(sorted(options.items()), safe=":/"))


def put(file: Path, place: RemotePath) -> None:
    """Store a file's bytes (at least one) as an object, whole or not at all. Raises `UserError` where that fails."""
    with pa.memory_map(str(file)) as source:
        _put(source.read_buffer(), place)


def put_bytes(place: Place, content: bytes) -> None:
    """Write a small file, whole or not at all. Raises `UserError` where that fails."""
    if isinstance(place, Path):
        with replacing(place) as temporary:
            temporary.write_bytes(content)
    else:
        _put(content, place)


def _put(content: bytes | pa.Buffer, place: RemotePath) -> None:
    # In a thread of its own, where no Ctrl-C gets between these lines: a stream that is dropped stores what it has.
    # (pyarrow.fs.copy_files, one call, says nothing when the store refuses the last part.)
    with from_store(place, "write"), ThreadPoolExecutor(1, "put") as thread:
        thread.submit(_write, place.store, place.key, content).result()


def _write(store: pyarrow.fs.FileSystem, key: str, content: bytes | pa.Buffer) -> None:
    stream = store.open_output_stream(key)
    stream.write(content)
    stream.close()  # not in a `with`: where the store refuses a part, closing tells, and stores nothing


def move(place: Place, target: Place) -> None:
    """Move a file to a place where none is. In a store it is copied, then deleted."""
    if isinstance(place, RemotePath) and isinstance(target, RemotePath):
        with from_store(place, "move"):
            place.store.move(place.key, target.key)
    elif isinstance(place, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(place, target)
    else:
        raise ValueError(f"{place} and {target} are not of one kind")


def entries(folder: Place) -> list[Entry]:
    """The files in a folder (not below it), by name; none where there is no folder."""
    if isinstance(folder, RemotePath):
        return [Entry(info.base_name, info.mtime_ns / 1e9) for info in folder.infos() if info.is_file]
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # asked for before, a folder may be gone when it is read
        return []
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # removed in this moment
            state = path.stat()
            if path.is_file():
                found.append(Entry(path.name, state.st_mtime))
    return found


@contextlib.contextmanager
def open_parquet(place: Place) -> Generator[pq.ParquetFile]:
    """A Parquet file; of an object, only the parts that are read are fetched.

    Raises `UserError` where there is no such file, or where pyarrow finds it damaged, now or while it is read.
    """
    try:
        if isinstance(place, Path):
            with pq.ParquetFile(place) as parquet:
                yield parquet
        else:
            with from_store(place), place.open() as file, pq.ParquetFile(file) as parquet:
                yield parquet
    except FileNotFoundError:
        raise UserError(f"no file {place}. Expected a Parquet shard.") from None
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{place} is not a Parquet file that can be read: {text}. Build the shard again.") from error


def each(place: Place, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of every item; where they lie in a store, of several at once, as each answer takes its time."""
    if isinstance(place, Path):
        return [function(item) for item in items]
    with ThreadPoolExecutor(AT_ONCE, "store") as threads:
        return list(threads.map(function, items))


def sha256_of(place: Place) -> str:
    """sha256 of a file's bytes, hex; of an object as it streams by."""
    if isinstance(place, Path):
        return file_sha256(place)
    with from_store(place), place.open() as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_folder(out: Place) -> Path:
    """The folder of this machine that goes with a dataset: its own, or for one in a store one of the local cache.

    Unpacked labels and unfinished files are in it. May be deleted between builds.
    """
    if isinstance(out, Path):
        return out
    folder = Path(os.environ.get("HMR_SKEL_DATA") or "data") / ".remote"
    return folder / f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:12]}"
