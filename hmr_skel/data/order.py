"""The order of training samples: an endless stream in which any position is found at once.

The stream draws from strata (one of all rows, or one per source). It is cut into blocks of a thousand positions, in
each of which every stratum has exactly its share, in shuffled places; a stratum gives its rows in a new random order in
every pass, all of them before any twice. What a position holds is a function of (seed, position): not of batch size,
number of processes, or where the reading began.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from hmr_skel.data.quality import ChosenRows
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError

BLOCK = 1000
_ORDER, _PLACES = 1, 2  # what a generator is for, so that no two share their numbers


@dataclass(frozen=True)
class Stratum:
    """Rows that are drawn from alike."""

    name: str
    share: int  # of every BLOCK samples
    indices: Int[np.ndarray, "n"]  # into the chosen rows


def make_strata(chosen: ChosenRows, mixture: Mapping[str, float] | None, where: str | Place) -> tuple[Stratum, ...]:
    """One stratum of all rows, or one per source with a weight, shares rounded to a thousandth (but never to none).

    Raises `UserError` for a source that has no rows here.
    """
    if mixture is None:
        return (Stratum("all", BLOCK, np.arange(len(chosen.rows))),)
    weights = {name: weight for name, weight in mixture.items() if weight > 0}
    indices = {name: np.flatnonzero(chosen.source == code) for code, name in enumerate(chosen.sources)}
    for name in weights:
        if not len(indices.get(name, ())):
            there = ", ".join(sorted(found for found, rows in indices.items() if len(rows)))
            raise UserError(
                f"the mixture has source {name!r}, of which {where} has no rows to use. It has: {there}. Name these, "
                "or no mixture at all."
            )
    shares = _round_shares(np.array(list(weights.values())))
    return tuple(Stratum(name, share, indices[name]) for name, share in zip(weights, shares, strict=True))


class Order:
    """Which row stands where in the stream."""

    def __init__(self, strata: Sequence[Stratum], seed: int) -> None:
        self.strata, self.seed = tuple(strata), seed
        self._labels = np.repeat(np.arange(len(strata)), [stratum.share for stratum in strata])
        self._pass_order = lru_cache(maxsize=2 * len(strata))(self._shuffle)

    def at(self, start: int, count: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Positions start to start + count (excluded): index into the chosen rows, number of the pass over its stratum
        (the sample's epoch), and stratum."""
        indices, epochs, labels = (np.empty(count, np.int64) for _ in range(3))
        for block in range(start // BLOCK, (start + count - 1) // BLOCK + 1):
            places = np.random.default_rng((self.seed, _PLACES, block)).permutation(self._labels)
            first, last = max(start, block * BLOCK), min(start + count, (block + 1) * BLOCK)
            within, out = slice(first - block * BLOCK, last - block * BLOCK), slice(first - start, last - start)
            labels[out] = places[within]
            for i, stratum in enumerate(self.strata):
                here = places == i
                nth = block * stratum.share + np.cumsum(here)[within] - 1  # among the stratum's samples, from 0
                chosen = here[within]
                epoch, place = np.divmod(nth[chosen], len(stratum.indices))
                target = np.flatnonzero(chosen) + out.start
                epochs[target] = epoch
                for number in np.unique(epoch).tolist():
                    now = epoch == number
                    indices[target[now]] = stratum.indices[self._pass_order(i, number)[place[now]]]
        return indices, epochs, labels

    def substitutes(self, start: int, labels: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "n count"]:
        """For positions start onwards, of the given strata: indices of other rows, should an image be unreadable."""
        positions = np.arange(start, start + len(labels), dtype=np.uint64)
        number = positions[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
        mixed = _mix(number + _mix(np.array([self.seed], np.uint64)))
        picked = np.empty(mixed.shape, np.int64)
        for i, stratum in enumerate(self.strata):
            own = labels == i
            picked[own] = stratum.indices[(mixed[own] % np.uint64(len(stratum.indices))).astype(np.int64)]
        return picked

    def _shuffle(self, stratum: int, number: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, _ORDER, stratum, number))
        return rng.permutation(len(self.strata[stratum].indices)).astype(np.uint32)


def _round_shares(weights: np.ndarray) -> list[int]:
    """Whole numbers of sum BLOCK nearest to the weights' proportions, none below 1."""
    if len(weights) == 0 or len(weights) > BLOCK or not np.isfinite(weights).all():
        raise UserError(f"the mixture has {len(weights)} sources with finite weight; expected 1 to {BLOCK}.")
    exact = BLOCK * weights / weights.sum()
    shares = np.maximum(np.floor(exact).astype(int), 1)
    while shares.sum() < BLOCK:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > BLOCK:
        shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
    return shares.tolist()


def _mix(numbers: np.ndarray) -> np.ndarray:
    """uint64 to uint64, each bit depending on all: the finaliser of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
