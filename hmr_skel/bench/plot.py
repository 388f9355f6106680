"""A picture of the benchmark: rows/s against batch size and number of rows. Needs matplotlib (extra `train`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of the report's `sweep`. Raises `ImportError` where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")  # no window, no display
    from matplotlib import pyplot

    sweep = report["sweep"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axes, runs, key, label in (
        (left, sweep["by_batch"], "batch", "rows in a batch"),
        (right, sweep["by_rows"], "rows", f"rows (batches of {report['batch']})"),
    ):
        axes.plot([run[key] for run in runs], [run["fits_per_s"] for run in runs], "o-", color="tab:blue")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter("{x:,.0f}")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, which="both")
    if report.get("baseline"):
        for axes in (left, right):
            axes.axhline(report["baseline"]["fits_per_s"], color="tab:red", linestyle="--")
        right.annotate(
            "published protocol", (0.98, report["baseline"]["fits_per_s"]), xycoords=("axes fraction", "data"),
            color="tab:red", ha="right", va="bottom",
        )  # fmt: skip
    left.set_ylabel("whole fits per second")
    machine = report["machine"]
    figure.suptitle(f"{machine.get('gpu') or machine['cpu']}, {report['dtype']}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
