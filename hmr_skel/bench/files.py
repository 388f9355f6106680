"""The benchmark's files: label rows to time the fit with, and the whole way from a label file to Parquet, timed."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fitting
from flows.shard import Builder
from flows.sources import make_missing, model_file
from hmr_skel.body.files import SKEL_FILES, SMPL_FILES
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.data.annotations import open_source
from hmr_skel.data.checks import check_rows
from hmr_skel.data.manifest import CAMERAHMR, FIELDS, Manifest, Source, load_manifest
from hmr_skel.data.shards import Shard, read_meta
from hmr_skel.device import resolve_device
from hmr_skel.errors import UserError
from hmr_skel.rows import SmplParams


@dataclass(frozen=True)
class BenchRows:
    """The good rows of a manifest's SMPL sources, of one SMPL gender."""

    name: str
    """Of the file or files."""
    params: SmplParams
    imgname: list[str]
    smpl_gender: str
    left_out: int
    """Rows rejected by the checks, or of another SMPL gender than most."""


class Inputs:
    """Rows and bodies that a benchmark of the fit starts from."""

    def __init__(
        self, manifest: str, labels: Path | None, rows: int, device: str, work: Path, *, quiet: bool = False
    ) -> None:
        self.device = resolve_device(device)
        self.manifest = with_labels(load_manifest(manifest), labels, rows)
        self.config = fitting.recipe(self.manifest.recipe)
        self.rows = load_rows(self.manifest, work / "cache", quiet=quiet)
        models = self.manifest.body_models
        self.smpl = Smpl.load(model_file(models, SMPL_FILES[self.rows.smpl_gender]))
        self.skel = Skel.load(model_file(models, SKEL_FILES[self.manifest.skel_gender]))


def with_labels(manifest: Manifest, labels: Path | None, rows: int) -> Manifest:
    """The manifest for a benchmark of so many rows: its own sources, or one CameraHMR-format file in their place."""
    sources = manifest.sources
    if labels is not None:
        fields = {column: tuple(keys) for column, keys in FIELDS[CAMERAHMR].items()}
        sources = (Source(name="bench", format=CAMERAHMR, file=labels, fields=fields),)
    gender = "male" if manifest.skel_gender == "best" else manifest.skel_gender
    size = min(rows, 2048)
    return replace(manifest, name="bench", sources=sources, rows_per_shard=size, held_out_shards=0, skel_gender=gender)


def load_rows(manifest: Manifest, cache_dir: Path, *, quiet: bool = False) -> BenchRows:
    """Read and check all rows that are SMPL. Raises `UserError` where a file is missing or broken, or holds none."""
    make_missing(manifest, quiet=quiet)
    pieces, left_out = [], 0
    for source in manifest.sources:
        if source.format != CAMERAHMR:
            continue
        reader = open_source(source, cache_dir)
        kept, rejects = check_rows(reader.read(0, reader.num_rows), source.exclude)
        pieces.append(kept)
        left_out += len(rejects)
    genders = Counter(gender for piece in pieces for gender in piece.smpl_gender)
    if not genders:
        raise UserError(f"manifest {manifest.name!r} has no rows of SMPL to fit. Expected a source of {CAMERAHMR!r}.")
    gender = genders.most_common(1)[0][0]
    pieces = [piece.take(piece.smpl_gender == gender) for piece in pieces]
    chosen = [piece.smpl_params() for piece in pieces]
    imgname = [image for piece in pieces for image in piece.imgname.tolist()]
    params = SmplParams(
        **{
            name: torch.cat([getattr(p, name) for p in chosen])
            for name in ("global_orient", "body_pose", "betas", "transl")
        }
    )
    name = "+".join(source.file.stem for source in manifest.sources if source.format == CAMERAHMR)
    return BenchRows(name, params, imgname, gender, left_out + genders.total() - genders[gender])


def bench_files(
    manifest: Manifest, rows: int, out: Path, device: str, progress: Callable[[str, int, int], object]
) -> dict[str, Any]:
    """Label file in, Parquet out, in this process: rows/s as a whole and of each part, JSON values.

    Args:
        manifest: from `with_labels`.
        rows: build shards until so many rows are done, or all.
        out: a folder for the dataset, which stays there.
    """
    start = time.perf_counter()
    builder = Builder(manifest, out, device, quiet=True)
    open_s = time.perf_counter() - start
    wanted, done, parts, check_s, size = 0, 0, Counter(), 0.0, 0
    shards = []
    for shard in builder.shards:
        if wanted >= rows:
            break
        wanted += shard.num_rows
        shards.append(shard)
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:  # as the flow has it: one shard is fitted while another is read or written
        progress("files", done, wanted)
        for report in pool.map(lambda shard: builder.build(shard.index, rebuild=True, progress=False), shards):
            done += report.rows
            progress("files", done, wanted)
    build_s = time.perf_counter() - start
    for shard in shards:
        meta = read_meta(out, shard)
        assert meta is not None  # just built
        parts.update(meta["seconds"])
        size += sum(file["bytes"] for file in meta["files"].values())
        check_s += _seconds_to_check(builder, shard)
    return {
        "end_to_end_rows_per_s": round(done / build_s, 2),
        "end_to_end_rows_per_s_cold": round(done / (open_s + build_s), 2),
        "end_to_end_rows": done,
        "open_s": round(open_s, 3),
        "read_rows_per_s": round(done / max(parts["read"] + parts["check"] - check_s, 1e-9), 1),
        "check_rows_per_s": round(done / check_s, 1),
        "fit_rows_per_s": round(done / parts["fit"], 2),
        "write_rows_per_s": round(done / parts["write"], 1),
        "bytes_per_row": round(size / done, 1),
    }


def _seconds_to_check(builder: Builder, shard: Shard) -> float:
    """When a shard is built, its checks are the first to touch the label file's pages; here, the checks alone."""
    seconds = 0.0
    for piece in shard.pieces:
        rows = builder.readers[piece.source].read(piece.start, piece.stop)
        start = time.perf_counter()
        check_rows(rows)
        seconds += time.perf_counter() - start
    return seconds
