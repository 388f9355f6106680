"""What `hmr-skel evaluate` and `ablate` measure: networks on held-out shards and benchmarks, predictions of others.

Report are JSON values; the rows behind them are tables for `rows.parquet`.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hmr_skel.body.assets import SKEL_FILES
from hmr_skel.body.skel import Skel
from hmr_skel.commands.inputs import required_body_models
from hmr_skel.commands.output import progress
from hmr_skel.convert.fit import Bodies, count_fits
from hmr_skel.data.images import ImageRule
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import FOLDER_VARIABLE, MOYO_24, Benchmark, BenchmarkFiles, chosen, legacy_switches
from hmr_skel.evaluate.ground_truth import GroundTruth, joint_names, model_file
from hmr_skel.evaluate.held_out import (
    JOINT_SET,
    Errors,
    HeldOut,
    evaluate_held_out,
    held_out_sequences,
    mean_body,
)
from hmr_skel.evaluate.images import CropReader, Intrinsics
from hmr_skel.evaluate.labels import BenchmarkRows, evenly, load_rows
from hmr_skel.evaluate.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_S2, PaperTable
from hmr_skel.evaluate.run import Method, evaluate_methods
from hmr_skel.evaluate.score import Columns
from hmr_skel.evaluate.summary import METRIC_NAMES, groups_of, intervals, resampled, sequences_of, summarise
from hmr_skel.evaluate.tables import COST, OurLine, SideBySide, cost_columns, rows_table, swap_lines
from hmr_skel.model.checkpoint import NetworkInfo, load_any_network
from hmr_skel.model.network import Network
from hmr_skel.two_stage import evaluate_predictions, read_predictions

Report = dict[str, Any]


@dataclass(frozen=True)
class ComparedRows:
    """Rows that methods are compared on: from errors row by row to reports, and to tables for `rows.parquet`."""

    benchmark: str
    """Its name, or the dataset's folder."""
    joint_set: str
    numbers: np.ndarray
    """int64 [N] in the label file, or in the dataset."""
    names: list[str]
    """The image of each row."""
    sequences: list[str | None]
    """The recording of each row; None: the row stands for itself."""

    def method(self, name: str, stages: Mapping[str, Columns]) -> tuple[Report, list[pa.Table]]:
        """The summary of each stage, and its rows."""
        return {stage: summarise(columns, self.sequences, self.joint_set) for stage, columns in stages.items()}, [
            rows_table(self.benchmark, name, stage, self.numbers, self.names, self.sequences, columns)
            for stage, columns in stages.items()
            if not stage.startswith("swap_")
        ]

    def networks(
        self, files: Sequence[Path], infos: Sequence[NetworkInfo], found: Sequence[Mapping[str, Columns]]
    ) -> tuple[Report, list[pa.Table]]:
        """Each network's stages as `networks`, the means over networks as `mean_pose`, `coarse` and `final`."""
        each, tables = [], []
        for file, info, stages in zip(files, infos, found, strict=True):
            summary, rows = self.method(str(file), stages)
            tables += rows
            about = {"file": str(file), "recipe": info.recipe, "step": info.details.get("step"), "coarse": None}
            each.append(about | summary)
        means = {
            name: mean_of([one[name] for one in each], self.joint_set) for name in ("mean_pose", "coarse", "final")
        }
        return means | {"networks": each}, tables


def mean_of(errors: Sequence[Mapping | None], joint_set: str) -> Mapping[str, Any] | None:
    """Over networks; None where one of them has no such stage. Of a single network, all that is known of it."""
    there = [one for one in errors if one is not None]
    if len(there) < len(errors):
        return None
    if len(there) == 1:
        return there[0]
    metrics = [name for name in METRIC_NAMES if name in there[0]]
    return {name: fmean(one[name] for one in there) for name in metrics} | {"joint_set": joint_set}


@dataclass(frozen=True)
class HeldOutResult:
    """What networks reach on a dataset's held-out shards."""

    report: Report
    tables: list[pa.Table]
    errors: list[Errors]
    """Of each network, row by row."""
    sequences: list[str | None]
    """The recording of each row."""


def evaluate_on_held_out(
    files: Sequence[Path], data: Place, images: Mapping[str, ImageRule], body_models: Path, device: torch.device, *,
    quiet: bool,
) -> HeldOutResult:  # fmt: skip
    """Evaluate the networks in these files. Raises `UserError` for whatever is missing."""
    held_out = HeldOut.open(data, images, body_models, device, quiet)
    loaded = [load_any_network(file, held_out.dataset.gender) for file in files]
    networks = [network.to(device) for network, _ in loaded]
    with progress(quiet, "row", len(held_out.dataset)) as bar:
        errors, left_out = evaluate_held_out(
            networks, mean_body(data), held_out, progress=lambda done: bar.update(done - bar.n)
        )
    names, sequences = held_out_sequences(errors[0], held_out)
    rows = ComparedRows(str(data), JOINT_SET, errors[0]["mean_pose"]["row"].numpy(), names, sequences)
    about = {"dataset": str(data), "rows": len(names), "left_out": left_out, "intervals": resampled(sequences)}
    found, tables = rows.networks(files, [info for _, info in loaded], errors)
    return HeldOutResult(about | found, tables, errors, sequences)


@dataclass(frozen=True)
class OpenBenchmark:
    """One benchmark whose files were found and read, images apart."""

    benchmark: Benchmark
    files: BenchmarkFiles
    legacy: tuple[str, ...]
    """The published mistakes that are repeated in it."""
    names: np.ndarray
    """The images of all rows of the label file."""
    rows: BenchmarkRows
    """The chosen ones."""
    truth: GroundTruth

    def crops(self, intrinsics: Intrinsics) -> CropReader:
        """What reads the images."""
        return CropReader(self.benchmark, self.files.images, intrinsics.fov is not None, self.legacy)

    def compared(self, numbers: np.ndarray) -> ComparedRows:
        """The rows with these numbers in the label file."""
        place = {int(number): i for i, number in enumerate(self.rows.row)}
        names = self.rows.imgname[[place[int(number)] for number in numbers]].tolist()
        sequences = sequences_of(names, self.benchmark.sequence)
        return ComparedRows(self.benchmark.name, self.benchmark.joints.name, numbers, names, sequences)


class OpenBenchmarks:
    """Benchmarks that are ready to be run, and what networks need on them.

    Args:
        names: of the benchmarks, as `chosen` takes them.
        args: of the command.
        device: for all of it.
        skel_gender: of the networks that are to be evaluated; None: none is.

    Raises:
        UserError: for whatever is missing, so that it shows before any work.
    """

    def __init__(self, names: str, args: argparse.Namespace, device: torch.device, skel_gender: str | None) -> None:
        self.args, self.device = args, device
        benchmarks = chosen(names)
        legacy = legacy_switches(args.legacy)
        if len(benchmarks) > 1 and (args.labels is not None or args.images is not None):
            raise UserError(
                "--labels and --images are for one benchmark; name one, or put files below --benchmark-data."
            )
        self.models = required_body_models(args.body_models, quiet=args.quiet)
        self.intrinsics, self.body = None, None
        idle = {"aliased-crop", "moyo-box", "bgr-focal"}  # a switch that changes nothing here is not to be named
        if skel_gender is not None:
            self.intrinsics = Intrinsics.choose(args.intrinsics, args.fov, device)
            self.body = Skel.load(model_file(self.models, SKEL_FILES[skel_gender])).to(device)
            idle = {"bgr-focal"} if self.intrinsics.fov is None else set()
        legacy = tuple(switch for switch in legacy if switch not in idle)
        self.jobs = [self._open(benchmark, legacy) for benchmark in benchmarks]
        if self.intrinsics is not None:
            for job in self.jobs:
                self.intrinsics.check(job.benchmark, job.rows)
                job.crops(self.intrinsics).check(job.rows)

    def _open(self, benchmark: Benchmark, legacy: tuple[str, ...]) -> OpenBenchmark:
        args, shared = self.args, os.environ.get(FOLDER_VARIABLE)
        folder = args.benchmark_data or (Path(shared) / "evaluation" if shared else None)
        files = BenchmarkFiles.find(benchmark, folder, args.labels, args.images)
        rows = load_rows(benchmark, files.labels, legacy, cam_int=args.intrinsics == "label")
        some, changed = rows.take(evenly(len(rows), args.limit)), benchmark.with_legacy(legacy)
        truth = GroundTruth(changed, some, self.models, self.device)
        return OpenBenchmark(changed, files, benchmark.legacy(legacy), rows.imgname, some, truth)

    def reports(
        self,
        files: Sequence[Path],
        networks: Sequence[tuple[Network, NetworkInfo]],
        predictions: Mapping[str, Path],
    ) -> tuple[dict[str, Report], list[pa.Table]]:
        """A report for each benchmark, and the rows of all.

        Args:
            files: of the networks, for their names.
            networks: of the gender that the benchmarks were opened for; none where they were opened for none.
            predictions: a file of SMPL by benchmark.
        """
        known = [job.benchmark.name for job in self.jobs]
        for name in predictions:
            if name not in known:
                among = ", ".join(known)
                raise UserError(f"--predictions {name}=...: that benchmark is not among --benchmark {among}.")
        clips = {
            job.benchmark.name: read_predictions(
                predictions[job.benchmark.name], job.rows, job.names, self.args.smpl_gender
            )
            for job in self.jobs
            if job.benchmark.name in predictions
        }
        reports, tables = {}, []
        for job in self.jobs:
            report: Report = {
                "title": job.benchmark.title,
                "labels": str(job.files.labels),
                "label_rows": len(job.names),
                "chosen_rows": len(job.rows),
                "joint_set": job.benchmark.joints.name,
                "body_models": _models_text(self.models),
                "legacy": list(job.legacy),
                "intervals": resampled(job.compared(job.rows.row).sequences),
                "intrinsics": None if self.intrinsics is None else self.intrinsics.text,
            }
            if self.intrinsics is not None:
                more, rows = self._networks(job, files, networks)
                report, tables = report | more, tables + rows
            if job.benchmark.name in clips:
                file = predictions[job.benchmark.name]
                report["predictions"], rows = self._predictions(job, file, clips[job.benchmark.name])
                tables += rows
            reports[job.benchmark.name] = report
        return reports, tables

    def _networks(
        self, job: OpenBenchmark, files: Sequence[Path], networks: Sequence[tuple[Network, NetworkInfo]]
    ) -> tuple[Report, list[pa.Table]]:
        assert self.intrinsics is not None
        assert self.body is not None
        methods = [Method.of(network.to(self.device)) for network, _ in networks]
        with progress(self.args.quiet, "row", len(job.rows), job.benchmark.title) as bar:
            found, rows = evaluate_methods(
                methods, job.rows, job.crops(self.intrinsics), job.truth, self.body, self.intrinsics,
                batch_size=self.args.batch, progress=bar.update,
            )  # fmt: skip
        report, tables = job.compared(rows).networks(files, [info for _, info in networks], found)
        return {"rows": len(rows), "left_out": len(job.rows) - len(rows)} | report, tables

    def _predictions(self, job: OpenBenchmark, file: Path, clip) -> tuple[Report, list[pa.Table]]:
        """SMPL of others before and after its conversion to SKEL, and what that costs."""
        gender, bodies = self.args.gender, Bodies(self.models, self.device)
        method = self.args.method or str(file)
        with progress(self.args.quiet, "row", count_fits([clip], gender), f"{job.benchmark.title}: conversion") as bar:
            found = evaluate_predictions(clip, job.rows, job.truth, bodies, gender, bar.update)
        rows = job.compared(found.rows)
        summary, tables = rows.method(method, found.stages)
        before, after = found.stages["smpl"], found.stages["skel"]
        costs = {metric: after[metric] - before[metric] for metric in METRIC_NAMES if metric in before}
        ends = intervals(costs, groups_of(rows.sequences))
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
            "file": str(file),
        }, tables


def paper_tables(reports: Mapping[str, Report]) -> list[SideBySide]:
    """Tables 1 to 3 and S2, as far as the benchmarks that were run are in them, with our lines."""
    networks: dict[str, Report] = {}
    smpl: dict[str, Report] = {}
    skel: dict[str, Report] = {}
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
    tables = []
    for table, ours, more in (
        (TABLE_1, lines + fitted, costs),
        (TABLE_2, lines + before + fitted, ()),
        (TABLE_3, lines, ()),
    ):
        benchmarks = {column.benchmark for column in table.columns}
        there = [line for line in ours if benchmarks & line.found.keys()]
        tables.append(SideBySide(table, there, more, _notes(reports, table)))
    coco = reports.get("coco", {}).get("networks", ())
    swaps = []
    for one in coco:
        stages = {name: stage for name, stage in one.items() if name.startswith("swap_")}
        swaps += swap_lines(_short(one["file"]), stages)
    tables.append(SideBySide(TABLE_S2, swaps, (), _notes(reports, TABLE_3)))
    return [table for table in tables if table.ours]


def _notes(reports: Mapping[str, Report], table: PaperTable) -> tuple[str, ...]:
    """What our figures in a table were made with, benchmarks of the same conditions together."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(column.benchmark for column in table.columns):
        if (report := reports.get(name)) is None:
            continue
        camera = "" if report["intrinsics"] is None else f"; camera: {report['intrinsics']}"
        text = f"bodies: {report['body_models']}{camera}; legacy switches: {', '.join(report['legacy']) or 'none'}"
        some = report["chosen_rows"] < report["label_rows"]
        rows = f" ({report['chosen_rows']:,} of {report['label_rows']:,} rows)" if some else ""
        alike.setdefault(text, []).append(f"{report['title']}{rows}")
    notes = [f"ours on {', '.join(titles)}: {text}" for text, titles in alike.items()]
    predicted = [report for report in reports.values() if "predictions" in report]
    if table is TABLE_2 and any(report["joint_set"] == MOYO_24.name for report in predicted):
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
