"""A dataset's rows for random access: Parquet shards, unpacked once into NumPy files beside them.

Parquet is decoded a row group at a time, two thousand rows to get one. Each shard is therefore unpacked into two arrays
of structured types: its rows as samples need them, of which one costs one read of 1.7 kB, and few facts about each
row, which the rules of quality ask for. The files appear by rename. They may be deleted whenever nobody reads them.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hmr_skel.data.annotations import PX_PER_SCALE
from hmr_skel.data.atomic import replacing
from hmr_skel.data.load import Shards
from hmr_skel.data.storage import Place, each, local_folder
from hmr_skel.errors import UserError

FORMAT = "2"
"""Changes whenever the files' layout or meaning does."""

_NUMBERS: dict[str, tuple[int, ...]] = {
    "center": (2,),  # px
    "cam_int": (3, 3),  # px
    "keypoints_2d": (44, 3),  # px, px, confidence
    "keypoints_3d": (44, 4),  # m, confidence
    "skel_q": (46,),  # rad
    "skel_betas": (10,),
    "skel_transl": (3,),  # m
}
"""What a row has under the shard's names, float32; what is null in the shard is NaN here."""


@dataclass(frozen=True)
class RowCache:
    """Rows of several files, end to end. It holds none of them, so that it is cheap to send to a process."""

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

    def facts(self, name: str) -> np.ndarray:
        """[N] of all rows: source, status and skel_gender (bytes, empty where null), v2v_mm (NaN where not fitted),
        max_abs_beta (NaN where there is no SKEL), num_keypoints_2d (of any confidence) or has_camera."""
        return np.concatenate(list(self._facts(name)))

    def codes(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A fact that is a text, of which there are few: an index [N] into the sorted texts; -1 where null."""
        values = self.facts(name)
        texts = sorted({text for part in self._facts(name) for text in set(part.tolist())} - {b""})
        codes = np.full(len(values), -1, np.int16)
        for code, text in enumerate(texts):
            codes[values == text] = code
        return codes, [text.decode() for text in texts]

    def _facts(self, name: str) -> Iterator[np.ndarray]:
        return (np.load(_facts_of(file), mmap_mode="r")[name] for file in self.files)


def open_rows(shards: Shards, cache: Path | None = None, quiet: bool = False) -> RowCache:
    """The rows of some shards, in their order; those that are not unpacked yet, or have changed since, are unpacked.

    Args:
        shards: of one dataset.
        cache: the folder of the unpacked rows; by default `.cache/samples` in the dataset's folder, or `local_folder`.
        quiet: no progress bar.

    Raises `UserError` for a broken shard, or where the folder cannot be written.
    """
    folder = _default_folder(shards.paths[0]) if cache is None else cache
    files = [folder / name for name in each(_file_name, shards.paths)]
    missing = [i for i, file in enumerate(files) if not _is_there(file)]
    parts = list(shards.files()) if missing else []
    with tqdm(
        total=sum(len(parts[i]) for i in missing),
        desc="unpacking rows",
        unit="row",
        unit_scale=True,
        leave=False,
        disable=True if quiet or not missing else None,
    ) as bar:
        for i in missing:
            _unpack(parts[i], files[i])
            bar.update(len(parts[i]))
            for old in folder.glob(f"{shards.paths[i].stem}-*") if cache is None else ():
                if old not in (files[i], _facts_of(files[i])):  # of the shard as it was before
                    old.unlink(missing_ok=True)
    counts = [len(np.load(_facts_of(file), mmap_mode="r")) for file in files]
    return RowCache(tuple(files), tuple(np.cumsum([0, *counts]).tolist()))


@lru_cache(maxsize=4096)
def _layout(file: Path) -> tuple[np.dtype, int]:
    """The type of a file's rows, and where the first of them begins, in bytes."""
    rows = np.load(file, mmap_mode="r")
    return np.dtype((np.record, rows.dtype)), rows.offset


def _facts_of(file: Path) -> Path:
    """The file beside one of rows."""
    return file.with_name(f"{file.stem}-facts.npy")


def _is_there(file: Path) -> bool:
    """Whether a file of rows and that of their facts are whole: a disk that was full or went down may cut them."""
    try:
        rows, facts = (np.load(path, mmap_mode="r") for path in (file, _facts_of(file)))
    except (OSError, ValueError, EOFError):
        return False
    return len(rows) == len(facts)


def _file_name(shard: Place) -> str:
    """Another name for a file of other content."""
    state = shard.stat()
    return f"{shard.stem}-{FORMAT}-{state.st_size}-{int(1e6 * state.st_mtime)}.npy"


def _default_folder(shard: Place) -> Path:
    return local_folder(shard.parent.parent if shard.parent.name == "data" else shard.parent) / ".cache" / "samples"


def _unpack(shard: Shards, file: Path) -> None:
    texts = {name: _texts(shard[name]) for name in ("source", "imgname", "status", "skel_gender")}
    rows = {name: texts[name] for name in ("source", "imgname")}
    rows |= {"side": shard["scale"].max(1) * np.float32(PX_PER_SCALE)}
    rows |= {name: shard[name] for name in _NUMBERS}
    facts = {
        **{name: np.char.encode(texts[name], "utf-8") for name in ("source", "status", "skel_gender")},
        "v2v_mm": shard["v2v_mm"],
        "max_abs_beta": np.abs(rows["skel_betas"]).max(1),
        "num_keypoints_2d": (rows["keypoints_2d"][..., 2] > 0).sum(1).astype(np.uint8),
        "has_camera": np.isfinite(rows["cam_int"]).min((1, 2)),
    }
    _write(rows, file)
    _write(facts, _facts_of(file))


def _texts(column: np.ndarray) -> np.ndarray:
    return np.array(["" if text is None else text for text in column.tolist()], str)


def _write(columns: dict[str, np.ndarray], file: Path) -> None:
    """Columns [N ..] as an array of records [N]."""
    records = np.empty(len(columns["source"]), [(name, c.dtype, c.shape[1:]) for name, c in columns.items()])
    for name, column in columns.items():
        records[name] = column
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, records)
    except (OSError, UserError) as error:
        raise UserError(
            f"rows have to be unpacked once into {file.parent}, which cannot be written: {error} Make it writable, or "
            "a link to a folder that is and has room (1.7 kB a row)."
        ) from error
