"""Choose the rows and labels that a recipe trains on, and the order of samples.

The order is an endless stream with direct access to any position. It draws from strata (one of all rows, or one per
source) in blocks of a thousand positions: each stratum has exactly its share of each block, in shuffled places. A
stratum gives all its rows, in a new random order, before it repeats one. The sample at a position depends only on
(seed, position), not on batch size, number of processes, or the first position that was read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from hmr_skel.data.augment import AugmentConfig
from hmr_skel.data.load import Shards
from hmr_skel.data.meta import DOUBTFUL
from hmr_skel.data.schema import GIVEN
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError

GOOD = ("converged", "at_limit", "max_iterations", "unusual_shape", GIVEN)
STATUSES = (*GOOD, *DOUBTFUL)
"""The statuses of fits; `given`: the label was SKEL."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """The rules for rows; None: no such rule. By default every row is used, as in the paper, except for SKEL labels of
    fits with status `far` or `implausible`."""

    max_v2v_mm: float | None = None
    """Largest mean distance of SKEL's skin from the annotated SMPL mesh, mm. Rows that were not fitted pass."""
    statuses: tuple[str, ...] | None = GOOD
    """The allowed statuses, some of `STATUSES`; by default all except `far` and `implausible`."""
    max_abs_beta: float | None = None
    """Largest absolute value of a SKEL shape parameter (HSMR: 3)."""
    poor_skel: Literal["mask", "drop"] = "mask"
    """If a row fails one of the above, `mask` its SKEL labels and train on its keypoints, or `drop` it."""
    min_confidence: float = 0.0
    """Keypoints with less confidence count as not annotated (HSMR: 0.3)."""
    min_keypoints_2d: int = 0
    """Rows with fewer 2D keypoints (with any confidence above 0) are left out (HSMR: 5)."""

    def __post_init__(self) -> None:
        if self.poor_skel not in ("mask", "drop"):
            raise ValueError(f"poor_skel is {self.poor_skel!r}, must be mask or drop")
        if not set(self.statuses or ()) <= set(STATUSES):
            raise ValueError(f"statuses are {', '.join(self.statuses or ())}; must be among {', '.join(STATUSES)}")
        for name in ("max_v2v_mm", "max_abs_beta", "min_confidence", "min_keypoints_2d"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value!r}, must not be negative")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The choice of rows and the augmentation, as part of a training recipe."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    mixture: Mapping[str, float] | None = None
    """Weights of the sources in the stream of training samples, rounded to a thousandth of their sum. Sources without
    weight are left out. None: all rows have equal weight, so that large sources dominate, as in the paper."""
    missing_intrinsics: Literal["drop", "diagonal"] = "drop"
    """For rows without a camera: `drop` them, or use the image's `diagonal` as focal length (CLIFF's guess)."""

    def __post_init__(self) -> None:
        if self.missing_intrinsics not in ("drop", "diagonal"):
            raise ValueError(f"missing_intrinsics is {self.missing_intrinsics!r}, must be drop or diagonal")
        weights = self.mixture.values() if self.mixture is not None else ()
        if not all(0 <= weight < np.inf for weight in weights):
            raise ValueError(f"mixture is {self.mixture}, weights must not be negative or infinite")


@dataclass(frozen=True)
class ChosenRows:
    """The rows of a dataset that a recipe uses."""

    rows: Int[np.ndarray, "N"]  # ascending
    mask_skel: Bool[np.ndarray, "N"]  # True: trained on keypoints only
    source: Int[np.ndarray, "N"]  # index into `sources`
    sources: list[str]
    dropped: dict[str, int]  # rows left out by reason, the first that applies


def choose_rows(shards: Shards, config: SampleConfig) -> ChosenRows:
    """Apply the rules to all rows of a dataset. Missing values pass, as the errors of rows that were not fitted.

    Raises `UserError` if no row is left.
    """
    source, sources = shards.codes("source")
    keep, poor, dropped = np.ones(len(shards), bool), np.zeros(len(shards), bool), {}

    def drop(reason: str, bad: np.ndarray) -> None:
        if count := int((keep & bad).sum()):
            dropped[reason] = count
        keep[bad] = False

    if config.mixture is not None:
        wanted = [code for code, name in enumerate(sources) if config.mixture.get(name, 0) > 0]
        drop("not being in the mixture", ~np.isin(source, wanted))
    if config.missing_intrinsics == "drop":
        drop("having no camera", ~shards.valid("cam_int"))
    if config.quality.min_keypoints_2d:  # a file at a time: they are large
        counts = [(file["keypoints_2d"][..., 2] > 0).sum(1) for file in shards.files()]
        drop("too few keypoints", np.concatenate(counts) < config.quality.min_keypoints_2d)
    for reason, bad in _poor_skel(shards, config.quality):
        poor |= bad
        if config.quality.poor_skel == "drop":
            drop(reason, bad)
    chosen = np.flatnonzero(keep)
    if not len(chosen):
        why = ", ".join(f"{count:,} for {reason}" for reason, count in dropped.items())
        raise UserError(
            f"the recipe's rules leave none of {len(shards):,} rows ({why}) of sources {', '.join(sources)}. Relax "
            "them, or choose missing_intrinsics = 'diagonal' if the camera is missing."
        )
    return ChosenRows(chosen, poor[chosen], source[chosen], sources, dropped)


def _poor_skel(shards: Shards, config: QualityConfig) -> Iterator[tuple[str, Bool[np.ndarray, "N"]]]:
    """Each reason why SKEL labels are poor, and its rows."""
    if config.max_v2v_mm is not None:
        yield f"v2v above {config.max_v2v_mm:g} mm", shards["v2v_mm"] > config.max_v2v_mm  # NaN is not
    if config.max_abs_beta is not None:
        yield f"betas beyond {config.max_abs_beta:g}", np.abs(shards["skel_betas"]).max(1) > config.max_abs_beta
    if config.statuses is not None:
        codes, names = shards.codes("status")
        bad = [code for code, name in enumerate(names) if name not in config.statuses]
        yield f"status other than {', '.join(config.statuses)}", np.isin(codes, bad)


def one_gender(shards: Shards, chosen: ChosenRows, where: str | Place) -> Literal["male", "female"]:
    """The gender of the SKEL bodies of all chosen rows. Raises `UserError` if there are two, or none."""
    codes, names = shards.codes("skel_gender")
    counts = {name: int((codes[chosen.rows] == code).sum()) for code, name in enumerate(names)}
    match [name for name, count in counts.items() if count]:
        case ["male" | "female" as gender]:
            return gender
    raise UserError(
        f"{where} has {' and '.join(f'{count:,} {name}' for name, count in counts.items()) or 'no'} rows with a SKEL "
        "body. Expected rows of one gender: a network predicts one body. Build the dataset with skel_gender = "
        '"male" or "female" in the manifest.'
    )


BLOCK = 1000
_ORDER, _PLACES = 1, 2  # the purpose of a generator, so that no two share their numbers


@dataclass(frozen=True)
class Stratum:
    """Rows with equal weight."""

    name: str
    share: int  # of every BLOCK samples
    indices: Int[np.ndarray, "n"]  # into the chosen rows


def make_strata(chosen: ChosenRows, mixture: Mapping[str, float] | None, where: str | Place) -> tuple[Stratum, ...]:
    """One stratum of all rows, or one per source with a weight. Shares are rounded to a thousandth, but not to 0.

    Raises `UserError` for a source without rows, or if no weight is finite and positive.
    """
    if mixture is None:
        return (Stratum("all", BLOCK, np.arange(len(chosen.rows))),)
    weights = {name: weight for name, weight in mixture.items() if weight > 0}
    if not 1 <= len(weights) <= BLOCK or not np.isfinite(list(weights.values())).all():
        raise UserError(
            f"the mixture has {len(weights)} sources with a weight. Expected 1 to {BLOCK}, with finite weights."
        )
    indices = {name: np.flatnonzero(chosen.source == code) for code, name in enumerate(chosen.sources)}
    there = sorted(name for name, rows in indices.items() if len(rows))
    for name in weights:
        if name not in there:
            raise UserError(
                f"the mixture has source {name!r}, but {where} has no usable rows of it. It has: {', '.join(there)}. "
                "Name these, or use no mixture."
            )
    shares = _round_shares(np.array(list(weights.values())))
    return tuple(Stratum(name, share, indices[name]) for name, share in zip(weights, shares, strict=True))


def _round_shares(weights: np.ndarray) -> list[int]:
    """Integers of sum BLOCK nearest to the proportions of the weights, at least 1 each."""
    exact = BLOCK * weights / weights.sum()
    shares = np.maximum(np.floor(exact).astype(int), 1)
    while shares.sum() < BLOCK:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > BLOCK:
        shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
    return shares.tolist()


class Order:
    """The row at each position of the stream."""

    def __init__(self, strata: Sequence[Stratum], seed: int) -> None:
        self.strata, self.seed = tuple(strata), seed
        self._labels = np.repeat(np.arange(len(strata)), [stratum.share for stratum in strata])
        self._pass_order = lru_cache(maxsize=2 * len(strata))(self._shuffle)

    def at(self, start: int, count: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """For positions start to start + count (excluded): the index into the chosen rows, and the number of the pass
        over its stratum (the sample's epoch)."""
        indices, epochs = np.empty(count, np.int64), np.empty(count, np.int64)
        for block in range(start // BLOCK, (start + count - 1) // BLOCK + 1):
            places = np.random.default_rng((self.seed, _PLACES, block)).permutation(self._labels)
            first, last = max(start, block * BLOCK), min(start + count, (block + 1) * BLOCK)
            within = slice(first - block * BLOCK, last - block * BLOCK)
            for i, stratum in enumerate(self.strata):
                here = places == i
                nth = block * stratum.share + np.cumsum(here) - 1  # number among the stratum's samples, from 0
                chosen = here[within]
                epoch, place = np.divmod(nth[within][chosen], len(stratum.indices))
                target = np.flatnonzero(chosen) + first - start
                epochs[target] = epoch
                for number in np.unique(epoch).tolist():
                    now = epoch == number
                    indices[target[now]] = stratum.indices[self._pass_order(i, number)[place[now]]]
        return indices, epochs

    def _shuffle(self, stratum: int, number: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, _ORDER, stratum, number))
        return rng.permutation(len(self.strata[stratum].indices)).astype(np.uint32)
