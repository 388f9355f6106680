"""What the viewer plays: rows of a table as tracks, and each row as meshes."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from hmr_skel.body.dofs import limits
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.load import Shards
from hmr_skel.errors import UserError
from hmr_skel.report.bodies import PosedRow, check_skel, pose_row

ALSO = (
    "row_id", "clip", "frame", "time_s", "frame_rate", "coordinates", "source", "imgname", "smpl_pose", "smpl_betas",
    "smpl_transl", "smpl_gender", "v2v_mm", "status",
)  # fmt: skip
"""The columns that the page shows if the table has them."""
AT_LIMIT_RAD = 1e-4
"""A dof counts as held by its limit if it is at most this far from it."""

Up = Literal["+y", "-y", "+z"]


@dataclass(frozen=True)
class Track:
    """Rows that are played one after the other."""

    name: str
    rows: Int[np.ndarray, "T"]  # numbers in the table
    rate: float | None
    """Frames per second; None if the rows are not consecutive in time."""
    up: Up
    """Direction that is up in the rows' frame; `-y` in a camera's."""


def find_tracks(table: Shards) -> list[Track]:
    """The tracks of a table, in its order: a clip each, a video each, or all rows of a source.

    Raises `UserError` where the table has no SKEL.
    """
    check_skel(table)
    fitted = table.valid("skel_q")
    if "row_id" in table.columns:  # a dataset: every row has an image of its own
        names = ("source",)
    else:
        names = ("clip", "source") if "clip" in table.columns else ("imgname",)
    labels = np.array(
        [" of ".join(map(str, values)) for values in zip(*(table[name].tolist() for name in names), strict=True)]
    )
    tracks = []
    for label in dict.fromkeys(labels.tolist()):
        rows = np.flatnonzero((labels == label) & fitted)
        if len(rows):
            tracks.append(Track(label, rows, *_time_and_up(table, rows)))
    if not tracks:
        raise UserError(f"{table.paths[0]}: no row has SKEL.")
    return tracks


def _time_and_up(table: Shards, rows: np.ndarray) -> tuple[float | None, Up]:
    first = table[int(rows[0])]
    ups: dict[str, Up] = {"y-up": "+y", "z-up": "+z"}
    up = ups.get(first.get("coordinates") or "camera", "-y")
    if first.get("frame_rate"):
        return float(first["frame_rate"]), up
    if "time_s" in first and len(rows) > 1:
        times = table[rows[:2]]["time_s"]
        if np.isfinite(times).all() and times[1] > times[0]:
            return float(1 / (times[1] - times[0])), up
    return None, up


class Poser:
    """Makes meshes of rows of a table. It keeps the latest, since several controls draw the same row again."""

    def __init__(self, table: Shards, bodies: Bodies) -> None:
        self.table, self.bodies = table, bodies
        self._posed = lru_cache(maxsize=8)(lambda number: pose_row(table, number, bodies))

    def __call__(self, number: int) -> PosedRow:
        """Raises `UserError` where a model file is missing or damaged."""
        return self._posed(number)


def held_dofs(q: Float[np.ndarray, "46"]) -> list[tuple[int, float]]:
    """The dofs that stand at a limit of the anatomical table, and that limit, rad."""
    ranges = limits("anatomical")
    held = at_limit(q, ranges)
    return [(k, float(ranges[k][np.abs(ranges[k] - q[k]).argmin()])) for k in range(3, len(q)) if held[k]]


def at_limit(q: Float[np.ndarray, "*T D"], ranges: Float[np.ndarray, "D 2"]) -> Bool[np.ndarray, "*T D"]:
    """Whether angles are at or beyond an end of their ranges, rad."""
    return (q <= ranges[:, 0] + AT_LIMIT_RAD) | (q >= ranges[:, 1] - AT_LIMIT_RAD)
