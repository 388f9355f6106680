"""Which rows of a dataset are trained on, and which of their labels: rules on columns, stated in the recipe."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from hmr_skel.data.row_cache import RowCache
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError

STATUSES = ("converged", "at_limit", "max_iterations", "given")
"""How the fit of a row may have ended; `given`: its label held SKEL."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What a row must be to be used. None: not asked. The defaults take every row as it is, as the paper does."""

    max_v2v_mm: float | None = None
    """Largest mean distance of the fitted SKEL skin from the annotated SMPL mesh. Rows that were not fitted pass."""
    statuses: tuple[str, ...] | None = None
    """How a fit may have ended: some of `STATUSES`."""
    max_abs_beta: float | None = None
    """Largest SKEL shape parameter in absolute value (HSMR: 3)."""
    poor_skel: Literal["mask", "drop"] = "mask"
    """What becomes of a row that fails one of the above: it loses its SKEL labels and is trained on its keypoints, or
    it is left out."""
    min_confidence: float = 0.0
    """Keypoints of less confidence than this count as not annotated (HSMR: 0.3)."""
    min_keypoints_2d: int = 0
    """Rows with fewer 2D keypoints (of any confidence above 0) than this are left out (HSMR: 5)."""

    def __post_init__(self) -> None:
        if self.poor_skel not in ("mask", "drop"):
            raise ValueError(f"poor_skel is {self.poor_skel!r}, must be mask or drop")
        if not set(self.statuses or ()) <= set(STATUSES):
            raise ValueError(f"statuses are {', '.join(self.statuses or ())}; must be among {', '.join(STATUSES)}")
        for name in ("max_v2v_mm", "max_abs_beta", "min_confidence", "min_keypoints_2d"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value!r}, must not be negative")


@dataclass(frozen=True)
class ChosenRows:
    """The rows of a dataset that a recipe uses."""

    rows: Int[np.ndarray, "N"]  # ascending
    mask_skel: Bool[np.ndarray, "N"]  # used without their SKEL labels
    source: Int[np.ndarray, "N"]  # index into `sources`
    sources: list[str]
    dropped: dict[str, int]  # reason -> rows left out for it, the first that holds


def choose_rows(
    rows: RowCache, config: QualityConfig, camera_needed: bool, wanted_sources: Collection[str] | None = None
) -> ChosenRows:
    """Apply the rules to all rows. A value that is not there passes: what was not fitted has no fitting error.

    Args:
        rows: all there are.
        config: the rules.
        camera_needed: leave out rows without intrinsics.
        wanted_sources: leave out all others; None: none.

    Raises `UserError` where no row is left, or a wanted source is unknown.
    """
    keep, dropped = np.ones(len(rows), bool), {}

    def drop(reason: str, bad: np.ndarray) -> None:
        if (count := int((keep & bad).sum())) > 0:
            dropped[reason] = count
        keep[bad] = False

    source, sources = rows.codes("source")
    if wanted_sources is not None:
        if unknown := sorted(set(wanted_sources) - set(sources)):
            raise UserError(
                f"the mixture has source {', '.join(unknown)}, of which there are no rows. The dataset has: "
                f"{', '.join(sources)}. Name these, or no mixture at all."
            )
        drop("not being in the mixture", ~np.isin(source, [sources.index(name) for name in wanted_sources]))
    if camera_needed:
        drop("having no camera", ~rows.facts("has_camera"))
    if config.min_keypoints_2d:
        drop("too few keypoints", rows.facts("num_keypoints_2d") < config.min_keypoints_2d)
    poor = np.zeros(len(rows), bool)
    for reason, bad in _poor_skel(rows, config):
        poor |= bad
        if config.poor_skel == "drop":
            drop(reason, bad)
    chosen = np.flatnonzero(keep)
    if not len(chosen):
        why = ", ".join(f"{count:,} for {reason}" for reason, count in dropped.items())
        raise UserError(
            f"the recipe's rules leave none of {len(rows):,} rows ({why}). Relax them, or choose "
            "missing_intrinsics = 'diagonal' where it is the camera that is missing."
        )
    return ChosenRows(chosen, poor[chosen], source[chosen], sources, dropped)


def one_gender(rows: RowCache, chosen: ChosenRows, where: str | Place) -> Literal["male", "female"]:
    """The gender of the SKEL bodies of all chosen rows. Raises `UserError` where there are two, or none."""
    codes, names = rows.codes("skel_gender")
    codes = codes[chosen.rows]
    counts = {name: int((codes == code).sum()) for code, name in enumerate(names)}
    found = {name: count for name, count in counts.items() if count}
    match list(found):
        case ["male" | "female" as gender]:
            return gender
        case []:
            raise UserError(f"{where}: no row has a SKEL body. Build the dataset with a fit (`hmr-skel dataset`).")
        case _:
            listed = " and ".join(f"{count:,} {name}" for name, count in found.items())
            raise UserError(
                f"{where} has {listed} rows. Expected one gender: a network predicts one body. Build the dataset with "
                'skel_gender = "male" or "female" in the manifest.'
            )


def _poor_skel(rows: RowCache, config: QualityConfig) -> Iterator[tuple[str, Bool[np.ndarray, "N"]]]:
    """What makes SKEL labels poor, and of which of all rows it holds."""
    if config.max_v2v_mm is not None:
        yield f"v2v above {config.max_v2v_mm:g} mm", rows.facts("v2v_mm") > config.max_v2v_mm  # NaN is not
    if config.max_abs_beta is not None:
        yield f"betas beyond {config.max_abs_beta:g}", rows.facts("max_abs_beta") > config.max_abs_beta
    if config.statuses is not None:
        codes, names = rows.codes("status")
        wanted = [code for code, name in enumerate(names) if name in config.statuses]
        yield f"status other than {', '.join(config.statuses)}", ~np.isin(codes, wanted)
