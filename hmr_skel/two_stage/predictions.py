"""A file of SMPL predictions, row for row what a benchmark's rows show."""

from pathlib import Path

import numpy as np

from hmr_skel.convert.clips import SmplClip
from hmr_skel.convert.formats import read_clips
from hmr_skel.convert.reading import ReadOptions, UnsaidGender
from hmr_skel.errors import UserError
from hmr_skel.evaluate.labels import BenchmarkRows


def read_predictions(path: Path, rows: BenchmarkRows, names: np.ndarray, smpl_gender: str | None) -> SmplClip:
    """The predictions for `rows`, in their order; `number` is then the row in the label file.

    Rows are matched by image names where the file has them and each is one person's; else by their order, in which the
    file has a row for each of the label file's.

    Args:
        path: of any kind that `hmr-skel convert` reads.
        rows: of the benchmark, all or some.
        names: the images of all rows of the label file, object (str) [M].
        smpl_gender: of the model predicted with; None: what the file says, and neutral where it says nothing.

    Raises:
        UserError: the file cannot be read, or its rows do not match.
    """
    try:
        clips = read_clips(path, ReadOptions(smpl_gender=smpl_gender, rows="people"))
    except UnsaidGender:  # a gender that is said, but unknown, is an error
        clips = read_clips(path, ReadOptions(smpl_gender="neutral", rows="people"))
    if len(clips) != 1:
        raise UserError(
            f"{path} holds {len(clips)} people's tracks. Expected one row per row of the benchmark's label file, such "
            "as CameraHMR's label format."
        )
    clip = clips[0]
    chosen = _by_name(clip, rows, path) if _tell_apart(clip, names) else _by_order(clip, rows, len(names), path)
    clip = clip.take(chosen)
    clip.number[:] = rows.row
    return clip


def _tell_apart(clip: SmplClip, names: np.ndarray) -> bool:
    """Whether image names tell rows apart, in both whole files: some rows of a benchmark are matched as all are."""
    if clip.imgname is None:
        return False
    return all(len(set(some.tolist())) == len(some) for some in (clip.imgname, names))


def _by_name(clip: SmplClip, rows: BenchmarkRows, path: Path) -> np.ndarray:
    assert clip.imgname is not None
    number = {name: i for i, name in enumerate(clip.imgname.tolist())}
    missing = [name for name in rows.imgname.tolist() if name not in number]
    if missing:
        raise UserError(
            f"{path} has no prediction for {len(missing):,} of {len(rows):,} rows, the first being the image "
            f"{missing[0]!r} (its own first is {clip.imgname[0]!r}). Expected the label file's image names."
        )
    return np.array([number[name] for name in rows.imgname.tolist()])


def _by_order(clip: SmplClip, rows: BenchmarkRows, total: int, path: Path) -> np.ndarray:
    if len(clip) != total:
        raise UserError(
            f"{path} has {len(clip):,} rows, the label file {total:,}. Expected one for each, in the same order, or "
            "image names ('imgname') that name one row each."
        )
    if clip.imgname is not None and (clip.imgname[rows.row] != rows.imgname).any():
        first = int(np.flatnonzero(clip.imgname[rows.row] != rows.imgname)[0])
        raise UserError(
            f"{path}: row {rows.row[first]} is of {clip.imgname[rows.row[first]]!r}, in the label file of "
            f"{rows.imgname[first]!r}. Expected the same order, or image names that name one row each."
        )
    return rows.row
