"""Which rows of a dataset are trained on, and which of their labels: rules on columns, stated in the recipe."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What a row must be to be used. None: not asked. The defaults take every row as it is, as the paper does."""

    max_v2v_mm: float | None = None
    """Largest mean distance of the fitted SKEL skin from the annotated SMPL mesh. Rows that were not fitted pass."""
    statuses: tuple[str, ...] | None = None
    """How a fit may have ended: converged, at_limit, max_iterations; given: the label held SKEL."""
    max_abs_beta: float | None = None
    """Largest SKEL shape parameter in absolute value (HSMR: 3)."""
    poor_skel: Literal["mask", "drop"] = "mask"
    """What becomes of a row that fails one of the above: it loses its SKEL labels and is trained on its keypoints, or
    it is left out."""
    min_confidence: float = 0.0
    """Keypoints of less confidence than this count as not annotated (HSMR: 0.3)."""
    min_keypoints_2d: int = 0
    """Rows with fewer annotated 2D keypoints than this are left out (HSMR: 5)."""

    def __post_init__(self) -> None:
        if self.poor_skel not in ("mask", "drop"):
            raise ValueError(f"poor_skel is {self.poor_skel!r}, must be mask or drop")
        for name in ("max_v2v_mm", "max_abs_beta", "min_confidence", "min_keypoints_2d"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value!r}, must not be negative")
