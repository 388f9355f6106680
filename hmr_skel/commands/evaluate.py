"""`hmr-skel evaluate`: how far a trained network's bodies are from those of images it has never seen."""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.commands.build_missing import build_missing
from hmr_skel.commands.train import RUNS
from hmr_skel.errors import UserError

EVALUATE = """\
Errors of trained networks on a dataset's held-out shards, beside the constant prediction: the training rows' mean pose,
pelvis and shape. Millimetres, means over rows:
  MPJPE     distance of the 44 keypoints from the label's, both pelvises in one place
  PA-MPJPE  the same after the best rotation, translation and scale
  PVE       distance of the skin's vertices from those of the SKEL label, both pelvises in one place
Of several networks (of several seeds, say) each is printed, then their mean."""

METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="errors on held-out images",
        description=EVALUATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument(
        "networks", nargs="*", type=Path, metavar="NETWORK",
        help=f"network.safetensors, or a run's folder (default: the newest in {RUNS})",
    )  # fmt: skip
    evaluate.add_argument(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="images, body models (default: %(default)s)"
    )
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="the dataset (default: data/<manifest name>)")
    evaluate.add_argument("--build", action="store_true", help="build the dataset, render its images, where missing")
    evaluate.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    evaluate.add_argument("--json", action="store_true", help="print the errors as one JSON object, the last line")
    evaluate.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> None:
    """Predict, compare, print."""
    files = [network_file(path) for path in args.networks] or [newest()]

    from tqdm import tqdm

    from hmr_skel.data.image_files import image_rules
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.device import resolve_device
    from hmr_skel.evaluate.held_out import JOINT_SET, HeldOut, evaluate_held_out, means
    from hmr_skel.evaluate.mean_body import mean_body
    from hmr_skel.model.checkpoint import load_network

    device = resolve_device(args.device)
    manifest = load_manifest(args.manifest)
    data = args.data if args.data is not None else Path("data") / manifest.name
    if args.build:
        build_missing(args.manifest, data, quiet=args.quiet)
    held_out = HeldOut.open(data, image_rules(manifest), manifest.body_models.path, device, args.quiet)
    loaded = [load_network(file, skel_gender=held_out.dataset.gender) for file in files]
    networks = [network.to(device) for network, _ in loaded]
    with tqdm(total=len(held_out.dataset), unit="row", leave=False, disable=True if args.quiet else None) as bar:
        found, left_out = evaluate_held_out(
            networks, mean_body(data), held_out, progress=lambda done: bar.update(done - bar.n)
        )
    each: list[dict[str, Any]] = [
        {"file": str(file), "recipe": info.recipe, "step": info.details.get("step"), "coarse": None} | means(errors)
        for file, (_, info), errors in zip(files, loaded, found, strict=True)
    ]
    report: dict[str, Any] = {
        "dataset": str(data),
        "rows": len(found[0]["mean_pose"]["mpjpe_mm"]),
        "left_out": left_out,
        "mean_pose": each[0]["mean_pose"],
        **{stage: mean_of([one[stage] for one in each], JOINT_SET) for stage in ("coarse", "final")},
        "networks": each,
    }
    if not args.quiet:
        print(table(report))
    if args.json:
        print(json.dumps(report))


def mean_of(errors: list[dict | None], joint_set: str) -> dict[str, float | str] | None:
    """Over networks; None where one of them has no such stage."""
    there = [one for one in errors if one is not None]
    if len(there) < len(errors):
        return None
    return {metric: fmean(one[metric] for one in there) for metric in METRICS} | {"joint_set": joint_set}


def table(report: dict[str, Any]) -> str:
    """For people."""
    mean_pose = report["mean_pose"]
    left_out = f", {report['left_out']:,} left out" if report["left_out"] else ""
    lines = [
        f"{report['dataset']}: {report['rows']:,} held-out rows{left_out}; joints: {mean_pose['joint_set']}; mm",
        f"{'':<28}{'MPJPE':>16}{'PA-MPJPE':>16}{'PVE':>16}",
        _row("mean pose", mean_pose, None),
    ]
    for one in report["networks"]:
        lines.append(f"{one['file']} (recipe {one['recipe']}, step {one['step']})")
        lines += [_row(stage, one[stage], mean_pose) for stage in ("coarse", "final") if one[stage] is not None]
    if len(report["networks"]) > 1:
        lines.append(f"mean of {len(report['networks'])} networks")
        lines += [_row(stage, report[stage], mean_pose) for stage in ("coarse", "final") if report[stage] is not None]
    return "\n".join(lines)


def _row(name: str, errors: dict[str, Any], against: dict[str, Any] | None) -> str:
    cells = []
    for metric in METRICS:
        change = "" if against is None else f"({100 * (errors[metric] / against[metric] - 1):+.0f} %)"
        cells.append(f"{errors[metric]:8.1f} {change:<8}".rjust(16))
    return f"  {name:<26}" + "".join(cells).rstrip()


def network_file(path: Path) -> Path:
    """A network's file, or that of a run's folder."""
    return path / "network.safetensors" if path.is_dir() else path


def newest() -> Path:
    """What was trained last. Raises `UserError` where nothing was."""
    found = sorted(RUNS.glob("*/network.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"no trained network in {RUNS}. Train one first (make train), or name its file.")
    return found[-1]
