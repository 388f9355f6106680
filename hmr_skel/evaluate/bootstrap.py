"""Confidence intervals by the bootstrap: the percentiles of a metric over data sets drawn again from the rows.

Frames of one recording resemble each other, so where a benchmark has recordings, these are drawn, whole: intervals over
single frames would be several times too narrow.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr_skel.evaluate.pck import THRESHOLDS, pck

RESAMPLES = 1000
LEVEL = 0.95
_CHUNK = 100  # resamples at once


def groups_of(names: Sequence[str | None]) -> np.ndarray:
    """int64 [N] the number of each row's recording; rows without one (None) are a group each."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(i if name is None else name, len(numbers)) for i, name in enumerate(names)])


def intervals(
    columns: Mapping[str, Tensor], groups: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of the mean of every column [N], and of PCK where `found` [N 2 K] and `valid` [N K] are there.

    All metrics are computed on the same resamples. With a single group there is nothing to resample: no interval.
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
