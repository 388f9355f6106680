"""The held-out part of `hmr-skel evaluate`: networks on a dataset's last shards."""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import torch
from tqdm import tqdm

from hmr_skel.commands.build_missing import build_missing
from hmr_skel.data.images import image_rules
from hmr_skel.data.manifest import load_manifest
from hmr_skel.evaluate.held_out import (
    JOINT_SET,
    Errors,
    HeldOut,
    evaluate_held_out,
    held_out_sequences,
    mean_body,
    summaries,
)
from hmr_skel.evaluate.summary import METRIC_NAMES, resampled
from hmr_skel.evaluate.tables import rows_table
from hmr_skel.model.checkpoint import load_any_network


def held_out_report(
    files: list[Path], args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, Any], list[pa.Table]]:
    """The report, whose `mean_pose`, `coarse` and `final` are means over networks, and the rows of each network."""
    manifest = load_manifest(args.manifest)
    data = args.data if args.data is not None else Path("data") / manifest.name
    if args.build:
        build_missing(args.manifest, data, quiet=args.quiet)
    held_out = HeldOut.open(data, image_rules(manifest), manifest.body_models.path, device, args.quiet)
    loaded = [load_any_network(file, held_out.dataset.gender) for file in files]
    networks = [network.to(device) for network, _ in loaded]
    with tqdm(total=len(held_out.dataset), unit="row", leave=False, disable=True if args.quiet else None) as bar:
        found, left_out = evaluate_held_out(
            networks, mean_body(data), held_out, progress=lambda done: bar.update(done - bar.n)
        )
    each: list[dict[str, Any]] = [
        {"file": str(file), "recipe": info.recipe, "step": info.details.get("step"), "coarse": None}
        | summaries(errors, held_out)
        for file, (_, info), errors in zip(files, loaded, found, strict=True)
    ]
    names, sequences = held_out_sequences(found[0], held_out)
    report: dict[str, Any] = {
        "dataset": str(data),
        "rows": len(names),
        "left_out": left_out,
        "intervals": resampled(sequences),
        "mean_pose": each[0]["mean_pose"],
        **{stage: mean_of([one[stage] for one in each], JOINT_SET) for stage in ("coarse", "final")},
        "networks": each,
    }
    return report, [
        table
        for file, errors in zip(files, found, strict=True)
        for table in _tables(str(data), str(file), errors, names, sequences)
    ]


def mean_of(errors: list[dict | None], joint_set: str) -> dict[str, Any] | None:
    """Over networks; None where one of them has no such stage. Of a single network, all that is known of it."""
    there = [one for one in errors if one is not None]
    if len(there) < len(errors):
        return None
    if len(there) == 1:
        return there[0]
    metrics = [name for name in METRIC_NAMES if name in there[0]]
    return {name: fmean(one[name] for one in there) for name in metrics} | {"joint_set": joint_set}


def _tables(data: str, file: str, errors: Errors, names: list[str], sequences: list[str | None]) -> list[pa.Table]:
    return [
        rows_table(data, file, stage, columns["row"].numpy(), names, sequences, columns)
        for stage, columns in errors.items()
    ]
