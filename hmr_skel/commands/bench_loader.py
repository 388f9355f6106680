"""`hmr-skel bench loader`: how fast training samples come."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from hmr_skel.commands.build import DEFAULT_MANIFEST
from hmr_skel.commands.places import place

LOADER = """\
Time the making of augmented training samples (256 px crops and their labels, the paper's augmentation) from a dataset's
own images: per second of one core's time, and by the clock with worker processes. Build the dataset and its images
first: make dataset, make images."""


def add_commands(actions: argparse._SubParsersAction, count: Callable[[str], int]) -> None:
    """Add `loader` to `bench`."""
    loader = actions.add_parser(
        "loader",
        help="training samples from images",
        description=LOADER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    loader.add_argument(
        "--manifest", default=DEFAULT_MANIFEST, metavar="FILE", help="says where images are (default: %(default)s)"
    )
    loader.add_argument("--data", type=place, metavar="DIR", help="the dataset (default: data/<manifest name>)")
    loader.add_argument("--batch", type=count, default=64, help="samples of a batch (default: %(default)s)")
    loader.add_argument(
        "--workers", type=count, nargs="+", default=[1, 2], metavar="N", help="processes to time (default: 1 2)"
    )
    loader.add_argument("--seconds", type=count, default=10, help="for each of these (default: %(default)s)")
    loader.add_argument("--json", action="store_true", help="print the report as one JSON object, the last line")
    loader.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no table")
    loader.set_defaults(run=run_loader)


def run_loader(args: argparse.Namespace) -> None:
    """Measure and print."""
    import torch

    from fitting.machine import machine
    from hmr_skel.commands.bench import Bars
    from hmr_skel.data.bench import bench_loader
    from hmr_skel.data.image_files import image_rules
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.data.samples import SampleDataset

    manifest = load_manifest(args.manifest)
    data = args.data or Path("data") / manifest.name
    dataset = SampleDataset(data, image_rules(manifest), quiet=args.quiet)
    with Bars(args.quiet) as bars:
        report = bench_loader(dataset, args.batch, args.workers, float(args.seconds), bars)
    report = {"dataset": str(data), "batch": args.batch} | report | {"machine": machine(torch.device("cpu"))}
    if not args.quiet:
        print(_text(report))
    if args.json:
        print(json.dumps(report))


def _text(report: dict) -> str:
    lines = [
        f"{report['dataset']}: {report['readable']} of {report['samples']} images read, "
        f"{report['image_megapixels']:.2f} megapixels and {report['image_kb']:.0f} kB in the mean",
        f"  of one core's time     {report['samples_per_core_s']:,.0f} samples/s "
        f"({report['sample_ms']:.2f} ms each; decoding a whole image {report['whole_image_decode_ms']:.2f} ms)",
    ]
    for many in report["workers"]:
        memory = many["largest_worker_mb"]
        lines.append(
            f"  by the clock, {many['workers']:>2} workers  {many['samples_per_s']:,.0f} samples/s, first batch after "
            f"{many['first_batch_s']:.1f} s" + (f", {memory:,.0f} MB each" if memory is not None else "")
        )
    return "\n".join(lines)
