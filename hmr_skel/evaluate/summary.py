"""Columns of rows to the numbers that are reported: means, PCK, their intervals, and limit violations."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hmr_skel.evaluate.bootstrap import LEVEL, RESAMPLES, groups_of, intervals
from hmr_skel.evaluate.limit_rates import limit_rates
from hmr_skel.evaluate.pck import THRESHOLDS, pck
from hmr_skel.evaluate.score import Columns

METRIC_NAMES = {
    "mpjpe_mm": "MPJPE", "pa_mpjpe_mm": "PA-MPJPE", "pve_mm": "PVE", "pa_pve_mm": "PA-PVE",
    "pck_05": "PCK@0.05", "pck_10": "PCK@0.1",
}  # fmt: skip
"""In the order in which they are printed."""


def sequences_of(imgname: Sequence[str], pattern: str | None) -> list[str | None]:
    """The recording of each image: the first group of the pattern in its name; None where there is none."""
    if pattern is None:
        return [None] * len(imgname)
    found = [re.search(pattern, name) for name in imgname]
    return [None if match is None else match.group(1) for match in found]


def summarise(columns: Columns, sequences: Sequence[str | None], joint_set: str, seed: int = 0) -> dict[str, Any]:
    """As JSON: each metric, `ci95` by metric, `limits` where there are angles, and what it is all of.

    Args:
        columns: of one stage of one network.
        sequences: the recording of each row, see `sequences_of`.
        joint_set: for `joint_set`.
        seed: of the resamples.
    """
    found: dict[str, Any] = {
        name: columns[name].double().mean().item() for name in METRIC_NAMES if name in columns
    }  # fmt: skip
    columns = dict(columns)
    if "valid" in columns and not columns["valid"].any():  # no keypoint is labelled anywhere: there is no PCK
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
    """What the intervals are over, for a report."""
    groups = len(np.unique(groups_of(sequences)))
    what = "rows" if groups == len(sequences) else "sequences"
    return {"level": LEVEL, "resamples": RESAMPLES, "of": what, "groups": groups}


def row_columns(columns: Columns) -> dict[str, np.ndarray]:
    """Metrics per row [N], float32, for files: PCK is then a row's own share, NaN without a valid keypoint."""
    found = {name: columns[name].float().numpy() for name in METRIC_NAMES if name in columns}
    if "found" in columns:
        share = columns["found"].sum(-1) / columns["valid"].sum(-1, keepdim=True)
        found |= {name: share[:, i].float().numpy() for i, name in enumerate(THRESHOLDS)}
    return found
