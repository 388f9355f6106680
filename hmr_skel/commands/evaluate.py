"""`hmr-skel evaluate`: how far predicted bodies are from the truth, on held-out images and on benchmarks."""

import argparse
import json
from pathlib import Path
from typing import Any

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.commands.places import place
from hmr_skel.commands.train import RUNS
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import BENCHMARKS, FOLDER_VARIABLE, LEGACY, MODELS_FROM

HELD_OUT = "held-out"

EVALUATE = """\
Errors of trained networks, or of SMPL predictions that are converted to SKEL first. Millimetres, means over rows, and
intervals that hold the mean with 95 % (bootstrap over recordings, where rows are of recordings):
  MPJPE            distance of the joints from the label's, both roots in one place
  PVE              distance of the skin's vertices, both roots in one place
  PA-MPJPE, PA-PVE the same after the best rotation, translation and scale
  PCK@t            share of the 2D keypoints nearer than t crop sides, mean over keypoints
and how often angles leave their ranges. Without --benchmark: on a dataset's held-out shards, beside the constant
prediction (the training rows' mean pose, pelvis and shape). Of several networks each is printed, then their mean."""


def _benchmarks_text() -> str:
    """What each benchmark is, and which files it needs."""
    lines = [
        f"benchmarks, and what each needs below --benchmark-data (default: ${FOLDER_VARIABLE}/evaluation),",
        "and in the folder of body models (of skel_*.pkl the networks' gender, of SMPL_*.pkl the rows' genders,",
        "neutral where the label file has no 'gender'; predictions need SMPL and SKEL of their genders too):",
    ]
    for one in BENCHMARKS.values():
        lines += [
            f"  {one.name:<10}{one.title}: {one.joints.name}",
            f"{'':<12}labels/{one.labels}: {one.labels_from}",
            f"{'':<12}images/{one.images}: {one.images_from}",
            f"{'':<12}{', '.join(one.model_files)}",
            f"{'':<12}({one.quirks})",
        ]
    lines += ["", "body models:"] + [f"  {name:<31}{source}" for name, source in MODELS_FROM.items()]
    lines += ["", "published mistakes that --legacy switches on, for comparison with published figures:"]
    lines += [f"  {name:<14}{text}" for name, text in LEGACY.items()]
    return "\n".join(lines)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="errors on held-out images and on benchmarks, the paper's tables beside ours",
        description=EVALUATE,
        epilog=_benchmarks_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument(
        "networks", nargs="*", type=Path, metavar="NETWORK",
        help=f"network.safetensors, a run's folder, or SKEL-CF's best.pth (default: the newest in {RUNS})",
    )  # fmt: skip
    evaluate.add_argument(
        "--benchmark", metavar="NAMES",
        help=f"names from the list below, with commas between, {HELD_OUT}, or all (default: {HELD_OUT}, or those of "
        "--predictions)",
    )  # fmt: skip
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="write rows.parquet, tables.md and report.json here")
    evaluate.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    evaluate.add_argument("--json", action="store_true", help="print the errors as one JSON object, the last line")
    evaluate.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
    held_out = evaluate.add_argument_group("held-out shards")
    held_out.add_argument(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="images, body models (default: %(default)s)"
    )
    held_out.add_argument("--data", type=place, metavar="DIR", help="the dataset (default: data/<manifest name>)")
    held_out.add_argument("--build", action="store_true", help="build the dataset, render its images, where missing")
    add_benchmark_arguments(evaluate)
    two_stage = evaluate.add_argument_group("SMPL predictions of others, before and after conversion to SKEL")
    two_stage.add_argument(
        "--predictions", action="append", default=[], metavar="BENCHMARK=FILE",
        help="of any kind that `hmr-skel convert` reads, rows as the label file's or named like its images; once per "
        "benchmark (no network is evaluated then unless one is named)",
    )  # fmt: skip
    two_stage.add_argument("--method", metavar="NAME", help="whose they are, for the tables (default: the file)")
    two_stage.add_argument(
        "--smpl-gender", choices=("neutral", "male", "female"),
        help="the SMPL model that the predictions are for (default: what the file says, else neutral)",
    )  # fmt: skip
    two_stage.add_argument(
        "--gender", choices=("male", "female", "best"),
        help="SKEL's body (default: the prediction's gender, male for neutral ones)",
    )  # fmt: skip
    evaluate.set_defaults(run=run_evaluate, interrupted="no tables were written; shards that --build finished are kept")


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a benchmark's files are, and how it is run."""
    group = parser.add_argument_group("benchmarks")
    group.add_argument(
        "--benchmark-data", type=Path, metavar="DIR", help="folder of labels/ and images/, see evaluate -h"
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="the label file of the one benchmark, elsewhere")
    group.add_argument("--images", type=Path, metavar="DIR", help="the image folder of the one benchmark, elsewhere")
    group.add_argument(
        "--body-models", metavar="DIR",
        help="folder of SMPL_*.pkl, skel_*.pkl and the regressors (default: $HMR_SKEL_BODY_MODELS); 'open' takes the "
        "openly licensed body, which shows that all works, and no more",
    )  # fmt: skip
    group.add_argument(
        "--intrinsics", default="fov", metavar="HOW",
        help="fov: HumanFoV's, as the protocol says; label: the label file's cam_int; diagonal: focal length = the "
        "image's diagonal; or a focal length in px (default: fov)",
    )  # fmt: skip
    group.add_argument("--fov", type=Path, metavar="FILE", help="HumanFoV's weights, cam_model_cleaned.ckpt")
    group.add_argument(
        "--legacy", default="", metavar="NAMES", help="published mistakes to repeat, see evaluate -h; or all"
    )
    group.add_argument("--limit", type=_count, metavar="N", help="at most N rows of each benchmark, spread evenly")
    group.add_argument("--batch", type=_count, default=64, metavar="N", help="images at once (default: %(default)s)")


def run_evaluate(args: argparse.Namespace) -> None:
    """Predict, compare, print, write."""
    predictions = _predictions(args.predictions)
    named = (",".join(predictions) or HELD_OUT) if args.benchmark is None else args.benchmark
    wanted = [name.strip().lower() for name in named.split(",") if name.strip()]
    if not wanted:
        raise UserError(f"--benchmark {args.benchmark}: names nothing. There are {HELD_OUT}, {', '.join(BENCHMARKS)}.")
    held_out = HELD_OUT in wanted
    others = ",".join(name for name in wanted if name != HELD_OUT)
    if predictions and not others:
        raise UserError(
            f"--predictions {args.predictions[0]}: {HELD_OUT} rows take networks alone. Name the benchmark in "
            "--benchmark too, or leave --benchmark out."
        )
    files = [network_file(path) for path in args.networks]
    if not files and predictions and held_out:
        raise UserError(
            f"--benchmark {named}: {HELD_OUT} takes a network, and --predictions evaluates none unless one is named. "
            f"Name its file, or leave {HELD_OUT} out."
        )
    if not files and not predictions:
        files = [newest()]

    from hmr_skel.commands.evaluate_text import benchmark_text, held_out_text
    from hmr_skel.device import resolve_device

    device = resolve_device(args.device)
    report: dict[str, Any] = {}
    tables, texts = [], []
    if held_out:
        from hmr_skel.commands.evaluate_held_out import held_out_report

        report, rows = held_out_report(files, args, device)
        tables += rows
        texts.append(held_out_text(report))
    side_by_side = []
    if others:
        from hmr_skel.commands.evaluate_benchmarks import benchmark_reports, open_benchmarks, paper_tables
        from hmr_skel.model.checkpoint import load_any_network

        loaded = [load_any_network(file) for file in files[:1]]
        gender = loaded[0][1].skel_gender if loaded else None
        loaded += [load_any_network(file, gender) for file in files[1:]]
        opened = open_benchmarks(others, args, device, gender)
        report["benchmarks"], rows = benchmark_reports(opened, files, loaded, predictions, args, device)
        tables += rows
        texts += [benchmark_text(one) for one in report["benchmarks"].values()]
        side_by_side = paper_tables(report["benchmarks"])
        report["tables"] = [table.as_dict() for table in side_by_side]
    if args.out is not None:
        _write(args.out, report, tables, texts, [table.markdown() for table in side_by_side])
    if not args.quiet:
        print("\n\n".join([*texts, *(table.text() for table in side_by_side)]))
        if args.out is not None:
            print(
                f"\nwritten: {', '.join(str(args.out / name) for name in ('rows.parquet', 'tables.md', 'report.json'))}"
            )
    if args.json:
        print(json.dumps(report))


def _write(out: Path, report: dict[str, Any], tables: list, texts: list[str], markdown: list[str]) -> None:
    from hmr_skel.data.atomic import replacing
    from hmr_skel.evaluate.tables import write_rows

    write_rows(out / "rows.parquet", tables)
    with replacing(out / "tables.md") as temporary:
        page = [*(f"```\n{text}\n```" for text in texts), *markdown]
        temporary.write_text("\n\n".join(page) + "\n")
    with replacing(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def network_file(path: Path) -> Path:
    """The network of a run's folder, or the file itself."""
    return path / "network.safetensors" if path.is_dir() else path


def newest() -> Path:
    """The network that was trained last. Raises `UserError` where there is none."""
    found = sorted(RUNS.glob("*/network.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"no trained network in {RUNS}. Train one first (make train), or name its file.")
    return found[-1]


def _predictions(texts: list[str]) -> dict[str, Path]:
    """By benchmark."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        name = name.strip().lower()
        if not equals or name not in BENCHMARKS:
            raise UserError(f"--predictions {text}: expected BENCHMARK=FILE, BENCHMARK one of {', '.join(BENCHMARKS)}.")
        if BENCHMARKS[name].truth == "keypoints_2d":
            raise UserError(
                f"--predictions {text}: {BENCHMARKS[name].title} compares in the image, and predictions have no camera "
                "that all agree on. Name another benchmark."
            )
        if name in found:
            raise UserError(f"--predictions: {name} is named twice. Evaluate one method at a time.")
        found[name] = Path(file)
    return found


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
