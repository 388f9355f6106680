"""SMPL predictions before and after our conversion to SKEL, against the same truth by the same joints.

Both bodies are skins of the same 6,890 vertices, and the same regressor makes joints of both: the difference of their
errors is what the conversion costs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.convert.clips import SkelClip, SmplClip
from hmr_skel.convert.fit import Bodies, fit_clips
from hmr_skel.evaluate.ground_truth import GroundTruth
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.evaluate.score import Columns, Posed, joined, score

_BATCH = 64


@dataclass(frozen=True)
class TwoStage:
    """What came of it, on the same rows."""

    stages: Mapping[str, Columns]
    """`smpl`: as predicted; `skel`: converted."""
    rows: np.ndarray
    """int64 [N] in the label file."""
    left_out: int
    """Rows without a whole label, and those that could not be converted."""
    moved_mm: Float[np.ndarray, "J"]
    """Mean distance by which the conversion moves each joint, nothing aligned."""
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
    """Convert and compare.

    Args:
        clip: the predictions of `rows`, by `read_predictions`.
        rows: of the benchmark.
        truth: what they are compared with.
        bodies: SMPL and SKEL.
        skel_gender: of the bodies converted to, as in `fit_clips`.
        progress: called with the number of fits just made.

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
        before, after = (
            Posed(vertices, truth.regressor(vertices)) for vertices in posed_pair(converted.take(some), bodies)
        )
        q, rule = torch.from_numpy(converted.q[some]).to(truth.device), truth.benchmark.joints
        number = rows.row[some]
        parts.append(
            {
                "smpl": score(before, expected, rule, number=number),
                "skel": score(after, expected, rule, q=q, number=number),
            }
        )
        moved.append((after.joints - before.joints)[complete].norm(dim=-1).cpu())
        kept_rows.append(rows.row[some][complete.cpu().numpy()])
    used = np.concatenate(kept_rows)
    return TwoStage(
        stages=joined(parts),
        rows=used,
        left_out=len(place) - len(used),
        moved_mm=1000 * torch.cat(moved).double().mean(0).numpy(),
        v2v_mm=float(converted.v2v_mm.astype(np.float64).mean()),
    )


def posed_pair(clip: SkelClip, bodies: Bodies) -> tuple[Float[Tensor, "N 6890 3"], Float[Tensor, "N 6890 3"]]:
    """The annotated SMPL meshes of a clip, and its SKEL skins."""
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
