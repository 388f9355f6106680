"""How often predicted angles leave the joints' ranges of motion.

Two views: every bounded dof against our table (`anatomical`), whole turns aside, and HSMR's metric, which looks at
knees and elbows (one and two dofs each) against its own table and forgives some degrees.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from hmr_skel.body.dofs import DOF_NAMES, limits

HSMR_DOFS = tuple(DOF_NAMES.index(f"{dof}_{side}") for dof in ("knee_angle", "elbow_flexion") for side in "rl") + tuple(
    DOF_NAMES.index(f"pro_sup_{side}") for side in "rl"
)
"""Knees, and of each elbow both its dofs."""
TOLERANCES_DEG = (0, 5, 10, 20, 30)
_ROUNDING_DEG = 0.01  # float32 angles that are held at a limit are not outside it


def excess_deg(q: Float[np.ndarray, "N 46"], table: str = "anatomical") -> Float[np.ndarray, "N 46"]:
    """By how much each dof is outside its range, whole turns aside; 0 inside, and where the table has no bounds."""
    bounds = limits(table)
    bounded = np.array(np.isfinite(bounds).all(1))
    low, high = np.where(bounded[:, None], bounds, 0.0).T
    middle = (low + high) / 2
    turned = q - 2 * np.pi * np.round((q - middle) / (2 * np.pi))
    excess = np.degrees(np.maximum(low - turned, turned - high).clip(0))
    return np.where(bounded & (excess > _ROUNDING_DEG), excess, 0.0)


def hsmr_excess_deg(q: Float[np.ndarray, "N 46"]) -> Float[np.ndarray, "N 6"]:
    """By how much knees and elbows are outside HSMR's ranges, as HSMR counts: angles wrapped to (-pi, pi]."""
    low, high = limits("hsmr")[list(HSMR_DOFS)].T
    wrapped = np.pi - (np.pi - q[:, HSMR_DOFS]) % (2 * np.pi)
    return np.degrees(np.maximum(low - wrapped, wrapped - high).clip(0))


def limit_rates(q: Float[np.ndarray, "N 46"]) -> dict[str, Any]:
    """Both views, as JSON: shares of 1, degrees.

    `rows`: share of rows with any dof outside; `dofs`: share of all bounded dofs of all rows; `worst`: the three dofs
    that are outside most often. `hsmr`: by tolerance, the share of its dofs outside by more, and mean, median and
    maximum of those excesses.
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
