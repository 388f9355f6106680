"""`hmr-skel report`: a dataset's quality as one web page."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.commands.places import folder
from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.data.manifest import Manifest

REPORT = """\
Write one self-contained HTML page about a dataset: rows by source, kept and rejected with reasons, error histograms and
percentiles by source and body part, joint angles over their allowed ranges, betas, speed, links to the shards; and the
best, median and worst fits as pictures and in a 3D viewer. It opens offline, needs no server, and prints.

Pictures need the body models that the manifest names; images are shown where they are there. The rows that are shown or
measured are the same every time."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `report`."""
    report = commands.add_parser(
        "report",
        help="a web page of a dataset's quality, with pictures",
        description=REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "dataset",
        nargs="?",
        metavar="DATASET",
        type=folder,
        help="the dataset's folder (default: data/<manifest name>)",
    )
    report.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="the page (default: report.html in the dataset's folder)"
    )
    report.add_argument(
        "--manifest",
        metavar="FILE",
        help="the dataset's manifest: where body models and images are (default: manifests/NAME.toml, by the name in "
        f"the shards; without DATASET {DEFAULT_MANIFEST})",
    )
    report.add_argument("--no-pictures", action="store_true", help="tables and charts only; needs no body models")
    report.add_argument("--build", action="store_true", help="build the manifest's dataset first if it is not there")
    report.add_argument("--json", action="store_true", help="print a summary as one JSON object, the last line")
    report.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    report.set_defaults(run=run_report, interrupted="no report was written; shards that --build finished are kept")


def run_report(args: argparse.Namespace) -> None:
    """Gather, draw, write, and say what was written."""
    import time

    from tqdm import tqdm

    from hmr_skel.commands.build_missing import build_missing, has_all_shards
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.report.build import write_report
    from hmr_skel.report.gather import gather, read_metas
    from hmr_skel.report.picks import choose_sample

    start = time.perf_counter()
    folder = args.dataset
    if folder is None:
        folder = Path("data") / load_manifest(args.manifest or DEFAULT_MANIFEST).name
    if args.build and not has_all_shards(folder):
        build_missing(args.manifest or DEFAULT_MANIFEST, folder, quiet=args.quiet)
    out = args.out if args.out is not None else folder / "report.html"
    if out.is_dir():
        raise UserError(f"-o {out} is a folder. Expected a file, such as {out / 'report.html'}.")
    kept = sum(meta["kept"] for meta in read_metas(folder))
    with tqdm(total=kept, unit="row", desc="reading", disable=True if args.quiet else None, leave=False) as bar:
        dataset = gather(folder, bar.update)
    manifest = None if args.no_pictures else find_manifest(args.manifest, dataset.name)
    total = len(choose_sample(dataset))
    with tqdm(total=total, unit="row", desc="measuring", disable=True if args.quiet else None, leave=False) as bar:
        summary = write_report(dataset, manifest, out, bar.update)
    if not args.quiet:
        for warning in summary.warnings:
            print(f"warning: {warning}")
        v2v = summary.v2v_mm
        errors = "v2v mean {mean:.2f} mm, p99 {p99:.2f} mm".format(**v2v) if v2v else "none was fitted"
        print(f"{folder}: {summary.rows:,} rows, {summary.rejected:,} rejected, {errors}")
        print(
            f"{summary.file}: {summary.bytes / 1e6:.1f} MB in {time.perf_counter() - start:.0f} s, open it in a browser"
        )
    if args.json:
        print(json.dumps(summary.as_dict()))


def find_manifest(path: str | None, name: str) -> "Manifest":
    """The manifest that was given, or the one that the shards name. Raises `UserError` where there is none."""
    from hmr_skel.data.manifest import load_manifest

    usual = Path("manifests") / f"{name}.toml"
    if path is None and not usual.is_file():
        raise UserError(
            f"the shards were made by a manifest called {name!r}, and {usual} is not there. Name it with --manifest: "
            "it says where body models and images are."
        )
    manifest = load_manifest(path or usual)
    if manifest.name != name:
        raise UserError(
            f"{path or usual} is the manifest {manifest.name!r}, but the shards were made by {name!r}. Give that "
            "one with --manifest."
        )
    return manifest
