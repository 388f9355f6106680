"""Summarise the columns of rows: means, PCK, their intervals, and limit violations.

Intervals come from the bootstrap: percentiles of a metric over resampled data sets. Frames of one recording resemble
each other, so whole recordings are resampled: single frames would give intervals several times too narrow.

Limit violations are counted in two ways: every limited dof against our table (`anatomical`), without whole turns; and
HSMR's metric, which compares knees and elbows (one and two dofs each) with its own table and tolerates some degrees.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.body.dofs import DOF_NAMES, limits
from hmr_skel.evaluate.metrics import THRESHOLDS, pck
from hmr_skel.evaluate.score import Columns

RESAMPLES = 1000
LEVEL = 0.95
_CHUNK = 100  # resamples at once


def groups_of(names: Sequence[str | None]) -> np.ndarray:
    """The number of each row's recording, int64 [N]. Each row without a recording (None) is a group of its own."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(i if name is None else name, len(numbers)) for i, name in enumerate(names)])


def intervals(
    columns: Mapping[str, Tensor], groups: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of the mean of every column [N], and of PCK if there are `found` [N 2 K] and `valid` [N K].

    All metrics use the same resamples. A single group gives no interval.
    """
    count = int(groups.max()) + 1
    if count < 2:
        return {}
    means = {name: values for name, values in columns.items() if values.ndim == 1}
    index = torch.from_numpy(groups)

    def summed(values: Tensor) -> Float[Tensor, "G C"]:
        flat = values.double().reshape(len(values), -1)
        return torch.zeros(count, flat.shape[1], dtype=torch.float64).index_add_(0, index, flat)

    sums = {name: summed(values) for name, values in means.items()}
    size = summed(torch.ones(len(groups)))
    has_pck = "found" in columns
    found, valid = (summed(columns[name]) if has_pck else None for name in ("found", "valid"))
    draws: dict[str, list[Tensor]] = {}
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, _CHUNK):
        weights = _counts(rng, min(_CHUNK, resamples - first), count)
        for name, values in sums.items():
            draws.setdefault(name, []).append((weights @ values / (weights @ size)).squeeze(1))
        if found is not None and valid is not None:
            there = weights @ valid
            hits = (weights @ found).unflatten(1, (len(THRESHOLDS), -1))
            for i, name in enumerate(THRESHOLDS):
                draws.setdefault(name, []).append(pck(hits[:, i], there))
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    return {name: tuple(torch.cat(parts).nanquantile(ends).tolist()) for name, parts in draws.items()}


def _counts(rng: np.random.Generator, resamples: int, groups: int) -> Float[Tensor, "R G"]:
    """How often each group is drawn in each resample."""
    drawn = rng.integers(0, groups, (resamples, groups)) + groups * np.arange(resamples)[:, None]
    return torch.from_numpy(np.bincount(drawn.ravel(), minlength=resamples * groups)).double().reshape(-1, groups)


HSMR_DOFS = tuple(DOF_NAMES.index(f"{dof}_{side}") for dof in ("knee_angle", "elbow_flexion") for side in "rl") + tuple(
    DOF_NAMES.index(f"pro_sup_{side}") for side in "rl"
)
"""The knees, and both dofs of each elbow."""
TOLERANCES_DEG = (0, 5, 10, 20, 30)
_ROUNDING_DEG = 0.01  # a float32 angle at a limit is not outside


def excess_deg(q: Float[np.ndarray, "N 46"], table: str = "anatomical") -> Float[np.ndarray, "N 46"]:
    """How far each dof is outside its limits, deg, without whole turns; 0 inside, or if the table has no limits."""
    bounds = limits(table)
    bounded = np.array(np.isfinite(bounds).all(1))
    low, high = np.where(bounded[:, None], bounds, 0.0).T
    middle = (low + high) / 2
    turned = q - 2 * np.pi * np.round((q - middle) / (2 * np.pi))
    excess = np.degrees(np.maximum(low - turned, turned - high).clip(0))
    return np.where(bounded & (excess > _ROUNDING_DEG), excess, 0.0)


def hsmr_excess_deg(q: Float[np.ndarray, "N 46"]) -> Float[np.ndarray, "N 6"]:
    """How far knees and elbows are outside HSMR's limits, deg, for angles wrapped to (-pi, pi], as HSMR does."""
    low, high = limits("hsmr")[list(HSMR_DOFS)].T
    wrapped = np.pi - (np.pi - q[:, HSMR_DOFS]) % (2 * np.pi)
    return np.degrees(np.maximum(low - wrapped, wrapped - high).clip(0))


def limit_rates(q: Float[np.ndarray, "N 46"]) -> dict[str, Any]:
    """Both counts as JSON, in shares of 1 and degrees.

    `rows`: share of rows with a dof outside; `dofs`: share of dofs outside, over all rows; `worst`: the three dofs that
    are outside most often. `hsmr`: for each tolerance, the share of its dofs that exceed it, and the mean, median and
    maximum of these excesses.
    """
    q = np.asarray(q, np.float64)
    excess = excess_deg(q)
    bounded = np.isfinite(limits()).all(1)
    share = (excess > 0).mean(0)
    worst = [int(i) for i in np.argsort(-share, kind="stable")[:3] if share[i] > 0]
    four = hsmr_excess_deg(q)
    return {
        "table": "anatomical",
        "bounded_dofs": int(bounded.sum()),
        "rows": float((excess > 0).any(1).mean()),
        "dofs": float((excess[:, bounded] > 0).mean()),
        "max_deg": float(excess.max()),
        "worst": {DOF_NAMES[i]: float(share[i]) for i in worst},
        "hsmr": {str(tolerance): _beyond(four, tolerance) for tolerance in TOLERANCES_DEG},
    }


def _beyond(excess: np.ndarray, tolerance: float | int) -> dict[str, float]:
    outside = excess[excess > tolerance]
    found = {"share": float((excess > tolerance).mean())}
    return found | {
        f"{name}_deg": float(function(outside)) if len(outside) else 0.0
        for name, function in (("mean", np.mean), ("median", np.median), ("max", np.max))
    }


METRIC_NAMES = {
    "mpjpe_mm": "MPJPE", "pa_mpjpe_mm": "PA-MPJPE", "pve_mm": "PVE", "pa_pve_mm": "PA-PVE",
    "pck_05": "PCK@0.05", "pck_10": "PCK@0.1",
}  # fmt: skip
"""The names of metrics for reports, in the order of printing."""


def sequences_of(imgname: Sequence[str], pattern: str | None) -> list[str | None]:
    """The recording of each image: the first group of the pattern in its name, or None."""
    if pattern is None:
        return [None] * len(imgname)
    found = [re.search(pattern, name) for name in imgname]
    return [None if match is None else match.group(1) for match in found]


def summarise(columns: Columns, sequences: Sequence[str | None], joint_set: str, seed: int = 0) -> dict[str, Any]:
    """A summary as JSON: each metric, `ci95` by metric, `limits` if there are angles, numbers of rows, `joint_set`.

    Args:
        columns: of one stage of one network.
        sequences: the recording of each row, see `sequences_of`.
        joint_set: the name of the joints.
        seed: for the resamples.
    """
    found: dict[str, Any] = {name: columns[name].double().mean().item() for name in METRIC_NAMES if name in columns}
    columns = dict(columns)
    if "valid" in columns and not columns["valid"].any():  # without labelled keypoints there is no PCK
        del columns["found"], columns["valid"]
    if "found" in columns:
        hits, valid = columns["found"].double().sum(0), columns["valid"].double().sum(0)
        found |= {name: pck(hits[i], valid).item() for i, name in enumerate(THRESHOLDS)}
    groups = groups_of(sequences)
    counted = {name: values for name, values in columns.items() if name in (*METRIC_NAMES, "found", "valid")}
    ends = intervals(counted, groups, seed)
    found["ci95"] = {name: list(ends[name]) for name in found if name in ends}
    found["joint_set"] = joint_set
    if "q" in columns:
        found["limits"] = limit_rates(columns["q"].double().numpy())
    return found


def resampled(sequences: Sequence[str | None]) -> dict[str, Any]:
    """What the bootstrap resamples, for a report."""
    groups = len(np.unique(groups_of(sequences)))
    what = "rows" if groups == len(sequences) else "sequences"
    return {"level": LEVEL, "resamples": RESAMPLES, "of": what, "groups": groups}


def row_columns(columns: Columns) -> dict[str, np.ndarray]:
    """The metrics of each row [N], float32, for files. PCK is the row's own share, NaN without a valid keypoint."""
    found = {name: columns[name].float().numpy() for name in METRIC_NAMES if name in columns}
    if "found" in columns:
        share = columns["found"].sum(-1) / columns["valid"].sum(-1, keepdim=True)
        found |= {name: share[:, i].float().numpy() for i, name in enumerate(THRESHOLDS)}
    return found
