"""The benchmarks of `hmr-skel evaluate`: networks and others' predictions on each, and the paper's tables with ours."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from hmr_skel.body.files import SKEL_FILES
from hmr_skel.body.skel import Skel
from hmr_skel.commands.body_models import required_body_models
from hmr_skel.commands.evaluate_held_out import mean_of
from hmr_skel.convert.clips import SmplClip
from hmr_skel.convert.fit import Bodies, count_fits
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import FOLDER_VARIABLE, MOYO_24, Benchmark, BenchmarkFiles, chosen, legacy_switches
from hmr_skel.evaluate.ground_truth import GroundTruth, joint_names, model_file
from hmr_skel.evaluate.images import CropReader, Intrinsics
from hmr_skel.evaluate.labels import BenchmarkRows, evenly, load_rows
from hmr_skel.evaluate.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_S2, PaperTable
from hmr_skel.evaluate.run import Method, evaluate_methods
from hmr_skel.evaluate.score import Columns
from hmr_skel.evaluate.summary import METRIC_NAMES, groups_of, intervals, resampled, sequences_of, summarise
from hmr_skel.evaluate.tables import COST, OurLine, SideBySide, cost_columns, rows_table, swap_lines
from hmr_skel.model.checkpoint import NetworkInfo
from hmr_skel.model.network import Network
from hmr_skel.two_stage import evaluate_predictions, read_predictions


@dataclass(frozen=True)
class OpenBenchmarks:
    """Benchmarks whose files were found and read, images apart, and what networks need on them."""

    jobs: Sequence["_Job"]
    models: Path
    network_needs: tuple[Intrinsics, Skel] | None
    """None: no network is to be evaluated."""


def open_benchmarks(
    names: str, args: argparse.Namespace, device: torch.device, skel_gender: str | None
) -> OpenBenchmarks:
    """Open them. Raises `UserError` for whatever is missing, so that it shows before any work.

    Args:
        names: of the benchmarks, as `chosen` takes them.
        args: of the command.
        device: for all of it.
        skel_gender: of the networks that are to be evaluated; None: none is.
    """
    benchmarks = chosen(names)
    legacy = legacy_switches(args.legacy)
    if len(benchmarks) > 1 and (args.labels is not None or args.images is not None):
        raise UserError("--labels and --images are for one benchmark; name one, or put files below --benchmark-data.")
    models = required_body_models(args.body_models, quiet=args.quiet)
    needs = None
    if skel_gender is not None:
        intrinsics = Intrinsics.choose(args.intrinsics, args.fov, device)
        needs = intrinsics, Skel.load(model_file(models, SKEL_FILES[skel_gender])).to(device)
    # A switch that changes nothing here is not to be named as if it had.
    idle = {"aliased-crop", "moyo-box"} if needs is None else set()
    idle |= {"bgr-focal"} if needs is None or needs[0].fov is None else set()
    legacy = tuple(switch for switch in legacy if switch not in idle)
    jobs = [_Job.open(benchmark, args, legacy, models, device) for benchmark in benchmarks]
    if needs is not None:
        for job in jobs:
            needs[0].check(job.benchmark, job.rows)
            job.reader(needs[0]).check(job.rows)
    return OpenBenchmarks(jobs, models, needs)


def benchmark_reports(
    opened: OpenBenchmarks,
    files: Sequence[Path],
    networks: Sequence[tuple[Network, NetworkInfo]],
    predictions: Mapping[str, Path],
    args: argparse.Namespace,
    device: torch.device,
) -> tuple[dict[str, dict[str, Any]], list[pa.Table]]:
    """A report per benchmark, and the rows of all.

    Args:
        opened: the benchmarks.
        files: of the networks, for their names.
        networks: of the gender that the benchmarks were opened for; none where they were opened for none.
        predictions: a file of SMPL by benchmark.
        args: of the command.
        device: for all of it.
    """
    jobs = opened.jobs
    unused = [name for name in predictions if name not in [job.benchmark.name for job in jobs]]
    if unused:
        among = ", ".join(job.benchmark.name for job in jobs)
        raise UserError(f"--predictions {unused[0]}=...: that benchmark is not among --benchmark {among}.")
    clips = {
        job.benchmark.name: read_predictions(predictions[job.benchmark.name], job.rows, job.names, args.smpl_gender)
        for job in jobs
        if job.benchmark.name in predictions
    }
    reports, tables = {}, []
    for job in jobs:
        report = job.about() | {"intrinsics": None}
        if opened.network_needs is not None:
            intrinsics, body = opened.network_needs
            report["intrinsics"] = intrinsics.text
            methods = [Method.of(network.to(device)) for network, _ in networks]
            with _bar(len(job.rows), f"{job.benchmark.title}", args.quiet) as bar:
                found, rows = evaluate_methods(
                    methods, job.rows, job.reader(intrinsics), job.truth, body, intrinsics,
                    batch_size=args.batch, progress=bar.update,
                )  # fmt: skip
            report |= {"rows": len(rows), "left_out": len(job.rows) - len(rows)}
            each: list[dict[str, Any]] = []
            for file, (_, info), stages in zip(files, networks, found, strict=True):
                summary, more = job.summaries(str(file), rows, stages)
                tables += more
                each.append({"file": str(file), "recipe": info.recipe, "step": info.details.get("step")} | summary)
            joint_set = job.benchmark.joints.name
            report |= {
                stage: mean_of([one.get(stage) for one in each], joint_set)
                for stage in ("mean_pose", "coarse", "final")
            } | {"networks": each}
        if (clip := clips.get(job.benchmark.name)) is not None:
            method = args.method or str(predictions[job.benchmark.name])
            report["predictions"], more = _predictions(method, clip, job, args, Bodies(opened.models, device))
            report["predictions"]["file"] = str(predictions[job.benchmark.name])
            tables += more
        reports[job.benchmark.name] = report
    return reports, tables


class _Job:
    """One benchmark, opened."""

    def __init__(self, benchmark: Benchmark, files: BenchmarkFiles, rows: BenchmarkRows, names: np.ndarray) -> None:
        self.benchmark, self.files, self.rows = benchmark, files, rows
        self.names = names  # the images of all rows of the label file
        self.legacy: tuple[str, ...] = ()
        self.truth: GroundTruth
        self.models: Path

    @classmethod
    def open(
        cls, benchmark: Benchmark, args: argparse.Namespace, legacy: tuple[str, ...], models: Path, device: torch.device
    ) -> "_Job":
        shared = os.environ.get(FOLDER_VARIABLE)
        folder = args.benchmark_data or (Path(shared) / "evaluation" if shared else None)
        files = BenchmarkFiles.find(benchmark, folder, args.labels, args.images)
        rows = load_rows(benchmark, files.labels, legacy, cam_int=args.intrinsics == "label")
        job = cls(benchmark.with_legacy(legacy), files, rows.take(evenly(len(rows), args.limit)), rows.imgname)
        job.legacy, job.models = benchmark.legacy(legacy), models
        job.truth = GroundTruth(job.benchmark, job.rows, models, device)
        return job

    def reader(self, intrinsics: Intrinsics) -> CropReader:
        return CropReader(self.benchmark, self.files.images, intrinsics.fov is not None, self.legacy)

    def about(self) -> dict[str, Any]:
        return {
            "title": self.benchmark.title,
            "labels": str(self.files.labels),
            "label_rows": len(self.names),
            "chosen_rows": len(self.rows),
            "joint_set": self.benchmark.joints.name,
            "body_models": _models_text(self.models),
            "legacy": list(self.legacy),
            "intervals": resampled(self.sequences(self.rows)),
        }

    def sequences(self, rows: BenchmarkRows) -> list[str | None]:
        return sequences_of(rows.imgname.tolist(), self.benchmark.sequence)

    def summaries(
        self, method: str, rows: np.ndarray, stages: Mapping[str, Columns]
    ) -> tuple[dict[str, dict[str, Any]], list[pa.Table]]:
        """Of a method's stages on the rows with these numbers: their reports, and their rows for a file."""
        some = self.of(rows)
        sequences = self.sequences(some)
        found = {name: summarise(columns, sequences, self.benchmark.joints.name) for name, columns in stages.items()}
        return found, [
            rows_table(self.benchmark.name, method, name, rows, some.imgname.tolist(), sequences, columns)
            for name, columns in stages.items()
            if not name.startswith("swap_")
        ]

    def of(self, rows: np.ndarray) -> BenchmarkRows:
        """The rows with these numbers in the label file."""
        place = {int(row): i for i, row in enumerate(self.rows.row)}
        return self.rows.take(np.array([place[int(row)] for row in rows], np.int64))


def _predictions(
    method: str, clip: SmplClip, job: _Job, args: argparse.Namespace, bodies: Bodies
) -> tuple[dict[str, Any], list[pa.Table]]:
    """The report of converted predictions, and their rows."""
    with _bar(count_fits([clip], args.gender), f"{job.benchmark.title}: conversion", args.quiet) as bar:
        found = evaluate_predictions(clip, job.rows, job.truth, bodies, args.gender, bar.update)
    summary, tables = job.summaries(method, found.rows, found.stages)
    costs = {
        metric: found.stages["skel"][metric] - found.stages["smpl"][metric]
        for metric in METRIC_NAMES
        if metric in found.stages["smpl"]
    }
    ends = intervals(costs, groups_of(job.sequences(job.of(found.rows))))
    names = joint_names(job.benchmark.joints)
    return {
        "method": method,
        "rows": len(found.rows),
        "left_out": found.left_out,
        **summary,
        "cost": {metric: values.double().mean().item() for metric, values in costs.items()}
        | {"ci95": {metric: list(end) for metric, end in ends.items()}},
        "moved_mm": {names[i]: float(found.moved_mm[i]) for i in job.benchmark.joints.scored},
        "v2v_mm": found.v2v_mm,
    }, tables


def paper_tables(reports: Mapping[str, Mapping[str, Any]]) -> list[SideBySide]:
    """Tables 1 to 3 and S2, as far as the benchmarks that were run are in them, with our lines."""
    networks: dict[str, dict[str, Any]] = {}
    smpl: dict[str, dict[str, Any]] = {}
    skel: dict[str, dict[str, Any]] = {}
    for name, report in reports.items():
        for one in report.get("networks", ()):
            networks.setdefault(_short(one["file"]), {})[name] = one["final"]
        if (one := report.get("predictions")) is not None:
            smpl.setdefault(one["method"], {})[name] = one["smpl"]
            skel.setdefault(one["method"], {})[name] = one["skel"] | {COST: one["cost"]["mpjpe_mm"]}
    costs = cost_columns(dict.fromkeys(name for found in skel.values() for name in found))
    lines = [OurLine(file, found) for file, found in networks.items()]
    fitted = [OurLine(f"{file} + SKEL fit", found) for file, found in skel.items()]
    before = [OurLine(f"{file} (SMPL)", found) for file, found in smpl.items()]
    wanted = [(TABLE_1, lines + fitted), (TABLE_2, lines + before + fitted), (TABLE_3, lines)]
    tables = [
        SideBySide(
            table,
            [line for line in ours if _in(line.found, table)],
            costs if table is TABLE_1 else (),
            _notes(reports, table),
        )
        for table, ours in wanted
    ]
    coco = reports.get("coco", {}).get("networks", ())
    tables.append(
        SideBySide(
            TABLE_S2,
            [line for one in coco for line in swap_lines(_short(one["file"]), _swaps(one))],
            (),
            _notes(reports, TABLE_3),
        )
    )
    return [table for table in tables if table.ours]


def _swaps(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Those of Table S2."""
    return {name: stage for name, stage in stages.items() if name.startswith("swap_")}


def _in(found: Mapping[str, Any], table: PaperTable) -> bool:
    return any(column.benchmark in found for column in table.columns)


def _notes(reports: Mapping[str, Mapping[str, Any]], table: PaperTable) -> tuple[str, ...]:
    """What our figures in a table were made with, benchmarks of the same conditions together."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(column.benchmark for column in table.columns):
        if (report := reports.get(name)) is None:
            continue
        camera = "" if report["intrinsics"] is None else f"; camera: {report['intrinsics']}"
        legacy = ", ".join(report["legacy"]) or "none"
        text = f"bodies: {report['body_models']}{camera}; legacy switches: {legacy}"
        some = report["chosen_rows"] < report["label_rows"]
        rows = f" ({report['chosen_rows']:,} of {report['label_rows']:,} rows)" if some else ""
        alike.setdefault(text, []).append(f"{report['title']}{rows}")
    notes = [f"ours on {', '.join(titles)}: {text}" for text, titles in alike.items()]
    predicted = [report for report in reports.values() if "predictions" in report]
    if any(report["joint_set"] == MOYO_24.name for report in predicted) and table is TABLE_2:
        notes.append(
            "ours on MOYO: joints of every prediction, SMPL's too, are J_regressor_SMPL_MALE's, against SMPL's own of "
            "the label, so that not even the label's body gives 0"
        )
    return tuple(notes)


def _models_text(models: Path) -> str:
    notice = models / "NOTICE"
    is_open = notice.is_file() and "open body" in notice.read_text(errors="replace")[:200]
    return f"{models}" + (" (the open body: figures say nothing of the licensed models)" if is_open else "")


def _short(file: str) -> str:
    """A run's folder in place of the network in it."""
    return file.removesuffix("/network.safetensors")


def _bar(total: int | None, what: str, quiet: bool) -> tqdm:
    return tqdm(total=total, desc=what, unit="row", leave=False, disable=True if quiet else None)
