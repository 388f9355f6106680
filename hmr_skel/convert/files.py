"""What a file holds, told by its content and never by its name: keys to arrays, however they are stored.

Read are `.npz` (so `.smpl` too), `.npy` that hold a dict, pickles (plain, compressed, joblib's), torch's `.pt` and
JSON. Nothing that a file asks for is run.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from hmr_skel.data.npz import LabelFile, read_npy
from hmr_skel.errors import UserError
from hmr_skel.foreign import PACKED, load_pickle, load_torch

READABLE = (
    "an .npz (CameraHMR labels, AMASS), a .smpl, a pickle or joblib file (4D-Humans, TokenHMR), torch's .pt, JSON, or "
    "Parquet of ours"
)
_PICKLED = (*PACKED, b"\x80", b"(", b"c", b"}", b"]")
"""How pickles start, packed ones and those of each protocol."""


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
            return load_torch(path) if _is_torch(path) else LabelFile(path, allow_pickle=True)
        if start.startswith(b"\x93NUMPY"):
            with path.open("rb") as file:
                array = read_npy(file)
            return array.item() if array.shape == () else {"pose": array}
        if start.lstrip()[:1] in (b"{", b"["):  # no pickle starts so
            return json.loads(path.read_text())
    except UserError:
        raise
    except Exception as error:  # damage can raise anything
        raise UserError(f"{path} cannot be read: {error}. Fetch the file again.") from None
    if start.startswith(_PICKLED):
        return load_pickle(path)
    raise UserError(f"{path} is of no kind that is read (it starts with {start!r}). Expected {READABLE}.")


def _is_torch(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except FileNotFoundError:
        raise UserError(f"no file {path}. Expected {READABLE}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
