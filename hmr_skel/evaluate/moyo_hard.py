"""Make MOYO-HARD from MOYO's label file: the front camera, and the middle half of every sequence, where poses are hard.

SKEL-CF (supplement S4) says: camera #1, frames in order, without the first and last 25 %, 9,725 images in all. It does
not say how a quarter of a sequence is rounded, so this module tries four ways and takes the one that gives 9,725.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np

from hmr_skel.data.atomic import replacing
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError

EXPECTED = 9_725
CAMERA = "YOGI_Cam_01"
_PATH = re.compile(r"^(?P<sequence>[^/]+)/(?P<camera>[^/]+)/(?P<frame>[^/]+)$")

ROUNDINGS: dict[str, Callable[[int], tuple[int, int]]] = {
    "quarters rounded down": lambda n: (n // 4, n - n // 4),
    "from 25 % to 75 %, both rounded down": lambda n: (floor(0.25 * n), floor(0.75 * n)),
    "quarters rounded up": lambda n: (ceil(n / 4), n - ceil(n / 4)),
    "quarters rounded to the nearest": lambda n: (round(n / 4), n - round(n / 4)),
}
"""The kept frames [start, stop) of a sequence of n frames, for each way of rounding."""


def middle_rows(img_paths: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """The rows of MOYO-HARD among MOYO's images (`<sequence>/<camera>/<frame>.jpg`), and the way of rounding.

    Raises `UserError`, with the file `where`, if paths have another form, or no way gives 9,725 rows.
    """
    frames: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    cameras: set[str] = set()
    for row, path in enumerate(img_paths.tolist()):
        match = _PATH.match(path)
        if match is None:
            raise UserError(f"{where}: image {path!r} of row {row}. Expected <sequence>/<camera>/<frame>.jpg.")
        cameras.add(match["camera"])
        if match["camera"] == CAMERA:
            digits = re.findall(r"\d+", match["frame"])
            frames[match["sequence"]].append((int(digits[-1]) if digits else 0, match["frame"], row))
    if not frames:
        raise UserError(f"{where} has no image of camera {CAMERA}. It has cameras {', '.join(sorted(cameras)[:8])}.")
    totals = {}
    for name, rounding in ROUNDINGS.items():
        kept = []
        for found in frames.values():
            start, stop = rounding(len(found))
            kept += [row for *_, row in sorted(found)[start:stop]]
        totals[name] = kept
        if len(kept) == EXPECTED:
            return np.array(kept), name
    listed = "; ".join(f"{name}: {len(kept):,}" for name, kept in totals.items())
    raise UserError(
        f"{where}: the middle halves of {len(frames)} sequences of {CAMERA} are not the {EXPECTED:,} images of "
        f"MOYO-HARD ({listed}). Expected HSMR's moyo_v2.npz, whole."
    )


def write_moyo_hard(moyo: Path, out: Path) -> tuple[int, str]:
    """Write the rows of MOYO-HARD from MOYO's label file, by rename. Return their number, and the way of rounding.

    Raises `UserError` as `middle_rows`, and if the file is not MOYO's.
    """
    file = LabelFile(moyo, allow_pickle=True)
    arrays: dict[str, Any] = {key: file.array(key) for key in file}
    missing = {"img_paths", "centers", "scales", "smpl"} - set(arrays)
    if missing:
        raise UserError(f"{moyo} has no {', '.join(sorted(missing))}. Expected HSMR's moyo_v2.npz.")
    count = len(arrays["img_paths"])
    paths = np.array([p.decode() if isinstance(p, bytes) else str(p) for p in arrays["img_paths"].ravel().tolist()])
    rows, rounding = middle_rows(paths, str(moyo))
    kept = {name: _picked(value, rows, count) for name, value in arrays.items()}
    with replacing(out) as temporary, open(temporary, "wb") as stream:  # savez would add .npz to a name
        np.savez(stream, **kept)
    return len(rows), rounding


def _picked(value: Any, rows: np.ndarray, count: int) -> Any:
    """The given rows of a value that has one entry per row, or of a dict of such values."""
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype == object:
        return np.array(_picked(value.item(), rows, count), object)
    if isinstance(value, dict):
        return {key: _picked(entry, rows, count) for key, entry in value.items()}
    if isinstance(value, np.ndarray) and value.ndim and len(value) == count:
        return value[rows]
    return value
