"""Print the reports of `hmr-skel evaluate`."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from hmr_skel.commands.output import table
from hmr_skel.evaluate.summary import METRIC_NAMES

Report = Mapping[str, Any]


def report_text(report: Report) -> str:
    """A report as text: networks on held-out shards, or networks and predictions on one benchmark."""
    if "dataset" in report:
        lines = [f"{report['dataset']}: {report['rows']:,} held-out rows; mm", f"  joints: {report['joint_set']}"]
    else:
        camera = "" if report["intrinsics"] is None else f"; camera: {report['intrinsics']}"
        lines = [
            f"{report['title']}: {report['label_rows']:,} rows of {report['labels']}",
            f"  joints: {report['joint_set']}",
            f"  bodies: {report['body_models']}; legacy switches: {', '.join(report['legacy']) or 'none'}{camera}",
        ]
    rows: list[Report | str] = []
    networks, stages = report.get("networks", ()), ("mean_pose", "coarse", "final")
    for one in networks:
        name = f"{one['file']} (recipe {one['recipe']}, step {one['step']})"
        rows += _method(name, one, stages, report["left_out"])
    if (one := report.get("predictions")) is not None:
        rows += _method(one["method"], one, ("smpl", "skel"), one["left_out"])
        rows.append(_row("cost of conversion", one["cost"], "+"))
    if len(networks) > 1:
        rows.append(f"  mean of {len(networks)} networks")
        rows += [_row(stage, report[stage]) for stage in stages if report[stage] is not None]
    over = report["intervals"]
    resampled = f"[95 %]: {over['resamples']:,} resamples of {over['groups']:,} {over['of']}"
    last = resampled if over["groups"] > 1 else "no intervals: all rows are from one recording"
    return "\n".join([*lines, table(rows), f"  {last}"])


def _method(name: str, stages: Report, names: Sequence[str], left_out: int) -> list[Report | str]:
    there = [stage for stage in names if stages.get(stage) is not None]
    head = f"  {name}" + (f", {left_out:,} rows left out" if left_out else "")
    return [head, *(_row(stage, stages[stage]) for stage in there), *_limits(stages[there[-1]])]


def _row(name: str, errors: Report, sign: str = "") -> dict[str, str]:
    """Each metric with its interval, by name."""
    cells = {"": f"  {name.replace('_', ' ')}"}
    for metric in (metric for metric in METRIC_NAMES if metric in errors):
        form = f"{sign}.3f" if metric.startswith("pck") else f"{sign}.1f"
        ends = errors.get("ci95", {}).get(metric)
        between = "" if ends is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]"
        cells[METRIC_NAMES[metric]] = f"{errors[metric]:{form}}{between}"
    return cells


def _limits(errors: Report) -> list[str]:
    if (found := errors.get("limits")) is None:
        return []
    hsmr = ", ".join(f"{degrees} deg: {100 * one['share']:.1f} %" for degrees, one in found["hsmr"].items())
    text = f"out of range: {100 * found['rows']:.1f} % of rows, {100 * found['dofs']:.2f} % of {found['bounded_dofs']}"
    text += f" dofs; HSMR's knees and elbows, beyond {hsmr}"
    return textwrap.wrap(text, 120, initial_indent="    ", subsequent_indent="      ")
