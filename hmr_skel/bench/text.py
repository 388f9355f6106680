"""What a benchmark shows to people: progress bars, and its report as text."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm


class Bars:
    """A progress bar per thing that is measured; where there is no terminal, a line when it starts."""

    def __init__(self, quiet: bool) -> None:
        self.off = True if quiet else None  # None: off where nobody watches
        self.bar = None
        self.what = ""

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bar is None or what != self.what or total != self.bar.total:
            self.__exit__()
            if what != self.what and not self.off and not sys.stderr.isatty():
                print(f"measuring: {what}", file=sys.stderr, flush=True)
            self.bar, self.what = tqdm(total=total, desc=what, leave=False, disable=self.off), what
        self.bar.update(done - self.bar.n)


def fit_text(report: Mapping[str, Any]) -> str:
    """What `hmr-skel bench fit` prints."""
    machine = report["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    ours, published, floor = report["v2v_mm"], report["baseline"], report["floor"]
    lines = [
        f"fit: {report['rows']:,} rows of {report['labels']} ({report['distinct_rows']:,} distinct), {where}",
        line("warm", f"{report['fits_per_s']:,.1f} rows/s, {report['dtype']}, batches of {report['batch']}"),
        line("cold", f"{report['fits_per_s_cold']:,.1f} rows/s, tables made and code compiled on the way"),
    ]
    if report["end_to_end_rows_per_s"] is not None:
        lines.append(line("end to end", f"{report['end_to_end_rows_per_s']:,.1f} rows/s, label file to Parquet"))
    peak = f"{report['mflop_per_row']:.1f} MFLOP a row, {100 * report['share_of_peak']:.1f} % of the"
    lines += [
        line("arithmetic", f"{peak} {report['peak_gflop_per_s']:,.0f} GFLOP/s that matrix products reach here"),
        line("memory", f"{report['peak_memory_mb']:,.0f} MB at most"),
        line("limits", f"{report['limit_violations']:,} rows with a dof outside"),
        "",
        f"v2v in mm on {report['compare_rows']} rows ({report['compare_subset']})",
    ]
    rows = [{"": "ours"} | ours | {"betas rms": report["betas_rms"], "rows/s": report["fits_per_s"]}]
    if published is not None:
        rows.append(
            {"": "published protocol"} | published["v2v_mm"]
            | {"betas rms": published["betas_rms"], "rows/s": published["fits_per_s"]}
        )  # fmt: skip
    if floor is not None:
        rows.append({"": "floor"} | floor["v2v_mm"] | {"betas rms": report["betas_rms"], "rows/s": None})
    lines.append(table(rows))
    if published is not None:
        lines.append(f"speed-up over the published protocol: {report['speedup']:,.0f}")
    if floor is not None:
        lines.append(
            f"gap to the floor: {floor['energy_gap_percent']:.3f} % of the objective, {floor['v2v_gap_mm']:.3f} mm of "
            f"v2v in the mean; {floor['rows_over_1mm']} rows more than 1 mm above it"
        )
    parts = [{"part": name, "ours": value} for name, value in report["by_part_mm"].items()]
    if published is not None:
        for row in parts:
            row["published protocol"] = published["by_part_mm"][row["part"]]
    lines += ["", "mean distance by body part, mm", table(parts)]
    for kind, label in (("by_batch", "batch"), ("by_rows", "rows")):
        if report["sweep"][kind]:
            runs = [{label: run[label], "rows/s": run["fits_per_s"]} for run in report["sweep"][kind]]
            lines += ["", f"rows/s by {label}", table(runs)]
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned columns, numbers to the right."""
    if not rows:
        return "  none"
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    texts = [isinstance(rows[0][column], str) for column in columns]

    def joined(line: Sequence[str]) -> str:
        parts = (c.ljust(w) if text else c.rjust(w) for c, w, text in zip(line, widths, texts, strict=True))
        return "  " + "  ".join(parts).rstrip()

    return "\n".join([joined(columns), *(joined(line) for line in cells)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def line(name: str, text: str) -> str:
    """One figure and its name."""
    return f"  {name:<12}{text}"
