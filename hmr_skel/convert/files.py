"""What a file holds, told by its content and never by its name: keys to arrays, however they are stored.

Read are `.npz` (so `.smpl` too), `.npy` that hold a dict, pickles (plain, compressed, joblib's), torch's `.pt` and
JSON. Nothing that a file asks for is run.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.pickles import MAX_UNPACKED_BYTES, is_pickle, load_results, unpickle
from hmr_skel.errors import UserError
from hmr_skel.plain_types import entries
from hmr_skel.torch_files import is_torch_archive, load_torch

READABLE = (
    "an .npz (CameraHMR labels, AMASS), a .smpl, a pickle or joblib file (4D-Humans, TokenHMR), torch's .pt, JSON, or "
    "Parquet of ours"
)


MAX_ENTRIES = 2**27
"""Numbers in the containers of one file: two million frames of 72."""


class Npz(Mapping):
    """The arrays of an .npz, each read when it is asked for: an AMASS file holds much that is not needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._members = [
                name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy") and "/" not in name
            ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __getitem__(self, key: str) -> Any:
        if key not in self._members:
            raise KeyError(key)
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{key}.npy") as file:
                array = _read_npy(file, self._path.stat().st_size)
        except Exception as error:  # damage can raise anything
            raise UserError(f"{self._path}: {key!r} is corrupt: {error}. Fetch the file again.") from None
        # What numpy makes of a dict that is saved beside arrays.
        whole = array.item() if array.dtype == object and array.shape == () else array
        return _checked(whole, self._path) if array.dtype == object else whole


def is_parquet(path: Path) -> bool:
    """Whether the path is a Parquet file, or a folder (which is taken for a dataset's)."""
    return path.is_dir() or _start(path).startswith(b"PAR1")


def read_contents(path: Path) -> Any:
    """A mapping from keys to arrays, or whatever containers of such mappings the file holds.

    Raises:
        UserError: there is no such file, or it is of no kind that is read.
    """
    start = _start(path)
    if not start:
        raise UserError(f"{path} is empty. Expected {READABLE}.")
    try:
        if start.startswith(b"PK\x03\x04"):
            if is_torch_archive(path):
                return _checked(load_torch(path), path)
            return Npz(path)
        if start.startswith(b"\x93NUMPY"):
            with path.open("rb") as file:
                array = _read_npy(file, path.stat().st_size)
            return _checked(array.item(), path) if array.shape == () else {"pose": array}
        if start.lstrip()[:1] in (b"{", b"["):  # no pickle starts so
            return _json(path)
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {error}. It was cut off on the way; fetch it again.") from None
    except Exception as error:  # torch.load, whose unpickler refuses what is not on its list
        raise UserError(f"{path} cannot be read: {error}. Save the parameters as .npz.") from None
    if is_pickle(start):
        return _checked(load_results(path), path)
    raise UserError(f"{path} is of no kind that is read (it starts with {start!r}). Expected {READABLE}.")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except FileNotFoundError:
        raise UserError(f"no file {path}. Expected {READABLE}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}. Fetch or write it again.") from None


def _checked(contents: Any, path: Path) -> Any:
    """The contents. A few bytes of a pickle can stand for lists in lists, or for a tensor, of any size."""
    try:
        count = entries(contents)
    except RecursionError:
        raise UserError(f"{path} holds lists in lists without end. Save the parameters as .npz.") from None
    if count > MAX_ENTRIES:
        raise UserError(f"{path} holds {count:,} numbers, expected at most {MAX_ENTRIES:,}. Convert it in parts.")
    return contents


def _read_npy(file: Any, file_bytes: int) -> np.ndarray:
    """One array out of a file of so many bytes; one of Python objects (texts, a dict) by the allow-list."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f".npy format {version} is not read")
    shape, fortran, dtype = read_header(file)
    most = max(MAX_UNPACKED_BYTES, 20 * file_bytes)
    if dtype.hasobject:
        content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"unpacked it has more than {most:,} bytes")
        array = unpickle(io.BytesIO(content), file_bytes)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds no array")
        return array
    count = prod(shape)
    if min(shape, default=0) < 0 or (count and not dtype.itemsize):
        raise ValueError(f"its header claims shape {shape} of {dtype}")
    if count * dtype.itemsize > most:
        raise ValueError(f"its header claims {count * dtype.itemsize:,} bytes, in a file of {file_bytes:,}")
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError("it is cut off")
    flat = np.frombuffer(data, dtype, count)
    return flat.reshape(shape, order="F" if fortran else "C")
