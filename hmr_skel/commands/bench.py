"""`hmr-skel bench`: how fast, how accurate, how near to the best there is; measured here and now."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hmr_skel.commands.arguments import add, add_number, new_command

FIT = """\
Time the fit on --rows rows, and judge it on --compare-rows of them, spread evenly over the file, beside
  the published aligner's protocol (autograd, L-BFGS, four steps; our own implementation), and
  the floor: a long float64 search from many starts for the least of the same objective.
Everything is measured in one run on one machine. Units: rows per second, millimetres of mean vertex distance per row
(v2v), radians. On two CPU cores the whole takes under 12 minutes; --no-baseline and --no-floor are the slow parts."""

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
    add_number(fit, "--rows", int, 1, default=4096, metavar="N", help="rows to time (default: %(default)s)")
    add_number(
        fit, "--compare-rows", int, 1, default=64, metavar="N", help="rows all are judged on (default: %(default)s)"
    )
    add_number(fit, "--batch", int, 1, metavar="N", help="rows fitted together (default: the recipe's)")
    add_number(
        fit, "--repeats", int, 1, default=3, metavar="N", help="warm passes, the median counts (default: %(default)s)"
    )
    fit.add_argument("--no-baseline", action="store_true", help="without the published protocol")
    add_number(
        fit, "--baseline-rounds", int, 1, default=10, metavar="N", help="its optimiser's calls a step (published: 10)"
    )
    add_number(fit, "--baseline-iterations", int, 1, default=20, metavar="N", help="iterations a call (published: 20)")
    add_number(fit, "--baseline-batch", int, 1, default=32, metavar="N", help="rows together (default: %(default)s)")
    fit.add_argument("--no-floor", action="store_true", help="without the search for the least objective")
    add_number(fit, "--floor-starts", int, 1, default=4, metavar="N", help="its random starts (default: %(default)s)")
    fit.add_argument("--no-files", action="store_true", help="without the end-to-end run through files")
    fit.add_argument("--no-sweep", action="store_true", help="without the rates by batch size and by rows")
    fit.add_argument("--plot", type=Path, metavar="FILE", help="draw rows/s by batch size and by rows into this PNG")

    train = new_command(actions, "train", "images/s, MFU and memory of training", TRAIN, run_train)
    add_number(
        train, "--steps", int, 1, default=10, metavar="N", help="timed, after three others (default: %(default)s)"
    )
    predict = new_command(actions, "predict", "time of one image from file to body", PREDICT, run_predict)
    predict.add_argument("--image", type=Path, metavar="FILE", help="default: noise of 1280 x 960 px")
    predict.add_argument("--network", type=Path, metavar="FILE", help="network.safetensors (default: random weights)")
    add_number(predict, "--repeats", int, 1, default=10, metavar="N", help="after one other (default: %(default)s)")
    for action in (train, predict):
        add(action, "recipe", default="vit_h")
        add(action, "set", "manifest")
    for action in (fit, train, predict):
        add(action, "device", "json", "quiet")


def run_fit(args: argparse.Namespace) -> None:
    """Measure, print, draw."""
    from dataclasses import replace

    import torch

    from hmr_skel.bench.files import Inputs, bench_files
    from hmr_skel.bench.fit import BenchOptions, bench_fit, subset
    from hmr_skel.commands.output import Bars, show

    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, Bars(args.quiet) as bars:
        bench = Inputs(args.manifest, args.labels, args.rows, args.device, Path(work), quiet=args.quiet)
        config = bench.config if args.batch is None else replace(bench.config, batch=args.batch, gpu_batch=args.batch)
        count = len(bench.rows.params.betas)
        timed = bench.rows.params[torch.arange(args.rows) % count]
        compared = torch.from_numpy(subset(count, args.compare_rows))
        options = BenchOptions(
            repeats=args.repeats,
            baseline=not args.no_baseline,
            baseline_rounds=args.baseline_rounds,
            baseline_iterations=args.baseline_iterations,
            baseline_batch=args.baseline_batch,
            floor=not args.no_floor,
            floor_random_starts=args.floor_starts,
            sweep=not args.no_sweep,
        )
        compare = bench.rows.params[compared]
        report = bench_fit(timed, compare, bench.smpl, bench.skel, config, bench.device, options, bars)
        names = {
            "labels": bench.rows.name,
            "distinct_rows": min(count, args.rows),
            "rows_left_out": bench.rows.left_out,
            "compare_subset": f"{bench.rows.name}: row i*{count}//{len(compared)} for i in 0..{len(compared) - 1}",
            "smpl_gender": bench.rows.smpl_gender,
            "skel_gender": bench.manifest.skel_gender,
            "recipe": bench.manifest.recipe,
        }
        if not args.no_files:
            files = bench_files(bench.manifest, args.rows, Path(work) / "out", str(bench.device), bars)
            report |= {"end_to_end_rows_per_s": files["end_to_end_rows_per_s"], "files": files}
    report |= names
    if args.plot is not None:
        _draw(report, args.plot)
    show(args, _fit_text(report), report)


def run_train(args: argparse.Namespace) -> None:
    """Measure and print."""
    from hmr_skel.bench.machine import machine, peak_memory_mb
    from hmr_skel.bench.train import bench_training
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
    from hmr_skel.bench.machine import machine
    from hmr_skel.bench.predict import bench_predict
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


def _draw(report: dict[str, Any], path: Path) -> None:
    from hmr_skel.bench.plot import draw

    try:
        draw(report, path)
    except ImportError:
        print("no plot: matplotlib is not installed (make setup EXTRAS=train)", file=sys.stderr)
    else:
        print(f"plot: {path}", file=sys.stderr)


def _fit_text(report: Mapping[str, Any]) -> str:
    """What `hmr-skel bench fit` prints."""
    from hmr_skel.commands.output import table

    machine = report["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    ours, published, floor = report["v2v_mm"], report["baseline"], report["floor"]
    lines = [
        f"fit: {report['rows']:,} rows of {report['labels']} ({report['distinct_rows']:,} distinct), {where}",
        _line("warm", f"{report['fits_per_s']:,.1f} rows/s, {report['dtype']}, batches of {report['batch']}"),
        _line("cold", f"{report['fits_per_s_cold']:,.1f} rows/s, tables made and code compiled on the way"),
    ]
    if report["end_to_end_rows_per_s"] is not None:
        lines.append(_line("end to end", f"{report['end_to_end_rows_per_s']:,.1f} rows/s, label file to Parquet"))
    peak = f"{report['mflop_per_row']:.1f} MFLOP a row, {100 * report['share_of_peak']:.1f} % of the"
    lines += [
        _line("arithmetic", f"{peak} {report['peak_gflop_per_s']:,.0f} GFLOP/s that matrix products reach here"),
        _line("memory", f"{report['peak_memory_mb']:,.0f} MB at most"),
        _line("limits", f"{report['limit_violations']:,} rows with a dof outside"),
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


def _line(name: str, text: str) -> str:
    """One figure and its name."""
    return f"  {name:<12}{text}"
