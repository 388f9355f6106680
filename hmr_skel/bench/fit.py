"""Measure the fit: rows/s, accuracy, and the speed from label file to Parquet."""

import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

import fitting
from fitting.many import fit_many
from fitting.model import FitModel, prepare
from flows.shard import Builder
from flows.sources import make_missing
from hmr_skel.bench.measures import Judge, machine, peak_memory_mb
from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, model_path
from hmr_skel.body.dofs import limits
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.data.annotations import check_rows, plan_source
from hmr_skel.data.manifest import CAMERAHMR, FIELDS, Manifest, Source, load_manifest
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.rows import SkelParams, SmplParams

Progress = Callable[[str, int, int], object]
"""Called with what is being measured, how much of it is done, and out of how much."""

LIMIT_TOLERANCE_RAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """The rows and bodies for a benchmark of the fit, on the CPU."""

    manifest: Manifest
    """The manifest, with only the source of the rows."""
    config: fitting.FitConfig
    device: torch.device
    labels: str
    """The name of the label file."""
    params: SmplParams
    """All rows that pass the checks and have the most frequent SMPL gender."""
    imgname: list[str]
    smpl_gender: str
    smpl: Smpl
    skel: Skel

    @classmethod
    def open(
        cls, manifest: str, labels: Path | None, rows: int, device: str, work: Path, *, quiet: bool = False
    ) -> "FitInputs":
        """Read the first SMPL label file of a manifest, or instead `labels`, in CameraHMR's format.

        `rows` is the number of rows to fit, and the size of shards is at most this. `work` is a folder for unpacked
        labels. Raises `UserError` if a file is missing or broken, or there is no row to fit or no such device.
        """
        found, loaded = resolve_device(device), load_manifest(manifest)
        source = next((source for source in loaded.sources if source.format == CAMERAHMR), None)
        if labels is not None:
            fields = {column: tuple(keys) for column, keys in FIELDS[CAMERAHMR].items()}
            source = Source(name="bench", format=CAMERAHMR, file=labels, fields=fields)
        if source is None:
            raise UserError(f"{manifest} has no SMPL rows to fit. Expected a source of format {CAMERAHMR!r}.")
        config = fitting.recipe(loaded.recipe)
        gender = "male" if loaded.skel_gender == "best" else loaded.skel_gender
        loaded = replace(
            loaded, name="bench", sources=(source,), held_out_shards=0, skel_gender=gender,
            rows_per_shard=min(rows, config.batch_on(found.type)),
        )  # fmt: skip
        make_missing(loaded, quiet=quiet)
        reader = plan_source(source, work / "cache").open()
        kept, _ = check_rows(reader.read(0, reader.num_rows), source.exclude)
        if not len(kept):
            raise UserError(f"{source.file} has no row that can be fitted.")
        assert kept.smpl_gender is not None  # the format has it
        smpl_gender = Counter(kept.smpl_gender).most_common(1)[0][0]
        kept = kept.take(kept.smpl_gender == smpl_gender)
        return cls(
            manifest=loaded,
            config=config,
            device=found,
            labels=source.file.stem,
            params=kept.smpl_params(),
            imgname=kept.imgname.tolist(),
            smpl_gender=smpl_gender,
            smpl=Smpl.load(model_path(loaded.body_models.path, SMPL_FILES[smpl_gender])),
            skel=Skel.load(model_path(loaded.body_models.path, SKEL_FILES[gender])),
        )

    def spread(self, count: int) -> tuple[SmplParams, str]:
        """`count` rows, evenly spread over the file and always the same, and a description of them."""
        total = len(self.params.betas)
        rows = torch.arange(min(count, total)) * total // min(count, total)
        return self.params[rows], f"{self.labels}: row i*{total}//{len(rows)} for i in 0..{len(rows) - 1}"

    def copies(self) -> tuple[Smpl, Skel]:
        """New bodies for a fit model, which moves them to its device in place."""
        return copy.deepcopy(self.smpl), copy.deepcopy(self.skel)


def bench_fit(
    inputs: FitInputs,
    *,
    rows: int,
    compare_rows: int,
    batch: int | None,
    repeats: int,
    files: Path | None,
    progress: Progress,
) -> tuple[dict[str, Any], FitModel]:
    """Measure the fit: the report as JSON values, and the prepared model.

    Args:
        inputs: rows and bodies.
        rows: number of rows to time; rows repeat if the file has fewer.
        compare_rows: number of rows for the accuracy, evenly spread over the file.
        batch: rows fitted together; None: the recipe's.
        repeats: timed passes over the rows, of which the median counts.
        files: a folder for shards, built from label file to Parquet; None: build none.

    Values that only `make bench` measures are None: arithmetic, the published protocol, the floor, the sweep.
    """
    config = inputs.config if batch is None else replace(inputs.config, batch=batch, gpu_batch=batch)
    timed = inputs.params[torch.arange(rows) % len(inputs.params.betas)]
    model, fitted, fits_per_s, cold = _timed(inputs.copies(), timed, config, inputs.device, repeats, "fit", progress)
    peak_mb = round(peak_memory_mb(inputs.device), 1)  # only of the timed passes
    smpl, skel = inputs.copies()
    dense = without_zeros(smpl), without_zeros(skel)
    fits_per_s_dense = _timed(dense, timed, config, inputs.device, repeats, "fit, dense", progress)[2]
    compared, subset = inputs.spread(compare_rows)
    judged = fit_many(compared, model)
    report = {
        "labels": inputs.labels,
        "rows": rows,
        "distinct_rows": min(len(inputs.params.betas), rows),
        "recipe": inputs.manifest.recipe,
        "device": str(inputs.device),
        "dtype": "float32",  # per vertex; the reduced system is float64
        "batch": fitted.batch,
        "fits_per_s": round(fits_per_s, 2),
        "fits_per_s_dense": round(fits_per_s_dense, 2),
        "fits_per_s_cold": round(cold, 2),
        "end_to_end_rows_per_s": None if files is None else _end_to_end(inputs, rows, files, progress),
        "limit_violations": rows_outside(fitted.skel, config.limits),
        "peak_memory_mb": peak_mb,
        "compare_rows": len(compared.betas),
        "compare_subset": subset,
        **Judge(compared, inputs.smpl, inputs.skel).report(judged.skel),
        **dict.fromkeys(("mflop_per_row", "share_of_peak", "baseline", "speedup", "floor", "sweep")),
        "machine": machine(inputs.device),
    }
    return report, model


Body = TypeVar("Body", Smpl, Skel)


def without_zeros(body: Body) -> Body:
    """A body whose pose correctives are all other than zero, changed in place.

    Most of the open body's are zero, and the fit leaves those out. The licensed bodies' are dense, as far as known.
    """
    body.posedirs[body.posedirs == 0] = 1e-9  # m: moves no vertex by what float32 shows
    return body


def _timed(
    bodies: tuple[Smpl, Skel],
    rows: SmplParams,
    config: fitting.FitConfig,
    device: torch.device,
    repeats: int,
    what: str,
    progress: Progress,
) -> tuple[FitModel, fitting.FitResult, float, float]:
    """The prepared model, the last pass, and rows/s: warm (the median) and cold."""
    count, start = len(rows.betas), time.perf_counter()
    model = prepare(*bodies, config, device=device)
    passes = []
    for number in range(1 + repeats):
        fitted = fit_many(
            rows, model, progress=lambda done, n=number: progress(what, n * count + done, (1 + repeats) * count)
        )
        passes.append(time.perf_counter() - start)
        start = time.perf_counter()
    return model, fitted, count / statistics.median(passes[1:]), count / passes[0]


def rows_outside(skel: SkelParams, table: str) -> int:
    """The number of rows with a dof, except the root's, outside a table of limits."""
    low, high = (torch.from_numpy(bound) for bound in limits(table).T)
    q = skel.q.double()
    return int((torch.maximum(low - q, q - high)[:, 3:] > LIMIT_TOLERANCE_RAD).any(1).sum())


def _end_to_end(inputs: FitInputs, rows: int, out: Path, progress: Progress) -> float:
    """Rows/s from label file to Parquet, in this process, for shards of at most this number of rows."""
    builder = Builder(inputs.manifest, out, str(inputs.device), quiet=True)
    shards = builder.shards[: -(-rows // inputs.manifest.rows_per_shard)]
    total, done = sum(shard.num_rows for shard in shards), 0
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:  # as in the flow, one shard is fitted while another is read or written
        for report in pool.map(lambda shard: builder.build(shard.index, rebuild=True, progress=False), shards):
            done += report.rows
            progress("files", done, total)
    return round(done / (time.perf_counter() - start), 2)
