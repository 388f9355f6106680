"""`hmr-skel evaluate` and `moyo-hard`: how far predicted bodies are from the truth, and a label file for that."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmr_skel.commands.arguments import RUNS, add, add_number, new_command
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import BENCHMARKS, FOLDER_VARIABLE, LEGACY, MODELS_FROM

if TYPE_CHECKING:
    pass

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

MOYO_HARD = """\
Write the label file of MOYO-HARD for those who have MOYO's (HSMR's moyo_v2.npz) and not SKEL-CF's moyo_hard.npz: of
the front camera (YOGI_Cam_01), every sequence without its first and last quarter. The paper counts 9,725 images and
does not say how a quarter is rounded; the way that gives 9,725 is taken, and where none does, nothing is written."""


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
    """Add `evaluate` and `moyo-hard`."""
    evaluate = new_command(
        commands, "evaluate", "errors on held-out images and on benchmarks, the paper's tables beside ours", EVALUATE,
        run_evaluate, "no tables were written; shards that --build finished are kept",
    )  # fmt: skip
    evaluate.epilog = _benchmarks_text()
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
    add(evaluate, "device", "json", "quiet")
    add(evaluate.add_argument_group("held-out shards"), "manifest", "data", "build")
    add_benchmark_arguments(evaluate)
    two_stage = evaluate.add_argument_group("SMPL predictions of others, before and after conversion to SKEL")
    two_stage.add_argument(
        "--predictions", action="append", default=[], metavar="BENCHMARK=FILE",
        help="of any kind that `hmr-skel convert` reads, rows as the label file's or named like its images; once per "
        "benchmark (no network is evaluated then unless one is named)",
    )  # fmt: skip
    two_stage.add_argument("--method", metavar="NAME", help="whose they are, for the tables (default: the file)")
    add(
        two_stage, "smpl-gender",
        help="the SMPL model that the predictions are for (default: what the file says, else neutral)",
    )  # fmt: skip
    two_stage.add_argument(
        "--gender", choices=("male", "female", "best"),
        help="SKEL's body (default: the prediction's gender, male for neutral ones)",
    )  # fmt: skip

    moyo_hard = new_command(
        commands, "moyo-hard", "make MOYO-HARD's label file out of MOYO's", MOYO_HARD, run_moyo_hard
    )
    moyo_hard.add_argument("moyo", type=Path, metavar="MOYO", help="moyo_v2.npz")
    moyo_hard.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="moyo_hard.npz")
    moyo_hard.add_argument(
        "--any-total", action="store_true", help="write it whatever the total; it is not the paper's MOYO-HARD then"
    )


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a benchmark's files are, and how it is run."""
    group = parser.add_argument_group("benchmarks")
    group.add_argument(
        "--benchmark-data", type=Path, metavar="DIR", help="folder of labels/ and images/, see evaluate --help"
    )
    add(group, "labels", help="the label file of the one benchmark, elsewhere")
    group.add_argument("--images", type=Path, metavar="DIR", help="the image folder of the one benchmark, elsewhere")
    add(group, "body-models")
    group.add_argument(
        "--intrinsics", default="fov", metavar="HOW",
        help="fov: HumanFoV's, as the protocol says; label: the label file's cam_int; diagonal: focal length = the "
        "image's diagonal; or a focal length in px (default: fov)",
    )  # fmt: skip
    group.add_argument("--fov", type=Path, metavar="FILE", help="HumanFoV's weights, cam_model_cleaned.ckpt")
    group.add_argument(
        "--legacy", default="", metavar="NAMES", help="published mistakes to repeat, see evaluate --help; or all"
    )
    add_number(group, "--limit", int, 1, help="at most N rows of each benchmark, spread evenly")
    add_number(group, "--batch", int, 1, default=64, help="images at once")


def run_evaluate(args: argparse.Namespace) -> None:
    """Predict, compare, print, write."""
    held_out, others, predictions, files = _asked(args)

    from hmr_skel.commands.evaluate_text import benchmark_text, held_out_text
    from hmr_skel.commands.evaluations import OpenBenchmarks, evaluate_on_held_out, paper_tables
    from hmr_skel.commands.inputs import open_dataset
    from hmr_skel.commands.output import show
    from hmr_skel.data.images import image_rules
    from hmr_skel.device import resolve_device
    from hmr_skel.model.checkpoint import load_any_network

    device = resolve_device(args.device)
    report: dict[str, Any] = {}
    rows, texts, tables = [], [], []
    if held_out:
        manifest, data = open_dataset(args)
        bodies = manifest.body_models.path
        found = evaluate_on_held_out(files, data, image_rules(manifest), bodies, device, quiet=args.quiet)
        report, rows = found.report, found.tables
        texts.append(held_out_text(report))
    if others:
        loaded = [load_any_network(file) for file in files[:1]]
        gender = loaded[0][1].skel_gender if loaded else None
        loaded += [load_any_network(file, gender) for file in files[1:]]
        report["benchmarks"], more = OpenBenchmarks(others, args, device, gender).reports(files, loaded, predictions)
        rows += more
        texts += [benchmark_text(one) for one in report["benchmarks"].values()]
        tables = paper_tables(report["benchmarks"])
        report["tables"] = [table.as_dict() for table in tables]
    text = "\n\n".join([*texts, *(table.text() for table in tables)])
    if args.out is not None:
        from hmr_skel.evaluate.tables import write_rows

        write_rows(args.out / "rows.parquet", rows)
        page = [*(f"```\n{text}\n```" for text in texts), *(table.markdown() for table in tables)]
        text += f"\n\nwritten: {args.out / 'rows.parquet'}, {write_tables(args.out, page, report)}"
    show(args, text, report)


def write_tables(out: Path, page: list[str], report: dict[str, Any]) -> str:
    """Write tables.md and report.json into a folder, by rename; returns their names."""
    from hmr_skel.data.atomic import replacing

    contents = {"tables.md": "\n\n".join(page), "report.json": json.dumps(report, indent=2)}
    for name, content in contents.items():
        with replacing(out / name) as temporary:
            temporary.write_text(content + "\n")
    return ", ".join(str(out / name) for name in contents)


def _asked(args: argparse.Namespace) -> tuple[bool, str, dict[str, Path], list[Path]]:
    """Whether on held-out rows, on which benchmarks, of which predictions by benchmark, of which networks."""
    from hmr_skel.commands.inputs import network_file, newest_network

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
        files = [newest_network()]
    return held_out, others, predictions, files


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


def run_moyo_hard(args: argparse.Namespace) -> None:
    """Choose, write, say how many."""
    from hmr_skel.evaluate.moyo_hard import EXPECTED, write_moyo_hard

    count, rounding = write_moyo_hard(args.moyo, args.out, args.any_total)
    warning = "" if count == EXPECTED else f"; this is not the paper's MOYO-HARD, which has {EXPECTED:,}"
    print(f"{args.out}: {count:,} images ({rounding}){warning}")
