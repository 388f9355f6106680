"""What the viewer plays: rows of a table as tracks, and each row as meshes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from hmr_skel.body.dofs import limits
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.load import Shards
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams

NEEDED = ("skel_q", "skel_betas", "skel_transl", "skel_gender")
ALSO = (
    "row_id", "clip", "frame", "time_s", "frame_rate", "coordinates", "source", "imgname", "person", "smpl_pose",
    "smpl_betas", "smpl_transl", "smpl_gender", "v2v_mm", "status", "cam_int", "center", "scale",
)  # fmt: skip
"""Columns that are shown where the table has them."""
AT_LIMIT_RAD = 1e-4
"""A dof this near to its limit counts as held there."""

Up = Literal["+y", "-y", "+z"]


@dataclass(frozen=True)
class Track:
    """Rows that are played one after the other."""

    name: str
    rows: Int[np.ndarray, "T"]  # numbers in the table
    rate: float | None
    """Frames a second; None where the rows are no frames in time."""
    up: Up
    """Direction that is up in the rows' frame; `-y` in a camera's."""


@dataclass(frozen=True)
class Shown:
    """One row as meshes, m, in the frame of the table."""

    skin: Float[np.ndarray, "V 3"]
    bones: Float[np.ndarray, "Vb 3"]
    annotated: Float[np.ndarray, "V 3"] | None
    """The SMPL mesh; None for rows without one."""


def find_tracks(table: Shards) -> list[Track]:
    """The tracks of a table, in its order: a clip each, a video each, or all rows of a source.

    Raises `UserError` where the table has no SKEL.
    """
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise UserError(
            f"{table.paths[0]} has no columns {', '.join(missing)}. Expected a dataset, a .parquet that `hmr-skel "
            "convert` wrote, or the rows.parquet of `hmr-skel predict`."
        )
    fitted = table.valid("skel_q")
    names = [
        name
        for name in (("clip", "source") if "clip" in table.columns else ("source", "imgname"))
        if name in table.columns
    ]
    if "row_id" in table.columns:  # a dataset: every row has an image of its own
        names = ["source"]
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
    """Rows of a table to meshes."""

    def __init__(self, table: Shards, bodies: Bodies) -> None:
        self.table, self.bodies = table, bodies
        self.row = lru_cache(maxsize=8)(self._row)

    def _row(self, number: int) -> dict[str, Any]:
        """All columns of one row."""
        return self.table[number]

    def __call__(self, number: int) -> Shown:
        """Raises `UserError` where a model file is missing or damaged."""
        row = self.row(number)
        skel, params = self.bodies.skel(row["skel_gender"]), skel_params(row)
        with torch.inference_mode():
            posed = skel(params.q, params.betas, params.transl, skeleton=True)
            annotated = self._annotated(row)
        assert posed.skeleton_vertices is not None
        return Shown(posed.vertices[0].numpy(), posed.skeleton_vertices[0].numpy(), annotated)

    def _annotated(self, row: Mapping[str, Any]) -> np.ndarray | None:
        if row.get("smpl_gender") is None:
            return None
        pose = torch.from_numpy(np.array(row["smpl_pose"], np.float32)).reshape(1, 24, 3)
        betas, transl = (
            torch.from_numpy(np.array(row[name], np.float32))[None] for name in ("smpl_betas", "smpl_transl")
        )
        return self.bodies.smpl(row["smpl_gender"])(pose[:, 0], pose[:, 1:], betas, transl).vertices[0].numpy()


def skel_params(row: Mapping[str, Any]) -> SkelParams:
    """Of one row, as a batch of one. Rows without a translation stand at the origin."""
    transl = np.zeros(3) if row["skel_transl"] is None else row["skel_transl"]
    return SkelParams(
        *(torch.from_numpy(np.array(values, np.float32))[None] for values in (row["skel_q"], row["skel_betas"], transl))
    )


def held_dofs(q: Float[np.ndarray, "46"]) -> list[tuple[int, float]]:
    """The dofs that stand at a limit of the anatomical table, and that limit, rad."""
    low, high = limits("anatomical").T
    return [
        (k, float(low[k] if q[k] <= low[k] + AT_LIMIT_RAD else high[k]))
        for k in range(3, len(q))
        if q[k] <= low[k] + AT_LIMIT_RAD or q[k] >= high[k] - AT_LIMIT_RAD
    ]
