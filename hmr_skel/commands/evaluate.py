"""`hmr-skel evaluate`: compare predicted bodies with the truth; `hmr-skel moyo-hard`: make a label file for that."""

import argparse
import json
from pathlib import Path
from typing import Any

from hmr_skel.commands.arguments import NETWORK_HELP, add, add_number, new_command
from hmr_skel.commands.inputs import network_file, open_dataset
from hmr_skel.commands.output import show
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.places import DATA_VARIABLE

EVALUATE = """\
Measure the errors of trained networks, or of SMPL predictions after conversion to SKEL. The command prints means over
rows in millimetres with 95 % intervals (bootstrap over recordings, or over rows if there are none):
  MPJPE            distance of joints from the label's joints, with both roots in one place
  PVE              distance of the skin's vertices, with both roots in one place
  PA-MPJPE, PA-PVE the same after the best rotation, translation and scale
  PCK@t            share of 2D keypoints nearer than t crop sides, mean over keypoints
and how often angles leave their ranges. Without --benchmark and --predictions it evaluates networks on a dataset's
held-out shards, and also the constant prediction (the mean body of the training rows). For several networks, it prints
each and their mean.
Examples: hmr-skel evaluate --build
          hmr-skel evaluate best.pth --benchmark 3dpw,emdb --benchmark-data DIR --fov cam_model_cleaned.ckpt
          hmr-skel evaluate --predictions 3dpw=hmr2.npz --method HMR2.0b --benchmark-data DIR"""

MOYO_HARD = """\
Make the label file of MOYO-HARD from that of MOYO (HSMR's moyo_v2.npz), if you do not have SKEL-CF's moyo_hard.npz. It
has the images of the front camera (YOGI_Cam_01) without the first and last quarter of each sequence. The paper counts
9,725 images and does not say how a quarter is rounded; the command takes the way that gives 9,725, or writes nothing.
Example: hmr-skel moyo-hard moyo_v2.npz -o moyo_hard.npz"""


def _benchmarks_text() -> str:
    """The list of benchmarks and the files that each needs."""
    from hmr_skel.evaluate.benchmarks import BENCHMARKS, LEGACY, MODELS_FROM

    lines = [
        f"benchmarks, and the files that each needs below --benchmark-data (default: ${DATA_VARIABLE}/evaluation)",
        "and in the folder of body models (skel_*.pkl of the networks' gender, SMPL_*.pkl of the rows' genders, or",
        "neutral if the label file has no 'gender'; predictions also need SMPL and SKEL of their genders):",
    ]
    for one in BENCHMARKS.values():
        facts = [f"labels/{one.labels}: {one.labels_from}", f"images/{one.images}: {one.images_from}"]
        facts += [", ".join(one.model_files), f"({one.quirks})"]
        lines += [f"  {one.name:<10}{one.title}: {one.joints.name}", *(f"{'':<12}{fact}" for fact in facts)]
    lines += ["", "body models:"] + [f"  {name:<31}{source}" for name, source in MODELS_FROM.items()]
    lines += ["", "published mistakes that --legacy switches on, for comparison with published figures:"]
    return "\n".join(lines + [f"  {name:<16}{text}" for name, text in LEGACY.items()])


def add_commands(commands: argparse._SubParsersAction) -> None:
    summary = "measure errors on held-out images and on benchmarks, beside the paper's tables"
    evaluate = new_command(commands, "evaluate", summary, EVALUATE, run_evaluate, _benchmarks_text)
    text = f"network.safetensors, a run's folder, or SKEL-CF's best.pth {NETWORK_HELP}"
    evaluate.add_argument("networks", nargs="*", type=Path, metavar="NETWORK", help=text)
    text = "names from the list below, with commas between, or all (default: those of --predictions)"
    evaluate.add_argument("--benchmark", metavar="NAMES", help=text)
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="write rows.parquet, tables.md and report.json here")
    add(evaluate, "device", "json", "quiet")
    add(evaluate.add_argument_group("held-out shards"), "manifest", "data", "build")
    add_benchmark_arguments(evaluate)
    two_stage = evaluate.add_argument_group("SMPL predictions of other methods, before and after conversion to SKEL")
    text = (
        "of any kind that `hmr-skel convert` reads, rows as the label file's or named like its images; once per "
        "benchmark (no network is evaluated then unless one is named)"
    )
    two_stage.add_argument("--predictions", action="append", default=[], metavar="BENCHMARK=FILE", help=text)
    two_stage.add_argument("--method", metavar="NAME", help="name of the method for the tables (default: the file)")
    text = "the SMPL model of the predictions (default: what the file says, else neutral)"
    add(two_stage, "smpl-gender", help=text)
    text = "gender of the SKEL body (default: that of the prediction, male for neutral)"
    two_stage.add_argument("--gender", choices=("male", "female", "best"), help=text)

    summary = "make the label file of MOYO-HARD from that of MOYO"
    moyo_hard = new_command(commands, "moyo-hard", summary, MOYO_HARD, run_moyo_hard)
    moyo_hard.add_argument("moyo", type=Path, metavar="MOYO", help="moyo_v2.npz")
    moyo_hard.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="moyo_hard.npz")


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of benchmarks."""
    group = parser.add_argument_group("benchmarks")
    text = "folder with labels/ and images/, see evaluate --help"
    group.add_argument("--benchmark-data", type=Path, metavar="DIR", help=text)
    add(group, "body-models")
    group.add_argument(
        "--intrinsics", default="fov", metavar="HOW",
        help="camera: fov (HumanFoV, as in the protocol); label (cam_int of the label file); diagonal (focal length = "
        "the image's diagonal); or a focal length in px",
    )  # fmt: skip
    group.add_argument("--fov", type=Path, metavar="FILE", help="HumanFoV's weights, cam_model_cleaned.ckpt")
    text = "mistakes of published evaluators to repeat, see evaluate --help; or all"
    group.add_argument("--legacy", default="", metavar="NAMES", help=text)
    add_number(group, "--batch", int, 1, default=64, help="images per batch")


def run_evaluate(args: argparse.Namespace) -> None:
    """Evaluate, print, and write the results."""

    predictions = _predictions(args.predictions)
    files = [network_file(path) for path in args.networks]
    if not files and not predictions:
        files = [network_file(None)]

    from hmr_skel.commands.evaluations import OpenBenchmarks, evaluate_on_held_out, paper_tables, report_text
    from hmr_skel.data.images import image_rules
    from hmr_skel.evaluate.tables import write_rows
    from hmr_skel.model.checkpoint import load_any_network

    device, tables = resolve_device(args.device), []
    if args.benchmark is None and not predictions:
        manifest, data = open_dataset(args)
        rows: list = []
        report, _, _ = evaluate_on_held_out(
            files, data, image_rules(manifest), manifest.body_models.path, device, rows, quiet=args.quiet
        )
        texts = [report_text(report)]
    else:
        networks = [load_any_network(file) for file in files[:1]]
        gender = networks[0][1].skel_gender if networks else None
        networks += [load_any_network(file, gender) for file in files[1:]]
        names = ",".join(predictions) if args.benchmark is None else args.benchmark
        opened = OpenBenchmarks(names, args, device, gender)
        reports, rows = opened.reports(files, networks, predictions), opened.tables
        texts, tables = [report_text(one) for one in reports.values()], paper_tables(reports)
        report = {"benchmarks": reports, "tables": [table.as_dict() for table in tables]}
    text = "\n\n".join([*texts, *(table.text() for table in tables)])
    if args.out is not None:
        write_rows(args.out / "rows.parquet", rows)
        page = [*(f"```\n{text}\n```" for text in texts), *(table.markdown() for table in tables)]
        text += f"\n\nwritten: {args.out / 'rows.parquet'}, {write_tables(args.out, page, report)}"
    show(args, text, report)


def write_tables(out: Path, page: list[str], report: dict[str, Any]) -> str:
    """Write tables.md and report.json into a folder, by rename, and return their names."""
    from hmr_skel.data.atomic import replacing

    contents = {"tables.md": "\n\n".join(page), "report.json": json.dumps(report, indent=2)}
    for name, content in contents.items():
        with replacing(out / name) as temporary:
            temporary.write_text(content + "\n")
    return ", ".join(str(out / name) for name in contents)


def _predictions(texts: list[str]) -> dict[str, Path]:
    """The files by benchmark. Raises `UserError` for another form, and for a benchmark that takes no predictions."""
    from hmr_skel.evaluate.benchmarks import BENCHMARKS

    known = [name for name, benchmark in BENCHMARKS.items() if benchmark.truth != "keypoints_2d"]
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals or name not in known or name in found:
            raise UserError(
                f"--predictions {text}: expected BENCHMARK=FILE, once per benchmark, BENCHMARK one of "
                f"{', '.join(known)}. (COCO compares in the image, which needs a camera, and predictions have none "
                f"that all methods share.)"
            )
        found[name] = Path(file)
    return found


def run_moyo_hard(args: argparse.Namespace) -> None:
    """Write the label file, and print its number of images."""
    from hmr_skel.evaluate.moyo_hard import write_moyo_hard

    count, rounding = write_moyo_hard(args.moyo, args.out)
    print(f"{args.out}: {count:,} images ({rounding})")
