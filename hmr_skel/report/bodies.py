"""Choose the rows that the report shows and measures, and pose their bodies again from the stored parameters.

The choice depends only on the dataset.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from hmr_skel.body.inside import MARGIN, bones_outside
from hmr_skel.body.joints import SKEL_PARTS
from hmr_skel.convert.clips import UPRIGHT
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.load import Shards
from hmr_skel.errors import UserError
from hmr_skel.report.gather import Dataset
from hmr_skel.rows import SkelParams

NEEDED = ("skel_q", "skel_betas", "skel_transl", "skel_gender")
MOST_PICKS = 8
MOST_MEASURED = 1024
_LEAST_OF_A_SOURCE = 32
_CHUNK = 64  # bodies posed together
_LEVEL = 0.3  # if a unit vector's part along the ground is below this, it points up or down
_BONE_ROWS, _EVERY_BONE_VERTEX = 12, 16  # of the sample, for the share of bones outside, which takes a second


def choose_picks(dataset: Dataset) -> dict[str, int]:
    """The titles and numbers of the rows to show.

    They are the worst, median and best fit by v2v, and the worst fit of each other source. If nothing was fitted, they
    are the first, middle and last row.
    """
    fitted = dataset.fitted()
    if not len(fitted):
        rows = dict.fromkeys((0, len(dataset) // 2, len(dataset) - 1))
        return {f"Row {row:,}": row for row in rows}
    by_error = fitted[np.argsort(dataset.errors["v2v_mm"][fitted], kind="stable")]
    named = {"Best fit": by_error[0], "Median fit": by_error[(len(by_error) - 1) // 2], "Worst fit": by_error[-1]}
    picks = {}
    for title, row in named.items():  # with one or two rows, some are the same
        picks.setdefault(int(row), title)
    for name in dataset.sources:
        own = by_error[dataset.source[by_error] == dataset.sources.index(name)]
        if len(own) and len(picks) < MOST_PICKS:
            picks.setdefault(int(own[-1]), f"Worst of {name}")
    return {title: row for row, title in picks.items()}


def choose_sample(dataset: Dataset) -> np.ndarray:
    """The numbers of up to `MOST_MEASURED` fitted rows, ascending and evenly spaced within each source. Sources get
    equal shares of at least 32 rows."""
    own = [rows for name in dataset.sources if len(rows := dataset.fitted(name))]
    room = max(MOST_MEASURED // max(len(own), 1), _LEAST_OF_A_SOURCE)
    chosen = [rows[np.linspace(0, len(rows) - 1, min(room, len(rows))).round().astype(int)] for rows in own]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))


@dataclass(frozen=True)
class PosedRow:
    """One row as meshes, m, in the annotation's frame."""

    row: dict[str, Any]
    """All columns of the row."""
    skin: Float[np.ndarray, "V 3"]
    bones: Float[np.ndarray, "Vb 3"]
    target: Float[np.ndarray, "V 3"] | None
    """The annotated SMPL mesh; None for rows annotated with SKEL."""
    forward: Float[np.ndarray, "3"]
    """The direction of the pelvis' front."""

    def faced(self) -> "PosedRow":
        """The row, turned about the vertical so that it faces the viewer of a `front` view.

        A pelvis that faces up or down, as when lying, has no heading: the row stays as it is.
        """
        x, _, z = self.forward / np.linalg.norm(self.forward)
        if (level := np.hypot(x, z)) < _LEVEL:
            return self
        cos, sin = -z / level, x / level
        return self._turned(np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], np.float32))

    def in_camera(self) -> "PosedRow":
        """The row with a camera's axes (y down, z forward), also if its clip has other axes."""
        frame = self.row.get("coordinates") or "camera"
        return self if frame == "camera" else self._turned(UPRIGHT["camera"].T @ UPRIGHT[frame])

    def _turned(self, rotmat: Float[np.ndarray, "3 3"]) -> "PosedRow":
        target = None if self.target is None else self.target @ rotmat.T
        skin, bones, forward = self.skin @ rotmat.T, self.bones @ rotmat.T, rotmat @ self.forward
        return replace(self, skin=skin, bones=bones, target=target, forward=forward)

    @property
    def distances_mm(self) -> Float[np.ndarray, "V"] | None:
        """The distance of each skin vertex from the annotated mesh; None without one."""
        return None if self.target is None else np.linalg.norm(self.skin - self.target, axis=1) * 1000


@dataclass(frozen=True)
class Measured:
    """Distances of S fitted rows, a sample."""

    rows: np.ndarray  # int64 [S] numbers of the rows
    by_part_mm: dict[str, Float[np.ndarray, "S"]]  # mean over each body part that has vertices
    by_vertex_mm: Float[np.ndarray, "V"]  # mean over the rows
    high_mm: float  # 99 % of all vertices of all rows are nearer than this
    v2v_mm: Float[np.ndarray, "S"]  # for comparison with the dataset
    bones_outside: float  # share of bone vertices more than 2 mm outside the skin, over a few rows


def check_skel(table: Shards) -> None:
    """Raise `UserError` if a table lacks columns for posing a row."""
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise UserError(
            f"{table.paths[0]} has no columns {', '.join(missing)}. Expected a dataset, a .parquet that `hmr-skel "
            "convert` wrote (without --joints), or the predictions.parquet of `hmr-skel predict`."
        )


def pose_row(rows: Shards, number: int, bodies: Bodies) -> PosedRow:
    """Pose a row of a dataset, with its bones.

    Raises:
        UserError: a model file is missing or damaged.
    """
    columns = rows[[number]]
    skin, bones, target, forward = _pose(columns, np.array([0]), bodies, skeleton=True)
    return PosedRow(rows[number], skin[0], bones[0], None if target is None else target[0], forward[0])


def measure(
    rows: Shards, sample: Sequence[int] | np.ndarray, bodies: Bodies, progress: Callable[[int], object] = lambda n: None
) -> Measured:
    """Measure the distances of fitted rows from their annotated meshes.

    Args:
        rows: of the dataset.
        sample: the numbers of fitted rows, ascending, at least one.
        bodies: the body models of the dataset.
        progress: called with the number of new rows.

    Raises:
        UserError: a model file is missing or damaged.
    """
    sample = np.asarray(sample)
    by_part, v2v, total = np.full((len(sample), len(SKEL_PARTS)), np.nan), np.empty(len(sample)), 0.0
    spread = np.zeros(2000, np.int64)  # histogram over vertices, in bins of 1 mm
    for first in range(0, len(sample), _CHUNK):
        columns = rows[sample[first : first + _CHUNK]]
        genders = list(zip(columns["smpl_gender"].tolist(), columns["skel_gender"].tolist(), strict=True))
        for pair in dict.fromkeys(genders):
            members = np.flatnonzero([found == pair for found in genders])
            skin, _, target, _ = _pose(columns, members, bodies, skeleton=False)
            assert target is not None  # they were fitted
            distances = np.linalg.norm(skin - target, axis=2) * 1000  # [n V]
            bone = bodies.skel(pair[1]).weights.argmax(1).numpy()
            for k, joints in enumerate(SKEL_PARTS.values()):
                if (part := np.isin(bone, joints)).any():
                    by_part[first + members, k] = distances[:, part].mean(1)
            v2v[first + members] = distances.mean(1)
            total = total + distances.sum(0)
            spread += np.bincount(distances.astype(int).clip(0, len(spread) - 1).ravel(), minlength=len(spread))
        progress(len(columns["skel_gender"]))
    share = np.cumsum(spread) / spread.sum()
    high = float(np.searchsorted(share, 0.99) + 1)
    parts = {name: column for name, column in zip(SKEL_PARTS, by_part.T, strict=True) if np.isfinite(column).all()}
    return Measured(sample, parts, np.asarray(total) / len(sample), high, v2v, _bones_outside(rows, sample, bodies))


def _bones_outside(rows: Shards, sample: np.ndarray, bodies: Bodies) -> float:
    """The share of bone vertices more than 2 mm outside the skin, over rows evenly spaced in the sample."""
    few = sample[np.linspace(0, len(sample) - 1, min(_BONE_ROWS, len(sample))).round().astype(int)]
    posed = [pose_row(rows, int(number), bodies) for number in few]
    faces = [bodies.skel(one.row["skel_gender"]).faces for one in posed]
    pairs = zip(posed, faces, strict=True)
    return float(np.mean([bones_outside(one.bones[::_EVERY_BONE_VERTEX], one.skin, f) > MARGIN for one, f in pairs]))


@torch.no_grad()
def _pose(
    columns: dict[str, np.ndarray], members: np.ndarray, bodies: Bodies, skeleton: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Skin, bones (empty without `skeleton`), target, and the pelvis' forward axis of rows with the same genders."""

    def values(name: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(columns[name][members])).float()

    skel = bodies.skel(columns["skel_gender"][members[0]])
    transl = values("skel_transl").nan_to_num()  # HSMR's records have none and are posed at the origin
    params = SkelParams(values("skel_q"), values("skel_betas"), transl)
    posed = skel(params.q, params.betas, params.transl, skeleton=skeleton)
    bones = np.empty((len(members), 0, 3)) if posed.skeleton_vertices is None else posed.skeleton_vertices.numpy()
    forward = posed.joint_frames[:, 0, :, 0].numpy()
    gender = columns["smpl_gender"][members[0]] if "smpl_gender" in columns else None  # predictions have no SMPL
    if gender is None:
        return posed.vertices.numpy(), bones, None, forward
    pose = values("smpl_pose").reshape(-1, 24, 3)
    target = bodies.smpl(gender)(pose[:, 0], pose[:, 1:], values("smpl_betas"), values("smpl_transl")).vertices
    return posed.vertices.numpy(), bones, target.numpy(), forward
