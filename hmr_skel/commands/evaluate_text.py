"""Reports of `hmr-skel evaluate` as text for people."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from hmr_skel.commands.output import table
from hmr_skel.evaluate.summary import METRIC_NAMES

Report = Mapping[str, Any]

_STAGES = ("mean_pose", "coarse", "final")


def held_out_text(report: Report) -> str:
    """Networks on held-out shards, beside the mean pose."""
    left_out = f", {report['left_out']:,} left out" if report["left_out"] else ""
    head = f"{report['dataset']}: {report['rows']:,} held-out rows{left_out}; mm"
    return f"{head}\n  joints: {report['mean_pose']['joint_set']}\n{_methods(report, 0)}"


def benchmark_text(report: Report) -> str:
    """Networks and predictions on one benchmark."""
    camera = "" if report["intrinsics"] is None else f"; camera: {report['intrinsics']}"
    return "\n".join(
        [
            f"{report['title']}: {report['chosen_rows']:,} of {report['label_rows']:,} rows of {report['labels']}",
            f"  joints: {report['joint_set']}",
            f"  bodies: {report['body_models']}; legacy switches: {', '.join(report['legacy']) or 'none'}{camera}",
            _methods(report, report.get("left_out", 0)),
        ]
    )


def _methods(report: Report, left_out: int) -> str:
    """Every method's stages, a column for each metric, with its interval."""
    rows: list[Report | str] = []
    networks = report.get("networks", ())
    for one in networks:
        rows += _method(f"{one['file']} (recipe {one['recipe']}, step {one['step']})", one, _STAGES, left_out)
    if (one := report.get("predictions")) is not None:
        rows += _method(one["method"], one, ("smpl", "skel"), one["left_out"])
        moved = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in one["moved_mm"].items())
        rows.append({"": "  cost of conversion"} | _cells(one["cost"], "+"))
        rows += _wrapped(f"moved by the conversion, mm: skin {one['v2v_mm']:.1f}; {moved}")
    if len(networks) > 1:
        rows.append(f"  mean of {len(networks)} networks")
        rows += [_stage(stage, report[stage]) for stage in _STAGES if report[stage] is not None]
    over = report["intervals"]
    resampled = f"[95 %]: {over['resamples']:,} resamples of {over['groups']:,} {over['of']}"
    return f"{table(rows)}\n  {resampled if over['groups'] > 1 else 'no intervals: all rows are of one recording'}"


def _method(name: str, stages: Report, names: Sequence[str], left_out: int) -> list[Report | str]:
    there = [stage for stage in names if stages.get(stage) is not None]
    rows = [_stage(stage, stages[stage]) for stage in there]
    return [f"  {name}" + (f", {left_out:,} rows left out" if left_out else ""), *rows, *_limits(stages[there[-1]])]


def _stage(name: str, errors: Report) -> Report:
    return {"": f"  {name.replace('_', ' ')}"} | _cells(errors)


def _cells(errors: Report, sign: str = "") -> dict[str, str]:
    """Every metric with its interval, by the metric's name."""
    cells = {}
    for metric in (metric for metric in METRIC_NAMES if metric in errors):
        form = f"{sign}.3f" if metric.startswith("pck") else f"{sign}.1f"
        ends = errors.get("ci95", {}).get(metric)
        between = "" if ends is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]"
        cells[METRIC_NAMES[metric]] = f"{errors[metric]:{form}}{between}"
    return cells


def _limits(errors: Report) -> list[str]:
    if "limits" not in errors:
        return []
    found = errors["limits"]
    worst = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found["worst"].items())
    hsmr = ", ".join(f"{degrees} deg: {100 * one['share']:.1f} %" for degrees, one in found["hsmr"].items())
    rows, dofs = f"{100 * found['rows']:.1f} % of rows", f"{100 * found['dofs']:.2f} % of {found['bounded_dofs']} dofs"
    return _wrapped(
        f"out of range: {rows}, {dofs}" + (f" ({worst})" if worst else "") + f"; HSMR's knees and elbows, beyond {hsmr}"
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, initial_indent="    ", subsequent_indent="      ")
