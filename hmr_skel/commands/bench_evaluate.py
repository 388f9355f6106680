"""`hmr-skel bench evaluate` and `bench conversion`: what evaluation takes beside the network, what conversion costs."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.errors import UserError

EVALUATE = """\
Time all that an evaluation does beside reading images and running the network: the truth's meshes, posing the coarse
and the final estimate, MPJPE, PA-MPJPE, PVE and PA-PVE, limits, intervals, and the file of rows, on made-up bodies."""

CONVERSION = """\
What conversion to SKEL costs. SMPL poses of a label file are changed until they are --off mm off (MPJPE), as
predictions are, and scored against the unchanged ones before and after conversion, with the same regressor on all
meshes; for the joints of several benchmarks. Beside the cost: how far the fit moves each joint. Two kinds of change:
  noise       every joint turned by a random rotation, anatomical or not
  other pose  every joint but the root turned part of the way to another frame's pose"""


def add_commands(actions: argparse._SubParsersAction, count: Callable[[str], int]) -> None:
    """Add `evaluate` and `conversion` to `bench`."""

    def add(name: str, short: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=short, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        action.add_argument(
            "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="labels and body models (default: %(default)s)"
        )
        action.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
        action.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
        action.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
        return action

    evaluate = add("evaluate", "time of an evaluation's metrics", EVALUATE)
    evaluate.add_argument("--rows", type=count, default=10_000, help="made-up rows (default: %(default)s)")
    evaluate.set_defaults(run=run_evaluate)
    conversion = add("conversion", "what conversion to SKEL costs in mm of MPJPE", CONVERSION)
    conversion.add_argument("--labels", type=Path, metavar="FILE", help="a CameraHMR-format npz in place of its labels")
    conversion.add_argument("--rows", type=count, help="at most so many, spread evenly (default: all)")
    conversion.add_argument("--off", type=float, default=60.0, metavar="MM", help="of predictions (default: 60)")
    conversion.add_argument(
        "--gender", choices=("male", "female", "best"), default="male", help="SKEL's (default: male)"
    )
    conversion.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
    conversion.set_defaults(run=run_conversion)


def run_evaluate(args: argparse.Namespace) -> None:
    """Measure and print."""
    from fitting.machine import machine
    from hmr_skel.commands.bench import Bars
    from hmr_skel.device import resolve_device
    from hmr_skel.evaluate.bench import bench_metrics

    device = resolve_device(args.device)
    with Bars(args.quiet) as bars:
        done = 0

        def step(rows: int) -> None:
            nonlocal done
            done += rows
            bars("rows", done, args.rows)

        report = bench_metrics(args.rows, _open_models(args), device, step)
    report |= {"device": str(device), "machine": machine(device)}
    if not args.quiet:
        parts = (
            f"errors {report['errors_s']:.1f}, intervals {report['intervals_s']:.1f}, file {report['write_s']:.1f} s"
        )
        print(
            f"metrics of {report['rows']:,} rows on {device}, {report['machine']['threads']} threads: "
            f"{report['seconds']:.1f} s by the clock ({parts}), {report['cpu_s']:.1f} s of CPU time"
        )
    if args.json:
        print(json.dumps(report))


def run_conversion(args: argparse.Namespace) -> None:
    """Measure and print."""
    import tempfile

    import torch

    from flows.bench import load_rows, with_labels
    from hmr_skel.commands.bench import Bars
    from hmr_skel.convert.fit import Bodies
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.device import resolve_device
    from hmr_skel.evaluate.labels import evenly
    from hmr_skel.evaluate.summary import sequences_of
    from hmr_skel.two_stage.cost import conversion_cost
    from hmr_skel.two_stage.perturbed import KINDS

    if not 0 < args.off < 1000:
        raise UserError(f"--off {args.off:g}: expected millimetres, more than 0.")
    manifest = with_labels(load_manifest(args.manifest), args.labels, 2048)
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        rows = load_rows(manifest, Path(work), quiet=args.quiet)
        chosen = evenly(len(rows.params.betas), args.rows)
        done = 0

        def step(fits: int) -> None:
            nonlocal done
            done += fits
            bars("fits", done, len(KINDS) * len(chosen) * (2 if args.gender == "best" else 1))

        found = conversion_cost(
            rows.params[torch.from_numpy(chosen)],
            sequences_of([rows.imgname[i] for i in chosen.tolist()], r"^(.*)/[^/]+$"),
            Bodies(manifest.body_models.path, resolve_device(args.device)),
            smpl_gender=rows.smpl_gender,
            skel_gender=args.gender,
            off_mm=args.off,
            seed=args.seed,
            progress=step,
        )
    report = {"labels": rows.name, "rows": len(chosen), "off_mm": args.off, "skel_gender": args.gender, "kinds": found}
    if not args.quiet:
        print(conversion_text(report))
    if args.json:
        print(json.dumps(report))


def conversion_text(report: Mapping[str, Any]) -> str:
    """For people."""
    from hmr_skel.commands.bench_text import table

    what = f"{report['rows']:,} poses of {report['labels']}, changed to {report['off_mm']:g} mm off"
    lines = [f"{what}, {report['skel_gender']} SKEL; mm, mean [95 %]"]
    for kind, found in report["kinds"].items():
        lines += ["", f"{kind}: skin moved by {found['v2v_mm']:.2f} mm, {found['left_out']} rows left out"]
        rows = []
        for name, of in found["joint_sets"].items():
            one = of["mpjpe_mm"]
            ends = "" if one["ci95"] is None else f" [{one['ci95'][0]:+.2f}, {one['ci95'][1]:+.2f}]"
            rows.append(
                {
                    "joints of": name,
                    "MPJPE before": one["before"],
                    "after": one["after"],
                    "cost": f"{one['cost']:+.2f}{ends}",
                    "PA cost": f"{of['pa_mpjpe_mm']['cost']:+.2f}",
                    "PVE cost": f"{of['pve_mm']['cost']:+.2f}",
                    "joints moved": of["moved_mm"],
                }
            )
        lines.append(table(rows))
        lines += ["", f"{kind}, by joint (EMDB's joints): error before and after, cost, how far the fit moves it"]
        lines.append(
            table(
                [
                    {
                        "joint": joint.replace("_", " "),
                        "before": one["before_mm"],
                        "after": one["after_mm"],
                        "cost": f"{one['cost_mm']:+.2f}",
                        "moved": one["moved_mm"],
                        "moved against the root": one["moved_against_root_mm"],
                    }
                    for joint, one in found["joint_sets"]["EMDB"]["joints"].items()
                ]
            )
        )
    return "\n".join(lines)


def _open_models(args: argparse.Namespace) -> Path:
    """The manifest's body models; the open ones are made where they are missing."""
    from flows.sources import make_missing
    from hmr_skel.data.manifest import load_manifest

    manifest = load_manifest(args.manifest)
    if manifest.body_models.kind == "open":
        make_missing(manifest, quiet=True)
    return manifest.body_models.path
