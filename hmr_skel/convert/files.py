"""What a file holds, told by its content and never by its name: keys to arrays, however they are stored.

Read are `.npz` (so `.smpl` too), `.npy` that hold a dict, pickles (plain, compressed, joblib's), torch's `.pt` and
JSON. Nothing that a file asks for is run.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmr_skel.convert.pickles import is_pickle, load_results, unpickle
from hmr_skel.errors import UserError

READABLE = (
    "an .npz (CameraHMR labels, AMASS), a .smpl, a pickle or joblib file (4D-Humans, TokenHMR), torch's .pt, JSON, or "
    "Parquet of ours"
)


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
                array = _read_npy(file)
        except Exception as error:  # damage can raise anything
            raise UserError(f"{self._path}: {key!r} is corrupt: {error}. Fetch the file again.") from None
        # What numpy makes of a dict that is saved beside arrays.
        return array.item() if array.dtype == object and array.shape == () else array


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
            with zipfile.ZipFile(path) as archive:
                is_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
            return torch.load(path, map_location="cpu", weights_only=True) if is_torch else Npz(path)
        if start.startswith(b"\x93NUMPY"):
            with path.open("rb") as file:
                array = _read_npy(file)
            return array.item() if array.shape == () else {"pose": array}
        if start.lstrip()[:1] in (b"{", b"["):  # no pickle starts so
            return _json(path)
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {error}. It was cut off on the way; fetch it again.") from None
    except Exception as error:  # torch.load, whose unpickler refuses what is not on its list
        raise UserError(f"{path} cannot be read: {error}. Save the parameters as .npz.") from None
    if is_pickle(start):
        return load_results(path)
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


def _read_npy(file: Any) -> np.ndarray:
    """One array; one of Python objects (texts, a dict) by the allow-list."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f".npy format {version} is not read")
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        array = unpickle(file)
        if not isinstance(array, np.ndarray):
            raise ValueError("it holds no array")
        return array
    data = file.read()
    count = int(np.prod(shape))
    if len(data) < count * dtype.itemsize:
        raise ValueError("it is cut off")
    flat = np.frombuffer(data, dtype, count)
    return flat.reshape(shape, order="F" if fortran else "C")
