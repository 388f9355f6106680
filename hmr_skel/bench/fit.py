"""The benchmark of the fit: rows/s, accuracy, and the whole way from a label file to Parquet."""

import copy
import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fitting
from fitting.fit import Status
from fitting.many import fit_many
from fitting.model import FitModel, prepare
from flows.shard import Builder
from flows.sources import make_missing, model_file
from hmr_skel.bench.measures import Judge, machine, peak_memory_mb, statistics_of
from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES
from hmr_skel.body.dofs import limits
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.data.annotations import open_source
from hmr_skel.data.checks import check_rows
from hmr_skel.data.manifest import CAMERAHMR, FIELDS, Manifest, Source, load_manifest
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows, SkelParams, SmplParams

Progress = Callable[[str, int, int], object]
"""Called with what is being measured, how much of it is done, and out of how much."""

LIMIT_TOLERANCE_RAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """Rows and bodies that a benchmark of the fit starts from, on the CPU."""

    manifest: Manifest
    config: fitting.FitConfig
    device: torch.device
    labels: str
    """The label file's name, or several with + between."""
    params: SmplParams
    """All good rows of one SMPL gender."""
    imgname: list[str]
    smpl_gender: str
    left_out: int
    """Rows that the checks reject, or of another SMPL gender than most."""
    smpl: Smpl
    skel: Skel

    @classmethod
    def open(
        cls, manifest: str, labels: Path | None, rows: int, device: str, work: Path, *, quiet: bool = False
    ) -> "FitInputs":
        """Read a manifest's SMPL sources, or one CameraHMR-format file in their place.

        Args:
            manifest: its file.
            labels: the file in place of its sources.
            rows: how many will be fitted; shards are at most this large.
            device: as users name it.
            work: a folder for what is unpacked.
            quiet: do not say what is made on the way.

        Raises:
            UserError: a file is missing or broken, there is no row to fit, or no such device.
        """
        found, loaded = resolve_device(device), load_manifest(manifest)
        sources = loaded.sources
        if labels is not None:
            fields = {column: tuple(keys) for column, keys in FIELDS[CAMERAHMR].items()}
            sources = (Source(name="bench", format=CAMERAHMR, file=labels, fields=fields),)
        gender = "male" if loaded.skel_gender == "best" else loaded.skel_gender
        loaded = replace(
            loaded, name="bench", sources=sources, rows_per_shard=min(rows, 2048), held_out_shards=0, skel_gender=gender
        )
        make_missing(loaded, quiet=quiet)
        read = _read(loaded, work / "cache")
        return cls(
            manifest=loaded,
            config=fitting.recipe(loaded.recipe),
            device=found,
            smpl=Smpl.load(model_file(loaded.body_models, SMPL_FILES[read["smpl_gender"]])),
            skel=Skel.load(model_file(loaded.body_models, SKEL_FILES[gender])),
            **read,
        )

    def spread(self, count: int) -> tuple[SmplParams, str]:
        """So many rows spread evenly over the file, always the same, and which they are."""
        total = len(self.params.betas)
        rows = torch.arange(min(count, total)) * total // min(count, total)
        return self.params[rows], f"{self.labels}: row i*{total}//{len(rows)} for i in 0..{len(rows) - 1}"

    def copies(self) -> tuple[Smpl, Skel]:
        """Bodies for a model of the fit. They move to its device in place, so each model takes its own."""
        return copy.deepcopy(self.smpl), copy.deepcopy(self.skel)


def _read(manifest: Manifest, cache_dir: Path) -> dict[str, Any]:
    sources = [source for source in manifest.sources if source.format == CAMERAHMR]
    readers = [open_source(source, cache_dir) for source in sources]
    checked = [
        check_rows(reader.read(0, reader.num_rows), source.exclude)
        for source, reader in zip(sources, readers, strict=True)
    ]
    genders = Counter(gender for kept, _ in checked for gender in _genders(kept))
    if not genders:
        raise UserError(f"manifest {manifest.name!r} has no rows of SMPL to fit. Expected a source of {CAMERAHMR!r}.")
    gender = genders.most_common(1)[0][0]
    chosen = [kept.take(_genders(kept) == gender) for kept, _ in checked]
    params = [rows.smpl_params() for rows in chosen]
    names = ("global_orient", "body_pose", "betas", "transl")
    return {
        "labels": "+".join(source.file.stem for source in sources),
        "params": SmplParams(**{name: torch.cat([getattr(one, name) for one in params]) for name in names}),
        "imgname": [image for rows in chosen for image in rows.imgname.tolist()],
        "smpl_gender": gender,
        "left_out": sum(len(rejects) for _, rejects in checked) + genders.total() - genders[gender],
    }


def _genders(rows: AnnotationRows) -> np.ndarray:
    assert rows.smpl_gender is not None  # the format has them
    return rows.smpl_gender


def bench_fit(
    inputs: FitInputs,
    *,
    rows: int,
    compare_rows: int,
    batch: int | None = None,
    repeats: int = 3,
    files: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[dict[str, Any], FitModel]:
    """Measure the fit: the report as JSON values, and the prepared model.

    Args:
        inputs: rows and bodies.
        rows: to time; rows of the file are taken again where it has fewer.
        compare_rows: whose accuracy is measured, spread evenly over the file.
        batch: rows fitted together; None: the recipe's.
        repeats: warm passes over the rows; the median counts.
        files: a folder for shards, which are built from label file to Parquet; None: without.
        progress: told how far it is.

    What only `make bench` measures is None in the report (arithmetic, the published protocol, the floor); its sweep is
    empty.
    """
    config = inputs.config if batch is None else replace(inputs.config, batch=batch, gpu_batch=batch)
    if inputs.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(inputs.device)
    count = len(inputs.params.betas)
    timed = inputs.params[torch.arange(rows) % count]
    start = time.perf_counter()
    model = prepare(*inputs.copies(), config, device=inputs.device)
    prepare_s, passes = time.perf_counter() - start, []
    for number in range(1 + repeats):
        gc.collect()
        start = time.perf_counter()
        done = number * rows
        fitted = fit_many(
            timed, model, progress=lambda more, done=done: progress("fit", done + more, (1 + repeats) * rows)
        )
        passes.append(time.perf_counter() - start)
    peak_mb = round(peak_memory_mb(inputs.device), 1)  # of the timed passes: what follows is not the fit alone
    outside, bounded = outside_limits(fitted.skel, config.limits)
    compared, subset = inputs.spread(compare_rows)
    judged = fit_many(compared, model)
    built = None if files is None else _end_to_end(inputs.manifest, rows, files, str(inputs.device), progress)
    report = {
        "labels": inputs.labels,
        "rows": rows,
        "distinct_rows": min(count, rows),
        "rows_left_out": inputs.left_out,
        "smpl_gender": inputs.smpl_gender,
        "skel_gender": inputs.manifest.skel_gender,
        "recipe": inputs.manifest.recipe,
        "device": str(inputs.device),
        "dtype": "float32",  # per vertex; the reduced system is float64
        "solver": "compiled" if model.compiled else "plain",
        "batch": fitted.batch,
        "fits_per_s": round(rows / statistics.median(passes[1:]), 2),
        "fits_per_s_cold": round(rows / (prepare_s + passes[0]), 2),
        "end_to_end_rows_per_s": built,
        "seconds": {
            "prepare": round(prepare_s, 3),
            "first_pass": round(passes[0], 3),
            "warm_passes": [round(seconds, 3) for seconds in passes[1:]],
        },
        "v2v_mm_all_rows": statistics_of(fitted.v2v_mm[fitted.v2v_mm.isfinite()]),
        "limit_violations": int(outside.any(1).sum()),
        "limit_violation_shares": {
            "rows": float(outside.any(1).double().mean()),
            "dofs": float(outside[:, bounded].double().mean()),
            "bounded_dofs": int(bounded.sum()),
        },
        "peak_memory_mb": peak_mb,
        "compare_rows": len(compared.betas),
        "compare_subset": subset,
        **Judge(compared, inputs.smpl, inputs.skel).report(judged.skel),
        "status": {status.name: int((judged.status == status).sum()) for status in Status},
        **dict.fromkeys(("mflop_per_row", "share_of_peak", "baseline", "speedup", "floor")),
        "sweep": {"by_batch": [], "by_rows": []},
        "config": asdict(config),
        "machine": machine(inputs.device),
    }
    return report, model


def outside_limits(skel: SkelParams, table: str) -> tuple[Tensor, Tensor]:
    """Which dofs [N 43] are outside of a table of limits, and which [43] have limits there at all; without the root."""
    low, high = (torch.from_numpy(bound) for bound in limits(table).T)
    q = skel.q.double()
    outside = torch.maximum(low - q, q - high)[:, 3:] > LIMIT_TOLERANCE_RAD
    return outside, (low.isfinite() | high.isfinite())[3:]


def _end_to_end(manifest: Manifest, rows: int, out: Path, device: str, progress: Progress) -> float:
    """Rows/s from the label file to Parquet, in this process, of shards with so many rows or all."""
    builder = Builder(manifest, out, device, quiet=True)
    shards = builder.shards[: -(-rows // manifest.rows_per_shard)]
    total, done = sum(shard.num_rows for shard in shards), 0
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:  # as the flow has it: one shard is fitted while another is read or written
        progress("files", 0, total)
        for report in pool.map(lambda shard: builder.build(shard.index, rebuild=True, progress=False), shards):
            done += report.rows
            progress("files", done, total)
    return round(done / (time.perf_counter() - start), 2)
