"""`python -m bench evaluate`: how long an evaluation takes beside the network, on made-up predictions."""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.arguments import new_parser
from flows.sources import make_missing
from hmr_skel.bench.machine import machine
from hmr_skel.body.dofs import HSMR_MEAN_Q
from hmr_skel.body.files import SKEL_FILES
from hmr_skel.body.skel import Skel
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.output import Bars, show
from hmr_skel.data.manifest import load_manifest
from hmr_skel.device import resolve_device
from hmr_skel.evaluate.benchmarks import BENCHMARKS
from hmr_skel.evaluate.ground_truth import GroundTruth, model_file
from hmr_skel.evaluate.images import Crop, CropReader, Intrinsics
from hmr_skel.evaluate.labels import BenchmarkRows
from hmr_skel.evaluate.run import Method, evaluate_methods
from hmr_skel.evaluate.summary import sequences_of, summarise
from hmr_skel.evaluate.tables import rows_table, write_rows
from hmr_skel.model.camera import CropGeometry
from hmr_skel.model.decoder import Estimate
from hmr_skel.model.network import Prediction
from hmr_skel.model.pose_rep import q_to_rep

EVALUATE = """\
Time all that an evaluation does beside reading images and running the network: the truth's meshes, posing the coarse
and the final estimate, MPJPE, PA-MPJPE, PVE and PA-PVE, limits, intervals, and the file of rows, on made-up bodies."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("evaluate", EVALUATE, "device")
    add_number(parser, "--rows", int, 1, default=10_000, help="made-up rows (default: %(default)s)")
    parser.set_defaults(run=run_evaluate)
    return run(parser, argv)


def run_evaluate(args: argparse.Namespace) -> None:
    """Measure and print."""
    device = resolve_device(args.device)
    with Bars(args.quiet) as bars:
        done = 0

        def step(rows: int) -> None:
            nonlocal done
            done += rows
            bars("rows", done, args.rows)

        report = bench_metrics(args.rows, _open_models(args), device, step)
    report |= {"device": str(device), "machine": machine(device)}
    show(args, _text(report), report)


def bench_metrics(
    rows: int, body_models: Path, device: torch.device, progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """Evaluate random SKEL bodies (mean, coarse and final) against random SMPL bodies as 3DPW has them.

    Returns as JSON: `rows`, `seconds` by the clock and `cpu_s` of all threads in all, and seconds of the parts:
    `errors_s` (truth, posing of two stages, all metrics), `intervals_s` (means, intervals, limits of three stages) and
    `write_s` (the file of rows).
    """
    benchmark = BENCHMARKS["3dpw"]
    made_up = _rows(rows)
    truth = GroundTruth(benchmark, made_up, body_models, device)
    body = Skel.load(model_file(body_models, SKEL_FILES["male"])).to(device)
    method = _method(device)
    reader, intrinsics = _NoImages(benchmark, Path(), whole=False), Intrinsics("made up", source="label")
    evaluate_methods([method], made_up.take(slice(64)), reader, truth, body, intrinsics)  # what is done once
    start, cpu = time.perf_counter(), _cpu_s()
    found, used = evaluate_methods([method], made_up, reader, truth, body, intrinsics, progress=progress)
    errors = time.perf_counter()
    sequences = sequences_of(made_up.imgname.tolist(), benchmark.sequence)
    for columns in found[0].values():
        summarise(columns, sequences, benchmark.joints.name)
    intervals = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as folder:
        names = made_up.imgname.tolist()
        tables = [
            rows_table("3dpw", "made up", stage, used, names, sequences, columns) for stage, columns in found[0].items()
        ]
        write_rows(Path(folder) / "rows.parquet", tables)
    end = time.perf_counter()
    return {
        "rows": rows,
        "seconds": end - start,
        "cpu_s": _cpu_s() - cpu,
        "errors_s": errors - start,
        "intervals_s": intervals - errors,
        "write_s": end - intervals,
    }


class _NoImages(CropReader):
    """Rows without pictures."""

    def batches(self, rows: BenchmarkRows, size: int, threads: int) -> Iterator[tuple[BenchmarkRows, list[Crop]]]:
        nothing = Crop(np.zeros((3, 256, 256), np.uint8), None, 640, 480)
        for first in range(0, len(rows), size):
            part = rows.take(slice(first, first + size))
            yield part, [nothing] * len(part)


def _rows(count: int) -> BenchmarkRows:
    rng = np.random.default_rng(0)
    side = np.full(count, 300, np.float32)
    return BenchmarkRows(
        row=np.arange(count),
        imgname=np.array([f"imageFiles/walk_{i // 300:03d}/image_{i:05d}.jpg" for i in range(count)], object),
        center=np.tile(np.array([320, 240], np.float32), (count, 1)),
        side=side,
        told_side=side,
        smpl_pose=rng.normal(0, 0.3, (count, 72)).astype(np.float32),
        smpl_betas=rng.normal(0, 1, (count, 10)).astype(np.float32),
        smpl_gender=np.array(["male", "female"], object)[np.arange(count) % 2],
        cam_int=np.tile(np.array([[900, 0, 320], [0, 900, 240], [0, 0, 1]], np.float32), (count, 1, 1)),
    )


def _method(device: torch.device) -> Method:
    """Answers at once, with random bodies."""
    generator = torch.Generator().manual_seed(0)
    mean = _estimate(torch.tensor(HSMR_MEAN_Q)[None], torch.zeros(1, 10), device)

    def predict(images: Tensor, geometry: CropGeometry) -> Prediction:
        count = len(images)
        q = torch.tensor(HSMR_MEAN_Q) + 0.2 * torch.randn(count, 46, generator=generator)
        final = _estimate(q, torch.randn(count, 10, generator=generator), device)
        return Prediction((replace(final, betas=final.betas + 1), final), geometry, True)

    return Method(predict, mean)


def _estimate(q: Tensor, betas: Tensor, device: torch.device) -> Estimate:
    camera = torch.tensor([0.9, 0.0, 0.0]).expand(len(q), 3)
    return Estimate(q_to_rep(q).to(device), betas.to(device), camera.to(device))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _open_models(args: argparse.Namespace) -> Path:
    """The manifest's body models; the open ones are made where they are missing."""
    manifest = load_manifest(args.manifest)
    if manifest.body_models.kind == "open":
        make_missing(manifest, quiet=True)
    return manifest.body_models.path


def _text(report: dict[str, Any]) -> str:
    parts = f"errors {report['errors_s']:.1f}, intervals {report['intervals_s']:.1f}, file {report['write_s']:.1f} s"
    return (
        f"metrics of {report['rows']:,} rows on {report['device']}, {report['machine']['threads']} threads: "
        f"{report['seconds']:.1f} s by the clock ({parts}), {report['cpu_s']:.1f} s of CPU time"
    )
