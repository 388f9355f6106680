"""Parquet of ours as input: a dataset's rows, or what the converter wrote itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from hmr_skel.convert.clips import SmplClip
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.errors import UserError

_NEEDED = ("smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender")


def read_parquet(path: Path, rows: str | None) -> list[SmplClip]:
    """The SMPL annotations of a dataset (a folder, or a shard), or of a converted file, whose clips are kept."""
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
    whole = _whole(shards, path, there)
    if "clip" in shards.columns:
        return _clips(shards, whole, there, rows)
    return [replace(whole, moving=rows == "frames" and len(whole) > 1)]


def _whole(shards: Shards, path: Path, there: np.ndarray) -> SmplClip:
    notes = ()
    if len(there) < len(shards):
        notes = (f"{path}: {len(shards) - len(there):,} rows hold no SMPL annotation and are left out",)
    return SmplClip(
        name=path.stem,
        source=path.name,
        file=path.stem,
        pose=shards["smpl_pose"][there].reshape(-1, 24, 3),
        betas=shards["smpl_betas"][there],
        transl=shards["smpl_transl"][there],
        gender=shards["smpl_gender"][there],
        number=there.astype(np.int64),
        moving=False,
        frame="camera",
        imgname=shards["imgname"][there] if "imgname" in shards.columns else None,
        notes=notes,
    )


def _clips(shards: Shards, whole: SmplClip, there: np.ndarray, rows: str | None) -> list[SmplClip]:
    names = shards["clip"][there]
    moving, number, rate, frame = (shards[key][there] for key in ("moving", "frame", "frame_rate", "coordinates"))
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
