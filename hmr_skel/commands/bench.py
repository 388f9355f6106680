"""`hmr-skel bench`: measure speed and accuracy of the fit and the network."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hmr_skel.commands.arguments import add, add_number, new_command
from hmr_skel.commands.inputs import manifest_body_models
from hmr_skel.commands.output import show, table
from hmr_skel.device import resolve_device

FIT = """\
Time the fit on --rows rows, and measure its accuracy on --compare-rows of them, spread evenly over the file; then build
shards from the label file to Parquet. Units are rows per second, millimetres of mean vertex distance per row (v2v), and
radians. In a checkout, `make bench` adds the published aligner's protocol, the lowest error that any pose reaches, and
the speed by batch size; only there --json fills mflop_per_row, share_of_peak, baseline, speedup, floor and sweep.
Example: hmr-skel bench fit --rows 512 --json"""

TRAIN = """\
Time training steps of a recipe on random samples: images per second, the share of the device's peak that the network's
matrix products reach (MFU), and memory. This needs no dataset and no weights, and does not time the loader.
Example: hmr-skel bench train --recipe tiny"""

PREDICT = """\
Time the prediction for one image from file to body: decoding, the camera's field of view (HumanFoV), the crop, the
network, and SKEL's skin and skeleton. Prints medians in milliseconds. The image (1280 x 960 px) is noise and weights
are random, which does not change the time.
Example: hmr-skel bench predict --recipe vit_b"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("bench", help="measure speed and accuracy")
    actions = parser.add_subparsers(metavar="WHAT", required=True)

    fit = new_command(actions, "fit", "speed and accuracy of the fit", FIT, run_fit)
    add(fit, "manifest", "labels")
    add_fit_arguments(fit)

    summary = "images/s, MFU and memory of training"
    train = new_command(actions, "train", summary, TRAIN, lambda args: run_network(args, training=True))
    add_number(train, "--steps", int, 1, default=10, help="timed steps, after three untimed ones")
    summary = "time of one image from file to body"
    predict = new_command(actions, "predict", summary, PREDICT, lambda args: run_network(args, training=False))
    add_number(predict, "--repeats", int, 1, default=10, help="timed repeats, after an untimed one")
    for action in (train, predict):
        add(action, "recipe", default="vit_h")
        add(action, "set", "manifest")
    for action in (fit, train, predict):
        add(action, "device", "json", "quiet")


def add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the size of the benchmark."""
    add_number(parser, "--rows", int, 1, default=4096, help="rows to time")
    add_number(parser, "--compare-rows", int, 1, default=64, help="rows whose errors are measured")
    add_number(parser, "--batch", int, 1, help="rows fitted together (default: the recipe's)")
    add_number(parser, "--repeats", int, 1, default=3, help="timed passes, of which the median counts")
    parser.add_argument("--no-files", action="store_true", help="leave out the run from label file to Parquet")


def run_fit(args: argparse.Namespace) -> None:
    """Measure the fit, and print."""
    from hmr_skel.bench.fit import FitInputs, bench_fit
    from hmr_skel.progress import measuring

    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, measuring(args.quiet) as progress:
        inputs = FitInputs.open(args.manifest, args.labels, args.rows, args.device, Path(work), quiet=args.quiet)
        report, _ = bench_fit(
            inputs, rows=args.rows, compare_rows=args.compare_rows, batch=args.batch, repeats=args.repeats,
            files=None if args.no_files else Path(work) / "out", progress=progress,
        )  # fmt: skip
    show(args, fit_text(report), report)


def run_network(args: argparse.Namespace, training: bool) -> None:
    """Measure training or prediction, and print."""
    from hmr_skel.bench.network import bench_predict, bench_training
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.model.keypoints import SkelKeypoints
    from hmr_skel.progress import measuring
    from hmr_skel.train.recipes import load_recipe

    device, recipe = resolve_device(args.device), load_recipe(args.recipe, args.set)
    body = SkelKeypoints.load(manifest_body_models(load_manifest(args.manifest)), recipe.skel_gender, device)
    if training:
        with measuring(args.quiet) as progress:
            report = bench_training(recipe, body, device, args.steps, progress)
        text = (
            f"{report['images_per_s']:.1f} images/s at batch {report['batch']}, MFU {100 * report['mfu']:.1f} % of "
            f"{report['peak_tflop_per_s']:.3g} TFLOP/s ({report['peak_source']}), {report['memory_mb']:,.0f} MB"
        )
    else:
        report = bench_predict(recipe, body.skel, device, args.repeats)
        listed = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in report["parts_ms"].items())
        text = f"{report['image_ms']:.1f} ms an image ({listed})"
    show(args, f"{recipe.name} on {device}: {text}", report)


def fit_text(report: Mapping[str, Any]) -> str:
    """What `hmr-skel bench fit` and `make bench` print."""
    from hmr_skel.data.meta import WHOSE_LIMITS

    machine, floor, files = report["machine"], report["floor"], report["end_to_end_rows_per_s"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    lines = [
        f"fit: {report['rows']:,} rows of {report['labels']} ({report['distinct_rows']:,} distinct), {where}",
        f"  warm        {report['fits_per_s']:,.1f} rows/s, {report['dtype']}, batches of {report['batch']}",
        f"  dense       {report['fits_per_s_dense']:,.1f} rows/s, warm, with pose correctives that are nowhere zero",
        f"  cold        {report['fits_per_s_cold']:,.1f} rows/s, including the time to make tables and compile",
    ]
    if files is not None:
        lines.append(f"  end to end  {files:,.1f} rows/s, label file to Parquet")
    if report["mflop_per_row"] is not None:
        share = f"{100 * report['share_of_peak']:.1f} % of the {report['peak_gflop_per_s']:,.0f} GFLOP/s here"
        lines.append(
            f"  arithmetic  {report['mflop_per_row']:.1f} MFLOP per row in matrix products; times rows/s {share}"
        )
    lines += [
        f"  memory      {report['peak_memory_mb']:,.0f} MB at most",
        f"  limits      {report['limit_violations']:,} rows {WHOSE_LIMITS}",
        f"\nv2v in mm on {report['compare_rows']} rows ({report['compare_subset']})",
    ]
    judged = {"ours": report, "published protocol": report["baseline"], "floor": floor}
    judged = {name: one for name, one in judged.items() if one is not None}
    rows = []
    for name, one in judged.items():
        row = {"": name} | one["v2v_mm"] | {"rows/s": one.get("fits_per_s")}
        row["worst row"], row["worst vertex"] = row.pop("max"), one.get("v2v_max_mm", {}).get("max")
        rows.append(row)
    lines.append(table(rows))
    if report["speedup"] is not None:
        lines.append(f"speed-up over the published protocol: {report['speedup']:,.0f}")
    if floor is not None:
        gap = f"{floor['energy_gap_percent']:.3f} % of the objective, {floor['v2v_gap_mm']:.3f} mm of v2v in the mean"
        lines.append(f"gap to the floor: {gap}; {floor['rows_over_1mm']} rows more than 1 mm above it")
    by_part = {name: one["by_part_mm"] for name, one in judged.items() if "by_part_mm" in one}
    parts = [{"part": part} | {name: one[part] for name, one in by_part.items()} for part in report["by_part_mm"]]
    lines += ["", "mean distance by body part, mm", table(parts)]
    for kind, runs in (report["sweep"] or {}).items():
        rows = [{kind: run[kind.removeprefix("by_")], "rows/s": run["fits_per_s"]} for run in runs]
        lines += ["", table(rows)] if rows else []
    return "\n".join(lines)
