"""The report's tables, as rows of plain values for the page's template."""

import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hmr_skel.body.dofs import DOF_NAMES, NUM_DOFS, PELVIS, limits
from hmr_skel.data.meta import DOUBTFUL, statistics
from hmr_skel.report.gather import ERRORS, Dataset

NUM_COLORS = 8
"""Number of colours in the style sheet; further sources share the last."""
STATUSES = {
    "converged": "converged",
    "at_limit": "converged at a limit",
    "max_iterations": "steps ran out",
    "unusual_shape": "unusual shape",
    "far": "far from the annotation",
    "implausible": "not a human pose",
    "given": "given as SKEL",
    "rejected": "rejected",
}
"""The statuses of rows, with their meaning. Rejected rows have the status `rejected`."""
Row = dict[str, Any]


def totals(dataset: Dataset) -> Row:
    """The counts, speed and errors of the whole dataset."""
    metas = dataset.metas
    seconds: Counter[str] = Counter()
    for meta in metas:
        seconds.update(meta.get("seconds", {}))
    rejected = sum(dataset.rejects.values())
    fitted = dataset.fitted()
    return {
        "read": len(dataset) + rejected,
        "kept": len(dataset),
        "rejected": rejected,
        "fitted": len(fitted),
        "given": len(dataset) - len(fitted),
        "violations": dataset.violations,
        "doubtful": sum(status[name] for status in dataset.status.values() for name in DOUBTFUL)
        if "push" in dataset.rows.columns
        else None,
        "shards": len(metas),
        "of_shards": metas[0]["shards"],
        "held_out": sum(meta["split"] == "test" for meta in metas),
        "seconds": dict(seconds),
        "rows_per_s": (len(dataset) + rejected) / seconds["total"] if seconds["total"] else None,
        "devices": sorted({meta["device"] for meta in metas if "device" in meta}),
        "genders": dict(dataset.genders.most_common()),
        **{name: statistics(dataset.errors[name][fitted]) for name in ERRORS},
    }


def by_source(dataset: Dataset) -> list[Row]:
    """For each source, the numbers of rows read, kept and rejected, the statuses, and the errors."""
    rejected: Counter[str] = Counter()
    for (source, _), count in dataset.rejects.items():
        rejected[source] += count
    found = []
    for number, name in enumerate(dataset.sources, 1):
        status = dataset.status.get(name, Counter())
        rows = dataset.fitted(name)
        found.append(
            {
                "name": name,
                "color": min(number, NUM_COLORS),
                "kept": sum(status.values()),
                "rejected": rejected[name],
                "read": sum(status.values()) + rejected[name],
                "status": status,
                "fitted": len(rows),
                **{error: statistics(dataset.errors[error][rows]) for error in ERRORS},
            }
        )
    return found


def by_reason(dataset: Dataset) -> list[Row]:
    """Rejected rows by reason, most frequent first, with their numbers by source and one example."""
    reasons: dict[str, Counter[str]] = {}
    for (source, reason), count in dataset.rejects.items():
        reasons.setdefault(reason, Counter())[source] += count
    ordered = sorted(reasons.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return [
        {
            "reason": reason.replace("_", " "),
            "count": sum(sources.values()),
            "sources": [f"{count:,} of {source}" for source, count in sources.most_common()],
            "example": dataset.examples[reason],
        }
        for reason, sources in ordered
    ]


def by_shard(dataset: Dataset, page: Path) -> list[Row]:
    """Each shard with its files, as links from the page."""
    start = page.resolve().parent

    def link(name: str) -> str:
        return quote(Path(os.path.relpath((dataset.folder / name).resolve(), start)).as_posix())

    found = []
    for meta in dataset.metas:
        data = next(name for name in meta["files"] if name.startswith("data/"))
        rejects = next(name for name in meta["files"] if name.startswith("rejects/"))
        found.append(
            {
                "shard": meta["shard"],
                "file": Path(data).name,
                "href": link(data),
                "rejects_href": link(rejects),
                "bytes": meta["files"][data].get("bytes", 0),
                **{key: meta.get(key) for key in ("split", "kept", "rejected", "v2v_mm", "rows_per_s")},
                "violations": meta.get("limit_violations"),
            }
        )
    return found


def held_dofs(dataset: Dataset, most: int = 6) -> list[Row]:
    """The dofs that their limits hold most often: the limit, and the share of all rows."""
    bounds = np.rad2deg(limits(dataset.limits))
    shares = dataset.held / max(len(dataset), 1)
    order = np.argsort(-shares.ravel(), kind="stable")[:most]
    found = []
    for k, side in zip(*np.unravel_index(order, shares.shape), strict=True):
        if shares[k, side] > 0:
            found.append({"name": DOF_NAMES[k], "share": float(shares[k, side]), "bound": float(bounds[k, side])})
    return found


def all_dofs(dataset: Dataset) -> list[Row]:
    """Every limited dof: its range, the range of its angles, and how often a limit holds it, deg."""
    bounds = np.rad2deg(limits(dataset.limits))
    return [
        {
            "name": DOF_NAMES[k],
            "low": float(bounds[k, 0]),
            "high": float(bounds[k, 1]),
            "least": dataset.angles[k].least,
            "p1": dataset.angles[k].quantile(0.01),
            "median": dataset.angles[k].quantile(0.5),
            "p99": dataset.angles[k].quantile(0.99),
            "most": dataset.angles[k].most,
            "held": float(dataset.held[k].sum() / max(len(dataset), 1)),
        }
        for k in range(PELVIS.stop, NUM_DOFS)
    ]
