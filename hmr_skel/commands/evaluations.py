"""Evaluate networks on held-out shards and on benchmarks, and predictions, for `hmr-skel evaluate` and `make ablate`.

Reports are JSON values, printed by `report_text`; their rows become tables in `rows.parquet`.
"""

import argparse
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hmr_skel.body.assets import SKEL_FILES
from hmr_skel.body.open_body.export import is_open_body
from hmr_skel.body.skel import Skel
from hmr_skel.commands.inputs import named_body_models
from hmr_skel.commands.output import progress, table
from hmr_skel.convert.clips import SmplClip
from hmr_skel.convert.fit import Bodies, count_fits
from hmr_skel.data.images import ImageRule
from hmr_skel.data.storage import Place
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import Benchmark, BenchmarkFiles, chosen, legacy_switches
from hmr_skel.evaluate.ground_truth import GroundTruth, joint_names, model_file
from hmr_skel.evaluate.held_out import JOINT_SET, Errors, HeldOut, evaluate_held_out, held_out_sequences, mean_body
from hmr_skel.evaluate.images import CropReader, Intrinsics
from hmr_skel.evaluate.labels import BenchmarkRows, load_rows
from hmr_skel.evaluate.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_S2
from hmr_skel.evaluate.run import Method, evaluate_methods
from hmr_skel.evaluate.score import Columns
from hmr_skel.evaluate.summary import METRIC_NAMES, groups_of, intervals, resampled, sequences_of, summarise
from hmr_skel.evaluate.tables import COST, OurLine, SideBySide, cost_columns, rows_table, swap_lines
from hmr_skel.model.checkpoint import NetworkInfo, load_any_network
from hmr_skel.model.network import Network
from hmr_skel.places import DATA_VARIABLE
from hmr_skel.two_stage import evaluate_predictions, read_predictions

Report = dict[str, Any]
Loaded = tuple[Network, NetworkInfo]
STAGES = ("mean_pose", "coarse", "final")


@dataclass(frozen=True)
class ComparedRows:
    """The rows on which methods are compared."""

    benchmark: str
    """The benchmark's name, or the dataset's folder."""
    joint_set: str
    numbers: np.ndarray
    """int64 [N] in the label file, or in the dataset."""
    names: list[str]
    """The image of each row."""
    sequences: list[str | None]
    """The recording of each row; None: the row is independent."""
    tables: list[pa.Table]
    """A list to which each stage of each method adds a table of the rows."""

    def method(self, name: str, stages: Mapping[str, Columns]) -> Report:
        """The summary of each stage."""
        self.tables.extend(
            rows_table(self.benchmark, name, stage, self.numbers, self.names, self.sequences, columns)
            for stage, columns in stages.items()
            if not stage.startswith("swap_")
        )
        return {stage: summarise(columns, self.sequences, self.joint_set) for stage, columns in stages.items()}

    def networks(
        self, files: Sequence[Path], infos: Sequence[NetworkInfo], found: Sequence[Mapping[str, Columns]]
    ) -> Report:
        """The stages of each network as `networks`, and their means as `mean_pose`, `coarse` and `final`."""
        each: list[Report] = [
            {"file": str(file), "recipe": info.recipe, "step": info.details.get("step"), "coarse": None}
            | self.method(str(file), stages)
            for file, info, stages in zip(files, infos, found, strict=True)
        ]
        return {name: mean_of([one[name] for one in each], self.joint_set) for name in STAGES} | {"networks": each}


def mean_of(errors: Sequence[Mapping | None], joint_set: str) -> Mapping[str, Any] | None:
    """The mean over networks; None if one has no such stage. For a single network, all its values."""
    there = [one for one in errors if one is not None]
    if len(there) < len(errors):
        return None
    if len(there) == 1:
        return there[0]
    metrics = [name for name in METRIC_NAMES if name in there[0]]
    return {name: fmean(one[name] for one in there) for name in metrics} | {"joint_set": joint_set}


def evaluate_on_held_out(
    files: Sequence[Path], data: Place, images: Mapping[str, ImageRule], body_models: Path, device: torch.device,
    tables: list[pa.Table], *, quiet: bool,
) -> tuple[Report, list[Errors], list[str | None]]:  # fmt: skip
    """Evaluate the networks in these files on a dataset's held-out shards. `tables` gets the rows.

    Returns the report, the errors per row of each network, and the recording of each row. Raises `UserError`.
    """
    held_out = HeldOut.open(data, images, body_models, device, quiet)
    loaded = [load_any_network(file, held_out.dataset.gender) for file in files]
    networks = [network.to(device) for network, _ in loaded]
    with progress(quiet, "row", len(held_out.dataset)) as bar:
        errors, left_out = evaluate_held_out(
            networks, mean_body(data), held_out, progress=lambda done: bar.update(done - bar.n)
        )
    names, sequences = held_out_sequences(errors[0], held_out)
    rows = ComparedRows(str(data), JOINT_SET, errors[0]["mean_pose"]["row"].numpy(), names, sequences, tables)
    report: Report = {"dataset": str(data), "joint_set": JOINT_SET, "rows": len(names), "left_out": left_out}
    report["intervals"] = resampled(sequences)
    return report | rows.networks(files, [info for _, info in loaded], errors), errors, sequences


@dataclass(frozen=True)
class OpenBenchmark:
    """A benchmark whose files, except images, are found and read."""

    benchmark: Benchmark
    files: BenchmarkFiles
    rows: BenchmarkRows
    truth: GroundTruth
    crops: CropReader | None
    """Reads the images; None if no network is evaluated."""

    def compared(self, numbers: np.ndarray, tables: list[pa.Table]) -> ComparedRows:
        """The rows with these numbers in the label file."""
        names = self.rows.imgname[numbers].tolist()
        sequences = sequences_of(names, self.benchmark.sequence)
        return ComparedRows(self.benchmark.name, self.benchmark.joints.name, numbers, names, sequences, tables)


class OpenBenchmarks:
    """Benchmarks that are ready to run. `tables` gets the compared rows.

    `names` are as for `chosen`, `args` are those of the command, and `skel_gender` is that of the networks; None if no
    network is evaluated. Raises `UserError` if something is missing, before any work.
    """

    def __init__(self, names: str, args: argparse.Namespace, device: torch.device, skel_gender: str | None) -> None:
        self.args, self.device, self.intrinsics, self.body = args, device, None, None
        self.tables: list[pa.Table] = []
        benchmarks, self.legacy = chosen(names), legacy_switches(args.legacy)
        self.models = named_body_models(args.body_models, quiet=args.quiet)
        if skel_gender is not None:
            self.intrinsics = Intrinsics.choose(args.intrinsics, args.fov, device)
            self.body = Skel.load(model_file(self.models, SKEL_FILES[skel_gender])).to(device)
        self.jobs = {benchmark.name: self._open(benchmark) for benchmark in benchmarks}

    def _open(self, benchmark: Benchmark) -> OpenBenchmark:
        shared = os.environ.get(DATA_VARIABLE)
        files = BenchmarkFiles.find(
            benchmark, self.args.benchmark_data or (Path(shared) / "evaluation" if shared else None)
        )
        rows = load_rows(benchmark, files.labels, self.legacy, cam_int=self.args.intrinsics == "label")
        benchmark, crops = benchmark.with_legacy(self.legacy), None
        truth = GroundTruth(benchmark, rows, self.models, self.device)
        if self.intrinsics is not None:
            self.intrinsics.check(benchmark, rows)
            crops = CropReader(benchmark, files.images, self.intrinsics.fov is not None, self.legacy)
            crops.check(rows)
        return OpenBenchmark(benchmark, files, rows, truth, crops)

    def reports(
        self, files: Sequence[Path], networks: Sequence[Loaded], predictions: Mapping[str, Path]
    ) -> dict[str, Report]:
        """A report for each benchmark: on the networks in `files`, and on predictions, a file of SMPL per benchmark."""
        jobs, clips = self.jobs, {}
        for name, file in predictions.items():
            if name not in jobs:
                raise UserError(f"--predictions {name}=...: that benchmark is not among --benchmark {', '.join(jobs)}.")
            rows = jobs[name].rows
            clips[name] = read_predictions(file, rows, rows.imgname, self.args.smpl_gender)
        models, reports = str(self.models), {}
        if is_open_body(self.models):
            models += " (the open body: the licensed models give other figures)"
        for name, job in jobs.items():
            report = reports[name] = {
                "title": job.benchmark.title,
                "labels": str(job.files.labels),
                "label_rows": len(job.rows),
                "joint_set": job.benchmark.joints.name,
                "body_models": models,
                "legacy": list(job.benchmark.legacy(self.legacy)),
                "intervals": resampled(job.compared(job.rows.row, []).sequences),
                "intrinsics": None if self.intrinsics is None else self.intrinsics.text,
            }
            if networks:
                report |= self._networks(job, files, networks)
            if name in clips:
                report["predictions"] = self._predictions(job, self.args.method or str(predictions[name]), clips[name])
        return reports

    def _networks(self, job: OpenBenchmark, files: Sequence[Path], networks: Sequence[Loaded]) -> Report:
        assert self.intrinsics is not None
        assert self.body is not None
        assert job.crops is not None
        methods = [Method.of(network.to(self.device)) for network, _ in networks]
        with progress(self.args.quiet, "row", len(job.rows), job.benchmark.title) as bar:
            found, rows = evaluate_methods(
                methods, job.rows, job.crops, job.truth, self.body, self.intrinsics, batch_size=self.args.batch,
                progress=bar.update,
            )  # fmt: skip
        report = job.compared(rows, self.tables).networks(files, [info for _, info in networks], found)
        return {"rows": len(rows), "left_out": len(job.rows) - len(rows)} | report

    def _predictions(self, job: OpenBenchmark, method: str, clip: SmplClip) -> Report:
        """Evaluate SMPL predictions before and after conversion to SKEL, and the cost of the conversion."""
        gender, bodies = self.args.gender, Bodies(self.models, self.device)
        with progress(self.args.quiet, "row", count_fits([clip], gender), f"{job.benchmark.title}: conversion") as bar:
            found = evaluate_predictions(clip, job.rows, job.truth, bodies, gender, bar.update)
        rows, names = job.compared(found.rows, self.tables), joint_names(job.benchmark.joints)
        before, after = found.stages["smpl"], found.stages["skel"]
        costs = {metric: after[metric] - before[metric] for metric in METRIC_NAMES if metric in before}
        cost: Report = {metric: values.double().mean().item() for metric, values in costs.items()}
        return {
            "method": method,
            "rows": len(found.rows),
            "left_out": found.left_out,
            **rows.method(method, found.stages),
            "cost": cost | {"ci95": intervals(costs, groups_of(rows.sequences))},
            "moved_mm": {names[i]: float(found.moved_mm[i]) for i in job.benchmark.joints.scored},
            "v2v_mm": found.v2v_mm,
        }


def paper_tables(reports: Mapping[str, Report]) -> list[SideBySide]:
    """The paper's tables that contain the benchmarks, with our lines."""
    found: dict[tuple[str, str], Report] = {}
    swaps = []
    for name, report in reports.items():
        for one in report.get("networks", ()):
            file = one["file"].removesuffix("/network.safetensors")  # name a run by its folder
            found.setdefault(("network", file), {})[name] = one["final"]
            swaps += swap_lines(file, one)
        if (one := report.get("predictions")) is not None:
            found.setdefault(("smpl", f"{one['method']} (SMPL)"), {})[name] = one["smpl"]
            skel = one["skel"] | {COST: one["cost"]["mpjpe_mm"]}
            found.setdefault(("skel", f"{one['method']} + SKEL fit"), {})[name] = skel
    costs = cost_columns(name for name, report in reports.items() if "predictions" in report)
    tables = []
    for paper, kinds, more in (
        (TABLE_1, ("network", "skel"), costs), (TABLE_2, ("network", "smpl", "skel"), ()), (TABLE_3, ("network",), ()),
    ):  # fmt: skip
        benchmarks = {column.benchmark for column in paper.columns}
        lines = [OurLine(name, cells) for (kind, name), cells in found.items() if kind in kinds]
        tables.append(SideBySide(paper, [line for line in lines if benchmarks & line.found.keys()], more))
    return [side for side in (*tables, SideBySide(TABLE_S2, swaps)) if side.ours]


def report_text(report: Report) -> str:
    """A report as text: networks on held-out shards, or networks and predictions on one benchmark."""
    if "dataset" in report:
        lines = [f"{report['dataset']}: {report['rows']:,} held-out rows; mm", f"  joints: {report['joint_set']}"]
    else:
        camera = "" if report["intrinsics"] is None else f"; camera: {report['intrinsics']}"
        lines = [
            f"{report['title']}: {report['label_rows']:,} rows of {report['labels']}",
            f"  joints: {report['joint_set']}",
            f"  bodies: {report['body_models']}; legacy switches: {', '.join(report['legacy']) or 'none'}{camera}",
        ]
    rows: list[Report | str] = []
    networks, stages = report.get("networks", ()), ("mean_pose", "coarse", "final")
    for one in networks:
        name = f"{one['file']} (recipe {one['recipe']}, step {one['step']})"
        rows += _method(name, one, stages, report["left_out"])
    if (one := report.get("predictions")) is not None:
        rows += _method(one["method"], one, ("smpl", "skel"), one["left_out"])
        rows.append(_row("cost of conversion", one["cost"], "+"))
    if len(networks) > 1:
        rows.append(f"  mean of {len(networks)} networks")
        rows += [_row(stage, report[stage]) for stage in stages if report[stage] is not None]
    over = report["intervals"]
    resampled = f"[95 %]: {over['resamples']:,} resamples of {over['groups']:,} {over['of']}"
    last = resampled if over["groups"] > 1 else "no intervals: all rows are from one recording"
    return "\n".join([*lines, table(rows), f"  {last}"])


def _method(name: str, stages: Report, names: Sequence[str], left_out: int) -> list[Report | str]:
    there = [stage for stage in names if stages.get(stage) is not None]
    head = f"  {name}" + (f", {left_out:,} rows left out" if left_out else "")
    return [head, *(_row(stage, stages[stage]) for stage in there), *_limits(stages[there[-1]])]


def _row(name: str, errors: Report, sign: str = "") -> dict[str, str]:
    """Each metric with its interval, by name."""
    cells = {"": f"  {name.replace('_', ' ')}"}
    for metric in (metric for metric in METRIC_NAMES if metric in errors):
        form = f"{sign}.3f" if metric.startswith("pck") else f"{sign}.1f"
        ends = errors.get("ci95", {}).get(metric)
        between = "" if ends is None else f" [{ends[0]:{form}}, {ends[1]:{form}}]"
        cells[METRIC_NAMES[metric]] = f"{errors[metric]:{form}}{between}"
    return cells


def _limits(errors: Report) -> list[str]:
    if (found := errors.get("limits")) is None:
        return []
    hsmr = ", ".join(f"{degrees} deg: {100 * one['share']:.1f} %" for degrees, one in found["hsmr"].items())
    text = f"out of range: {100 * found['rows']:.1f} % of rows, {100 * found['dofs']:.2f} % of {found['bounded_dofs']}"
    text += f" dofs; HSMR's knees and elbows, beyond {hsmr}"
    return textwrap.wrap(text, 120, initial_indent="    ", subsequent_indent="      ")
