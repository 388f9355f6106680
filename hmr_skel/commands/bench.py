"""`hmr-skel bench`: how fast, how accurate, how near to the best there is; measured here and now."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hmr_skel.commands.arguments import add, add_number, new_command

FIT = """\
Time the fit on --rows rows, and measure its accuracy on --compare-rows of them, spread evenly over the file; then build
shards from the label file to Parquet. Units: rows per second, millimetres of mean vertex distance per row (v2v),
radians. In a checkout, `make bench` adds the published aligner's protocol, the least error that any pose reaches, and
the rates by batch size.
Of --json, only `make bench` fills mflop_per_row, share_of_peak, baseline, speedup, floor (null here), sweep (empty)."""

TRAIN = """\
Time training steps of a recipe on made-up samples: images per second, the share of the device's peak that the network's
matrix products reach (MFU), and memory. No dataset is needed; weights start at random. The loader is not timed."""

PREDICT = """\
Time one image from file to body: decoding, the camera's field of view (HumanFoV), the crop, the network, and SKEL's
skin and skeleton. Milliseconds, medians. Weights are random unless --network names a file; no matter for the time."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add all that `bench` measures."""
    parser = commands.add_parser("bench", help="measure speed and accuracy")
    actions = parser.add_subparsers(metavar="WHAT", required=True)

    fit = new_command(actions, "fit", "speed and accuracy of the fit", FIT, run_fit)
    add(fit, "manifest", "labels")
    add_fit_arguments(fit)

    train = new_command(actions, "train", "images/s, MFU and memory of training", TRAIN, run_train)
    add_number(train, "--steps", int, 1, default=10, help="timed, after three others")
    predict = new_command(actions, "predict", "time of one image from file to body", PREDICT, run_predict)
    predict.add_argument("--image", type=Path, metavar="FILE", help="default: noise of 1280 x 960 px")
    predict.add_argument("--network", type=Path, metavar="FILE", help="network.safetensors (default: random weights)")
    add_number(predict, "--repeats", int, 1, default=10, help="after one other")
    for action in (train, predict):
        add(action, "recipe", default="vit_h")
        add(action, "set", "manifest")
    for action in (fit, train, predict):
        add(action, "device", "json", "quiet")


def add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    """How much of the fit is measured."""
    add_number(parser, "--rows", int, 1, default=4096, help="rows to time")
    add_number(parser, "--compare-rows", int, 1, default=64, help="rows whose errors count")
    add_number(parser, "--batch", int, 1, help="rows fitted together (default: the recipe's)")
    add_number(parser, "--repeats", int, 1, default=3, help="warm passes, the median counts")
    parser.add_argument("--no-files", action="store_true", help="without the end-to-end run through files")


def run_fit(args: argparse.Namespace) -> None:
    """Measure and print."""
    from hmr_skel.bench.fit import FitInputs, bench_fit
    from hmr_skel.commands.output import Bars, show

    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        inputs = FitInputs.open(args.manifest, args.labels, args.rows, args.device, Path(work), quiet=args.quiet)
        report, _ = bench_fit(
            inputs, rows=args.rows, compare_rows=args.compare_rows, batch=args.batch, repeats=args.repeats,
            files=None if args.no_files else Path(work) / "out", progress=bars,
        )  # fmt: skip
    show(args, fit_text(report), report)


def run_train(args: argparse.Namespace) -> None:
    """Measure and print."""
    from hmr_skel.bench.measures import machine, peak_memory_mb
    from hmr_skel.bench.network import bench_training
    from hmr_skel.commands.inputs import manifest_body_models
    from hmr_skel.commands.output import Bars, show
    from hmr_skel.device import resolve_device
    from hmr_skel.model.keypoints import SkelKeypoints
    from hmr_skel.train.recipes import load_recipe

    device = resolve_device(args.device)
    recipe = load_recipe(args.recipe, args.set)
    body = SkelKeypoints.load(manifest_body_models(args.manifest), recipe.skel_gender, device)
    with Bars(args.quiet) as bars:
        report = bench_training(
            recipe, body, device, steps=args.steps, progress=lambda done, total: bars("steps", done, total)
        )
    report |= {"memory_mb": peak_memory_mb(device), "device": str(device), "machine": machine(device)}
    text = (
        f"{recipe.name} on {device}: {report['images_per_s']:.1f} images/s at batch {report['batch']}, "
        f"MFU {100 * report['mfu']:.1f} % of {report['peak_tflop_per_s']:.3g} TFLOP/s ({report['peak_source']}), "
        f"{report['memory_mb']:,.0f} MB"
    )
    show(args, text, report)


def run_predict(args: argparse.Namespace) -> None:
    """Measure and print."""
    from hmr_skel.bench.measures import machine
    from hmr_skel.bench.network import bench_predict
    from hmr_skel.commands.inputs import manifest_body_models
    from hmr_skel.commands.output import show
    from hmr_skel.device import resolve_device
    from hmr_skel.model.checkpoint import load_network
    from hmr_skel.model.keypoints import SkelKeypoints
    from hmr_skel.model.network import Network
    from hmr_skel.train.recipes import load_recipe

    device = resolve_device(args.device)
    recipe = load_recipe(args.recipe, args.set)
    network = Network(recipe.network) if args.network is None else load_network(args.network)[0]
    skel = SkelKeypoints.load(manifest_body_models(args.manifest), recipe.skel_gender, device).skel
    found = bench_predict(network, skel, device, image=args.image, bf16=recipe.bf16, repeats=args.repeats)
    report = {"recipe": recipe.name} | found | {"device": str(device), "machine": machine(device)}
    listed = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in found["parts_ms"].items())
    show(args, f"{recipe.name} on {device}: {found['image_ms']:.1f} ms an image ({listed})", report)


def fit_text(report: Mapping[str, Any]) -> str:
    """What `hmr-skel bench fit` and `make bench` print."""
    from hmr_skel.commands.output import table

    machine, published, floor = report["machine"], report["baseline"], report["floor"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    facts = {
        "warm": f"{report['fits_per_s']:,.1f} rows/s, {report['dtype']}, batches of {report['batch']}",
        "cold": f"{report['fits_per_s_cold']:,.1f} rows/s, tables made and code compiled on the way",
    }
    if report["end_to_end_rows_per_s"] is not None:
        facts["end to end"] = f"{report['end_to_end_rows_per_s']:,.1f} rows/s, label file to Parquet"
    if report["mflop_per_row"] is not None:
        products = f"{report['mflop_per_row']:.1f} MFLOP a row in the plain solver's matrix products"
        share, peak = 100 * report["share_of_peak"], report["peak_gflop_per_s"]
        facts["arithmetic"] = (
            f"{products}; times rows/s {share:.1f} % of the {peak:,.0f} GFLOP/s of large products here"
        )
    facts["memory"] = f"{report['peak_memory_mb']:,.0f} MB at most"
    facts["limits"] = f"{report['limit_violations']:,} rows with a dof outside"
    lines = [
        f"fit: {report['rows']:,} rows of {report['labels']} ({report['distinct_rows']:,} distinct), {where}",
        *(f"  {name:<12}{text}" for name, text in facts.items()),
        "",
        f"v2v in mm on {report['compare_rows']} rows ({report['compare_subset']})",
    ]
    judged = {"ours": report, "published protocol": published, "floor": floor}
    of = {"betas rms": "betas_rms", "rows/s": "fits_per_s"}
    lines.append(
        table(
            [
                {"": name} | one["v2v_mm"] | {title: one.get(key) for title, key in of.items()}
                for name, one in judged.items()
                if one is not None
            ]
        )
    )
    if published is not None:
        lines.append(f"speed-up over the published protocol: {report['speedup']:,.0f}")
    if floor is not None:
        lines.append(
            f"gap to the floor: {floor['energy_gap_percent']:.3f} % of the objective, {floor['v2v_gap_mm']:.3f} mm of "
            f"v2v in the mean; {floor['rows_over_1mm']} rows more than 1 mm above it"
        )
    parts = [{"part": name, "ours": value} for name, value in report["by_part_mm"].items()]
    if published is not None:
        parts = [row | {"published protocol": published["by_part_mm"][row["part"]]} for row in parts]
    lines += ["", "mean distance by body part, mm", table(parts)]
    for kind, runs in report["sweep"].items():
        if runs:
            label = kind.removeprefix("by_")
            rows = [{label: run[label], "rows/s": run["fits_per_s"]} for run in runs]
            lines += ["", f"rows/s by {label}", table(rows)]
    return "\n".join(lines)
