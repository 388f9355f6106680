"""The numbers of a shard: what the meta file holds, `--json` prints and tables are made of."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hmr_skel.rows import Reject

LIMIT_TOLERANCE_DEG = 1e-3
"""A dof counts as outside its range from here on: float32 cannot hold a bound exactly."""


def summarise(table: pa.Table, rejects: Sequence[Reject]) -> dict[str, Any]:
    """Counts and error statistics of a shard's kept rows (a table of `SCHEMA`) and rejects, as JSON values.

    Errors, and means of iterations and starts, are null where no row was fitted; rows of status "given" never
    count as fitted.
    """
    v2v = _fitted(table, "v2v_mm")
    violations = _fitted(table, "max_limit_violation_deg")
    return {
        "kept": table.num_rows,
        "rejected": len(rejects),
        "fitted": len(v2v),
        "v2v_mm": statistics(v2v),
        "v2v_max_mm": statistics(_fitted(table, "v2v_max_mm")),
        "joint_mm": statistics(_fitted(table, "joint_mm")),
        "iterations": _mean(_fitted(table, "iterations")),
        "starts": _mean(_fitted(table, "starts")),
        "limit_violations": int((violations > LIMIT_TOLERANCE_DEG).sum()),
        "status": dict(sorted(Counter(table["status"].to_pylist()).items())),
        "sources": dict(sorted(Counter(table["source"].to_pylist()).items())),
        "reasons": dict(sorted(Counter(reject.reason for reject in rejects).items())),
    }


def statistics(values: np.ndarray) -> dict[str, float] | None:
    """Mean, median, p95, p99 and max; None of no values."""
    if not len(values):
        return None
    median, p95, p99 = np.percentile(values.astype(np.float64), [50, 95, 99])
    numbers = {"mean": values.mean(dtype=np.float64), "median": median, "p95": p95, "p99": p99, "max": values.max()}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 3) if len(values) else None


def _fitted(table: pa.Table, column: str) -> np.ndarray:
    return table[column].drop_null().to_numpy()
