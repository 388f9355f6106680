"""Read SMPL predictions of other methods, convert them to SKEL, and compare both with the same ground truth.

Both skins have the same 6,890 vertices, and the same regressor gives the joints of both. So the difference of their
errors is the cost of the conversion.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.convert.fit import Bodies, fit_clips
from hmr_skel.convert.formats import read_clips
from hmr_skel.convert.reading import ReadOptions, UnsaidGender
from hmr_skel.errors import UserError
from hmr_skel.evaluate.ground_truth import GroundTruth
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.evaluate.score import Columns, ScoredBody, joined, score


def read_predictions(path: Path, rows: BenchmarkRows, names: np.ndarray, smpl_gender: str | None) -> SmplClip:
    """The predictions for `rows`, in their order; `number` of the clip is the row in the label file.

    Rows are matched by image names if the file has them and each occurs once. Otherwise the file must have all rows of
    the label file in the same order. Raises `UserError` if the file cannot be read, or its rows do not match.

    Args:
        path: a file of any format that `hmr-skel convert` reads.
        rows: all or some rows of the benchmark.
        names: the images of all rows of the label file, object (str) [M].
        smpl_gender: the gender of the predicted SMPL; None: that in the file, or neutral if the file has none.
    """
    try:
        clips = read_clips(path, ReadOptions(smpl_gender=smpl_gender, rows="people"))
    except UnsaidGender:  # an unknown gender in the file is an error
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
    """Whether each image name occurs once, in both whole files. So a part of the rows is matched as all rows are."""
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


_BATCH = 64


@dataclass(frozen=True)
class TwoStage:
    """Errors before and after conversion, on the same rows."""

    stages: Mapping[str, Columns]
    """`smpl` as predicted, and `skel` as converted."""
    rows: np.ndarray
    """int64 [N] in the label file."""
    left_out: int
    """The number of rows whose label is incomplete, or that could not be converted."""
    moved_mm: Float[np.ndarray, "J"]
    """Mean distance by which the conversion moves each joint, without alignment."""
    v2v_mm: float
    """Mean distance by which it moves the skin."""


@torch.no_grad()
def evaluate_predictions(
    clip: SmplClip,
    rows: BenchmarkRows,
    truth: GroundTruth,
    bodies: Bodies,
    skel_gender: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> TwoStage:
    """Convert the predictions, and compare both versions with the ground truth.

    Args:
        clip: the predictions for `rows`, by `read_predictions`.
        rows: rows of the benchmark.
        truth: their ground truth.
        bodies: SMPL and SKEL.
        skel_gender: the gender of SKEL, as in `fit_clips`.
        progress: called with the number of new fits.

    Raises:
        UserError: a model file is missing, or no row can be converted.
    """
    converted = fit_clips([clip], bodies, skel_gender, progress=progress)[0]
    place = {int(row): i for i, row in enumerate(rows.row)}
    rows = rows.take(np.array([place[int(row)] for row in converted.smpl.number]))
    parts, kept_rows, moved = [], [], []
    for first in range(0, len(converted), _BATCH):
        some = np.arange(first, min(first + _BATCH, len(converted)))
        expected = truth(rows.take(some))
        complete = expected.complete
        smpl, skel = (ScoredBody(skin, truth.regressor(skin)) for skin in posed_pair(converted.take(some), bodies))
        q, rule = torch.from_numpy(converted.q[some]).to(truth.device), truth.benchmark.joints
        number = rows.row[some]
        before, after = score(smpl, expected, rule, number=number), score(skel, expected, rule, q=q, number=number)
        parts.append({"smpl": before, "skel": after})
        moved.append((skel.joints - smpl.joints)[complete].norm(dim=-1).cpu())
        kept_rows.append(number[complete.cpu().numpy()])
    used = np.concatenate(kept_rows)
    return TwoStage(
        stages=joined(parts),
        rows=used,
        left_out=len(place) - len(used),
        moved_mm=1000 * torch.cat(moved).double().mean(0).numpy(),
        v2v_mm=float(converted.v2v_mm.astype(np.float64).mean()),
    )


def posed_pair(clip: SkelClip, bodies: Bodies) -> tuple[Float[Tensor, "N 6890 3"], Float[Tensor, "N 6890 3"]]:
    """The vertices of a clip's annotated SMPL meshes and of its SKEL skins, m."""
    smpl, skel = (torch.empty(len(clip), 6890, 3, device=bodies.device) for _ in range(2))

    def tensor(array: np.ndarray, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(array[rows]).to(bodies.device)

    for gender in dict.fromkeys(clip.smpl.gender.tolist()):
        rows = np.flatnonzero(clip.smpl.gender == gender)
        pose = tensor(clip.smpl.pose, rows)
        out = bodies.smpl(gender)(
            pose[:, 0], pose[:, 1:], tensor(clip.smpl.betas, rows), tensor(clip.smpl.transl, rows)
        )
        smpl[torch.from_numpy(rows)] = out.vertices
    for gender in dict.fromkeys(clip.gender.tolist()):
        rows = np.flatnonzero(clip.gender == gender)
        out = bodies.skel(gender)(*(tensor(array, rows) for array in (clip.q, clip.betas, clip.transl)))
        skel[torch.from_numpy(rows)] = out.vertices
    return smpl, skel
