"""Single rows of shards, quickly: each shard is unpacked once into an array of a structured type.

Parquet is decoded a row group at a time, two thousand rows to get one. Here one row costs one read of 1.7 kB. The files
are beside the dataset and appear by rename. They may be deleted whenever nobody reads them.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.atomic import replacing
from hmr_skel.data.load import Shards
from hmr_skel.data.storage import Place, each, local_folder
from hmr_skel.errors import UserError

UNPACKED_FORMAT = "3"
"""Changes whenever the layout or the meaning of unpacked files does."""

_NUMBERS = ("center", "cam_int", "keypoints_2d", "keypoints_3d", "skel_q", "skel_betas", "skel_transl")
"""What an unpacked row has, under the shard's names and in its units, float32; what is null in the shard is NaN."""


@dataclass(frozen=True)
class RowCache:
    """Unpacked rows of several files, end to end. It holds none of them, so that it is cheap to send to a process."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """Number of each file's first row, and the number of all rows."""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, row: int) -> np.record:
        """One row, a copy: source and imgname (texts), side of the square box (px), and what `_NUMBERS` lists."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        i = bisect_right(self.starts, row) - 1
        dtype, offset = _layout(self.files[i])
        return np.fromfile(self.files[i], dtype, 1, offset=offset + (row - self.starts[i]) * dtype.itemsize)[0]


def open_rows(shards: Shards, quiet: bool = False) -> RowCache:
    """The rows of some shards of a dataset, in their order.

    Shards that are not unpacked yet, or have changed since, are unpacked into `.cache/samples` in the dataset's folder,
    or in `local_folder` of one in a store; with a progress bar, unless `quiet`.

    Raises `UserError` for a broken shard, or where the folder cannot be written.
    """
    from hmr_skel.progress import progress_bar

    dataset = shards.paths[0].parent
    folder = local_folder(dataset.parent if dataset.name == "data" else dataset) / ".cache" / "samples"
    files = [folder / name for name in each(_unpacked_name, shards.paths)]
    parts = list(shards.files())
    missing = [(part, file) for part, file in zip(parts, files, strict=True) if not _is_there(file, len(part))]
    bar = progress_bar(quiet or not missing, "shard", len(missing), "unpacking rows", iterable=missing)
    for part, file in bar:
        if not _is_there(file, len(part)):  # another process may have unpacked it meanwhile
            _unpack(part, file)
        for old in folder.glob(f"{part.paths[0].stem}-*.npy"):
            if old != file:  # of the shard as it was before
                old.unlink(missing_ok=True)
    return RowCache(tuple(files), tuple(np.cumsum([0, *map(len, parts)]).tolist()))


@lru_cache(maxsize=4096)
def _layout(file: Path) -> tuple[np.dtype, int]:
    """The type of a file's rows, and where the first of them begins, in bytes."""
    rows = np.load(file, mmap_mode="r")
    return np.dtype((np.record, rows.dtype)), rows.offset


def _is_there(file: Path, count: int) -> bool:
    """Whether a file of so many rows is whole: a disk that was full or went down may cut it."""
    try:
        return len(np.load(file, mmap_mode="r")) == count
    except (OSError, ValueError, EOFError):
        return False


def _unpacked_name(shard: Place) -> str:
    """Of a shard's unpacked file; it is another one when the shard has changed."""
    state = shard.stat()
    return f"{shard.stem}-{UNPACKED_FORMAT}-{state.st_size}-{int(1e6 * state.st_mtime)}.npy"


def _unpack(shard: Shards, file: Path) -> None:
    columns = {name: np.array(shard[name].tolist(), str) for name in ("source", "imgname")}
    columns |= {"side": shard["scale"].max(1) * np.float32(PX_PER_SCALE)}
    columns |= {name: shard[name] for name in _NUMBERS}
    rows = np.empty(len(shard), [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, rows)
    except (OSError, UserError) as error:
        raise UserError(
            f"rows have to be unpacked once into {file.parent}, which cannot be written: {error} Make it writable, or "
            "a link to a folder that is and has room (1.7 kB a row)."
        ) from error
