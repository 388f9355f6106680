"""Reports of `hmr-skel evaluate` as text for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from hmr_skel.evaluate.summary import METRIC_NAMES

_STAGES = ("coarse", "final")
_MAIN = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")


def held_out_text(report: Mapping[str, Any]) -> str:
    """The default: networks beside the mean pose."""
    mean_pose = report["mean_pose"]
    left_out = f", {report['left_out']:,} left out" if report["left_out"] else ""
    lines = [
        f"{report['dataset']}: {report['rows']:,} held-out rows{left_out}; joints: {mean_pose['joint_set']}; mm",
        f"{'':<28}{'MPJPE':>16}{'PA-MPJPE':>16}{'PVE':>16}",
        _against("mean pose", mean_pose, None),
    ]
    for one in report["networks"]:
        lines.append(f"{one['file']} (recipe {one['recipe']}, step {one['step']})")
        lines += [_against(stage, one[stage], mean_pose) for stage in _STAGES if one[stage] is not None]
        lines += _more(one["final"], report["intervals"])
    if len(report["networks"]) > 1:
        lines.append(f"mean of {len(report['networks'])} networks")
        lines += [_against(stage, report[stage], mean_pose) for stage in _STAGES if report[stage] is not None]
    return "\n".join(lines)


def benchmark_text(report: Mapping[str, Any]) -> str:
    """One benchmark: every method's stages, a column per metric, with its interval."""
    rows = f"{report['chosen_rows']:,} of {report['label_rows']:,} rows"
    lines = [
        f"{report['title']}: {rows} of {report['labels']}",
        f"  joints: {report['joint_set']}",
        f"  bodies: {report['body_models']}; legacy switches: {', '.join(report['legacy']) or 'none'}"
        + (f"; camera: {report['intrinsics']}" if report["intrinsics"] is not None else ""),
    ]
    methods: list[tuple[Mapping[str, Any], tuple[str, ...]]] = []
    methods += [(one, ("mean_pose", "coarse", "final")) for one in report.get("networks", ())]
    if "predictions" in report:
        methods.append((report["predictions"] | {"file": report["predictions"]["method"]}, ("smpl", "skel")))
    metrics: list[str] = []
    for one, stages in methods:
        there = [stage for stage in stages if one.get(stage) is not None]
        found = [name for name in METRIC_NAMES if name in one[there[-1]]]
        if found != metrics:
            metrics = found
            lines.append(f"  {'':<26}" + "".join(f"{METRIC_NAMES[name]:>24}" for name in metrics).rstrip())
        left_out = one.get("left_out", report.get("left_out", 0))
        lines.append(f"  {one['file']}" + (f", {left_out:,} rows left out" if left_out else ""))
        lines += [_with_intervals(stage.replace("_", " "), one[stage], metrics) for stage in there]
        if "cost" in one:
            lines.append(_with_intervals("cost of conversion", one["cost"], metrics, "+"))
            moved = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in one["moved_mm"].items())
            lines += _wrapped(f"moved by the conversion, mm: skin {one['v2v_mm']:.1f}; {moved}")
        lines += _limits(one[there[-1]])
    if (count := len(report.get("networks", ()))) > 1:
        stages = [stage for stage in ("mean_pose", *_STAGES) if report[stage] is not None]
        metrics = [name for name in METRIC_NAMES if name in report[stages[-1]]]
        lines.append(f"  {f'mean of {count} networks':<26}" + "".join(f"{METRIC_NAMES[m]:>24}" for m in metrics))
        lines += [_with_intervals(stage.replace("_", " "), report[stage], metrics) for stage in stages]
    intervals = report["intervals"]
    if intervals["groups"] > 1:
        lines.append(f"  [95 %]: {intervals['resamples']:,} resamples of {intervals['groups']:,} {intervals['of']}")
    else:
        lines.append("  no intervals: all rows are of one recording")
    return "\n".join(lines)


def _against(name: str, errors: Mapping[str, Any], against: Mapping[str, Any] | None) -> str:
    cells = []
    for metric in _MAIN:
        change = "" if against is None else f"({100 * (errors[metric] / against[metric] - 1):+.0f} %)"
        cells.append(f"{errors[metric]:8.1f} {change:<8}".rjust(16))
    return f"  {name:<26}" + "".join(cells).rstrip()


def _more(final: Mapping[str, Any], intervals: Mapping[str, Any]) -> list[str]:
    """The final stage's intervals and other metrics."""
    ends = final["ci95"]
    between = ", ".join(f"{METRIC_NAMES[m]} {ends[m][0]:.1f} to {ends[m][1]:.1f}" for m in _MAIN if m in ends)
    lines = [f"    final, 95 % over {intervals['groups']:,} {intervals['of']}: {between}"] if between else []
    others = [f"{METRIC_NAMES[m]} {final[m]:.3f}" for m in ("pck_05", "pck_10") if m in final]
    return [*lines, f"    final: PA-PVE {final['pa_pve_mm']:.1f} mm, {', '.join(others)}", *_limits(final)]


def _with_intervals(name: str, errors: Mapping[str, Any], metrics: Sequence[str], sign: str = "") -> str:
    cells = []
    for metric in metrics:
        if metric not in errors:
            cells.append(f"{'-':>24}")
            continue
        form = f"{sign}.3f" if metric.startswith("pck") else f"{sign}.1f"
        ends = errors.get("ci95", {}).get(metric)
        between = "" if ends is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]"
        cells.append(f"{errors[metric]:{form}}{between}".rjust(24))
    return f"    {name:<24}" + "".join(cells)


def _limits(errors: Mapping[str, Any]) -> list[str]:
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
    import textwrap

    return textwrap.wrap(text, 120, initial_indent="    ", subsequent_indent="      ")
