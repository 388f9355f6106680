"""`hmr-skel bench`: how fast, how accurate, how near to the best there is; measured here and now."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmr_skel.commands.build import DEFAULT_MANIFEST

if TYPE_CHECKING:
    import torch

    from hmr_skel.model.keypoints import SkelKeypoints

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

    def add(name: str, short: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=short, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        action.add_argument(
            "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="labels and body models (default: %(default)s)"
        )
        action.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
        action.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
        action.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no tables")
        return action

    fit = add("fit", "speed and accuracy of the fit", FIT)
    fit.add_argument("--labels", type=Path, metavar="FILE", help="a CameraHMR-format npz in place of its labels")
    fit.add_argument("--rows", type=count_from_one, default=4096, help="rows to time (default: %(default)s)")
    fit.add_argument(
        "--compare-rows", type=count_from_one, default=64, help="rows all are judged on (default: %(default)s)"
    )
    fit.add_argument("--batch", type=count_from_one, help="rows fitted together (default: the recipe's)")
    fit.add_argument(
        "--repeats", type=count_from_one, default=3, help="warm passes, the median counts (default: %(default)s)"
    )
    fit.add_argument("--no-baseline", action="store_true", help="without the published protocol")
    fit.add_argument(
        "--baseline-rounds", type=count_from_one, default=10, help="its optimiser's calls a step (published: 10)"
    )
    fit.add_argument("--baseline-iterations", type=count_from_one, default=20, help="iterations a call (published: 20)")
    fit.add_argument("--baseline-batch", type=count_from_one, default=32, help="rows together (default: %(default)s)")
    fit.add_argument("--no-floor", action="store_true", help="without the search for the least objective")
    fit.add_argument("--floor-starts", type=count_from_one, default=4, help="its random starts (default: %(default)s)")
    fit.add_argument("--no-files", action="store_true", help="without the end-to-end run through files")
    fit.add_argument("--no-sweep", action="store_true", help="without the rates by batch size and by rows")
    fit.add_argument("--plot", type=Path, metavar="FILE", help="draw rows/s by batch size and by rows into this PNG")
    fit.set_defaults(run=run_fit)
    train = add("train", "images/s, MFU and memory of training", TRAIN)
    train.add_argument(
        "--steps", type=count_from_one, default=10, help="timed, after three others (default: %(default)s)"
    )
    train.set_defaults(run=run_train)
    predict = add("predict", "time of one image from file to body", PREDICT)
    predict.add_argument("--image", type=Path, metavar="FILE", help="default: noise of 1280 x 960 px")
    predict.add_argument("--network", type=Path, metavar="FILE", help="network.safetensors (default: random weights)")
    predict.add_argument("--repeats", type=count_from_one, default=10, help="after one other (default: %(default)s)")
    predict.set_defaults(run=run_predict)
    for action in (train, predict):
        action.add_argument("--recipe", default="vit_h", metavar="NAME", help="tiny, vit_b or vit_h (default: vit_h)")
        action.add_argument(
            "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field, see `hmr-skel train -h`"
        )


def run_fit(args: argparse.Namespace) -> None:
    """Measure, print, draw."""
    from dataclasses import replace

    import torch

    from hmr_skel.bench.files import Inputs, bench_files
    from hmr_skel.bench.fit import BenchOptions, bench_fit, subset
    from hmr_skel.bench.text import Bars, fit_text

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
    if not args.quiet:
        print(fit_text(report))
    if args.plot is not None:
        _draw(report, args.plot)
    if args.json:
        print(json.dumps(report))


def run_train(args: argparse.Namespace) -> None:
    """Measure and print."""
    from hmr_skel.bench.machine import machine, peak_memory_mb
    from hmr_skel.bench.text import Bars
    from hmr_skel.bench.train import bench_training
    from hmr_skel.device import resolve_device
    from hmr_skel.train.recipes import load_recipe

    device = resolve_device(args.device)
    recipe = load_recipe(args.recipe, args.set)
    body = _body(args.manifest, recipe.skel_gender, device)
    with Bars(args.quiet) as bars:
        report = bench_training(
            recipe, body, device, steps=args.steps, progress=lambda done, total: bars("steps", done, total)
        )
    report |= {"memory_mb": peak_memory_mb(device), "device": str(device), "machine": machine(device)}
    if not args.quiet:
        print(
            f"{recipe.name} on {device}: {report['images_per_s']:.1f} images/s at batch {report['batch']}, "
            f"MFU {100 * report['mfu']:.1f} % of {report['peak_tflop_per_s']:.3g} TFLOP/s ({report['peak_source']}), "
            f"{report['memory_mb']:,.0f} MB"
        )
    if args.json:
        print(json.dumps(report))


def run_predict(args: argparse.Namespace) -> None:
    """Measure and print."""
    from hmr_skel.bench.machine import machine
    from hmr_skel.bench.predict import bench_predict
    from hmr_skel.device import resolve_device
    from hmr_skel.model.checkpoint import load_network
    from hmr_skel.model.network import Network
    from hmr_skel.train.recipes import load_recipe

    device = resolve_device(args.device)
    recipe = load_recipe(args.recipe, args.set)
    network = Network(recipe.network) if args.network is None else load_network(args.network)[0]
    skel = _body(args.manifest, recipe.skel_gender, device).skel
    found = bench_predict(network, skel, device, image=args.image, bf16=recipe.bf16, repeats=args.repeats)
    report = {"recipe": recipe.name} | found | {"device": str(device), "machine": machine(device)}
    if not args.quiet:
        listed = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in found["parts_ms"].items())
        print(f"{recipe.name} on {device}: {found['image_ms']:.1f} ms an image ({listed})")
    if args.json:
        print(json.dumps(report))


def _body(path: str, gender: str, device: "torch.device") -> "SkelKeypoints":
    from flows.sources import make_missing
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.model.keypoints import SkelKeypoints

    manifest = load_manifest(path)
    if manifest.body_models.kind == "open":
        make_missing(manifest, quiet=True)
    return SkelKeypoints.load(manifest.body_models.path, gender, device)


def _draw(report: dict[str, Any], path: Path) -> None:
    from hmr_skel.bench.plot import draw

    try:
        draw(report, path)
    except ImportError:
        print("no plot: matplotlib is not installed (make setup EXTRAS=train)", file=sys.stderr)
    else:
        print(f"plot: {path}", file=sys.stderr)


def count_from_one(text: str) -> int:
    """An argument that is a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
