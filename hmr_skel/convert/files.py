"""Files as the converter reads them, told by their content and never by their names.

A file that others made becomes keys and arrays: `.npz` (`.smpl` is one), `.npy` with a dict in it, pickles (plain,
compressed, joblib's), torch's `.pt` and JSON. Our own Parquet becomes clips. No code in a file is run.
"""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.convert.clips import SmplClip
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.data.npz import LabelFile, read_npy
from hmr_skel.errors import UserError
from hmr_skel.foreign import PACKED, load_pickle, load_torch

READABLE = (
    "an .npz (CameraHMR labels, AMASS), a .smpl, a pickle or joblib file (4D-Humans, TokenHMR), torch's .pt, JSON, or "
    "Parquet of ours"
)


FEWEST_VERTICES = 1000  # of a body's mesh


class NoMotion(UserError):
    """A file or a person holds no body, or none in angles, and no option changes that. Among many it is passed over."""


class OtherKind(NoMotion):
    """A file of a kind that is not read at all."""


_PICKLED = (*PACKED, b"\x80", b"(", b"c", b"}", b"]")
"""The first bytes of pickles: compressed ones, and those of each protocol."""
_NEEDED = ("smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender")


def is_parquet(path: Path) -> bool:
    """Whether the path is a Parquet file, or a folder (which is taken for a dataset's)."""
    return path.is_dir() or _start(path).startswith(b"PAR1")


def read_contents(path: Path) -> Any:
    """A mapping from keys to arrays, or whatever containers of such mappings the file holds.

    Raises:
        UserError: there is no such file, or it is damaged; `NoMotion` where its kind is not read.
    """
    start = _start(path)
    if not start:
        raise OtherKind(f"{path} is empty. Expected {READABLE}.")
    try:
        if start.startswith(b"PK\x03\x04"):
            return load_torch(path) if _is_torch(path) else LabelFile(path, allow_pickle=True)
        if start.startswith(b"\x93NUMPY"):
            with path.open("rb") as file:
                array = read_npy(file)
            if array.shape == () or (array.dtype == object and isinstance(array.flat[0], dict)):
                return array.tolist()
            mesh = array.ndim in (2, 3) and array.shape[-1] == 3 and array.shape[-2] >= FEWEST_VERTICES
            return {"vertices" if mesh else "pose": array}
        if start.lstrip()[:1] in (b"{", b"["):  # no pickle starts so
            return json.loads(path.read_text())
    except UserError:
        raise
    except Exception as error:  # damage can raise anything
        raise UserError(f"{path} cannot be read: {error}. Fetch the file again.") from None
    if start.startswith(_PICKLED):
        return load_pickle(path)
    raise OtherKind(f"{path} is of no kind that is read (it starts with {start!r}). Expected {READABLE}.")


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


def read_parquet(path: Path, rows: str | None) -> list[SmplClip]:
    """The SMPL annotations of a dataset (its folder, or a shard) as one clip, or the clips of a converted file.

    Raises:
        UserError: there are no SMPL annotations in it.
    """
    shards = load_shards(path)
    missing = [name for name in _NEEDED if name not in shards.columns]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}. Expected a dataset of ours, or a file that `hmr-skel convert` "
            f"wrote without --joints. It has: {', '.join(shards.columns)}."
        )
    there = np.flatnonzero(shards.valid("smpl_pose"))
    if not len(there):
        raise UserError(f"{path} holds SKEL only: its rows have no SMPL annotation to convert.")
    left_out = len(shards) - len(there)
    whole = SmplClip(
        name=path.stem,
        source=path.name,
        file=path.stem,
        pose=shards["smpl_pose"][there].reshape(-1, 24, 3),
        betas=shards["smpl_betas"][there],
        transl=shards["smpl_transl"][there],
        gender=shards["smpl_gender"][there],
        number=there.astype(np.int64),
        moving=rows == "frames" and len(there) > 1,
        frame="camera",
        imgname=shards["imgname"][there] if "imgname" in shards.columns else None,
        notes=(f"{path}: {left_out:,} rows hold no SMPL annotation and are left out",) if left_out else (),
    )
    return _converted_clips(shards, whole, there, rows) if "clip" in shards.columns else [whole]


def _converted_clips(shards: Shards, whole: SmplClip, there: np.ndarray, rows: str | None) -> list[SmplClip]:
    names, moving, number, rate, frame = (
        shards[key][there] for key in ("clip", "moving", "frame", "frame_rate", "coordinates")
    )
    clips = []
    for name in dict.fromkeys(names.tolist()):
        members = np.flatnonzero(names == name)
        first = members[0]
        one = replace(
            whole.take(members),
            name=name,
            number=number[members],
            moving=len(members) > 1 and (bool(moving[first]) if rows is None else rows != "people"),
            frame=frame[first],
            frame_rate=None if np.isnan(rate[first]) else float(rate[first]),
        )
        clips.append(one)
    return clips
