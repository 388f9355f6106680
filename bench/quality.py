"""`python -m bench quality`: what the fit's choices cost, one table each on the same rows.

Choices: shape, limits, gender, root; and the error by body part. Last, how hard poses are fitted.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import new_parser
from bench.hard import BODIES, hard_table
from fitting.batch import TILE
from fitting.config import ROOTS, SHAPES, FitConfig
from fitting.descend import Solver
from fitting.fit import FitResult, Status
from fitting.many import best_of, fit_many
from fitting.model import FitModel, prepare
from hmr_skel.bench.fit import FitInputs
from hmr_skel.bench.measures import Judge
from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES, model_path
from hmr_skel.body.dofs import LIMIT_TABLES
from hmr_skel.body.joints import SKEL_PARTS
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.cli import run
from hmr_skel.commands.arguments import add_number
from hmr_skel.commands.output import show, table
from hmr_skel.data.meta import statistics
from hmr_skel.progress import measuring
from hmr_skel.rows import SmplParams

QUALITY = """\
What each choice of the fit costs, one table each on the same rows: SKEL's shape, its root, table of limits (cost in mm
against no limits), gender, the error by body part, and labels as SKEL-CF has published them beside ours. v2v in mm per
row, betas in standard deviations; rows/s of each on this machine. Last, hard poses beside the best of 37 starts in
float64 (minutes)."""
Table = list[dict[str, Any]]
# A box that binds nothing a body can do, yet is finite, so that every angle has a turn nearest to its middle.
_FREE_RAD = 3 * torch.pi


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = new_parser("quality", QUALITY, "manifest", "device", "labels", "json", "quiet")
    add_number(parser, "--rows", int, 1, default=256, help="rows to time")
    add_number(parser, "--hard-shapes", int, 1, BODIES, default=1, help="bodies that take each hard pose")
    parser.add_argument("--hard-floor", type=Path, metavar="FILE", help="write what tests compare hard poses with")
    parser.set_defaults(run=run_quality)
    return run(parser, argv)


def run_quality(args: argparse.Namespace) -> None:
    """Measure and print the tables."""
    with tempfile.TemporaryDirectory(prefix="hmr-skel-bench-") as work, measuring(args.quiet) as bars:
        inputs = FitInputs.open(args.manifest, args.labels, args.rows, args.device, Path(work), quiet=args.quiet)
        params, subset = inputs.spread(args.rows)
        models, gender = inputs.manifest.body_models, inputs.manifest.skel_gender
        skels = {g: Skel.load(model_path(models.path, f)) for g, f in SKEL_FILES.items() if (models.path / f).is_file()}
        tables = quality_tables(params, inputs.smpl, skels, gender, inputs.config, inputs.device, bars)
        if "male" in skels and (models.path / SMPL_FILES["male"]).is_file():
            male = Smpl.load(models.path / SMPL_FILES["male"])
            tables["labels"] = labels_table(params, inputs.smpl, male, skels["male"], inputs.config, inputs.device)
        model = prepare(*copy.deepcopy((inputs.smpl, skels[gender])), inputs.config, gender, inputs.device)
        tables["hard"], floor = hard_table(inputs.smpl, model, args.hard_shapes, partial(bars, "hard poses"))
        if args.hard_floor is not None:
            np.save(args.hard_floor, floor.numpy())
    report: dict[str, Any] = {
        "labels": inputs.labels, "subset": subset, "rows": len(params.betas), "device": str(inputs.device),
        "skel_gender": gender, "recipe": inputs.manifest.recipe, "tables": tables,
    }  # fmt: skip
    show(args, quality_text(report), report)


def quality_tables(
    params: SmplParams,
    smpl: Smpl,
    skels: Mapping[str, Skel],
    gender: str,
    config: FitConfig,
    device: torch.device,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> dict[str, Table]:
    """One table per choice, the other choices as in `config`.

    Args:
        params: the rows, annotations of `smpl`.
        skels: SKEL by gender; with both of them there is a table of genders.
        gender: the one of the other tables.
    """

    @cache
    def fit(of: str, config: FitConfig, free: bool = False) -> tuple[FitResult, float]:
        """All rows, and the seconds that they took."""
        model = prepare(*copy.deepcopy((smpl, skels[of])), config, of, device)
        model = without_limits(model) if free else model
        fit_many(params[:TILE], model)  # what is compiled on the way is not timed
        start = time.perf_counter()
        return fit_many(params, model), time.perf_counter() - start

    plan = [("shape", shape, gender, replace(config, shape=shape), False) for shape in SHAPES]
    plan += [("root", root, gender, replace(config, root=root), False) for root in ROOTS]
    plan += [("root", "refine, shape too", gender, replace(config, root="refine", shape="refine"), False)]
    plan += [("limits", name, gender, replace(config, limits=name), False) for name in LIMIT_TABLES]
    plan += [("limits", "none", gender, config, True)]
    plan += [("gender", name, name, config, False) for name in skels]
    tables: dict[str, Table] = {}
    parts: dict[str, dict[str, float]] = {}
    judged: set[tuple[str, FitConfig]] = set()
    for index, (choice, name, of, changed, free) in enumerate(plan):
        progress(f"{choice} {name}", index, len(plan))
        result, seconds = fit(of, changed, free)
        tables.setdefault(choice, []).append({choice: name} | describe(result, seconds))
        if choice != "limits" and (of, changed) not in judged:
            judged.add((of, changed))
            parts[f"{choice} {name}"] = Judge(params, smpl, skels[of]).report(result.skel)["by_part_mm"]
    if len(skels) > 1:
        results, seconds = zip(*(fit(name, config) for name in skels), strict=True)
        tables["gender"].append({"gender": "better of both"} | describe(best_of(results), sum(seconds)))
    progress("done", len(plan), len(plan))
    unbound = next(row for row in tables["limits"] if row["limits"] == "none")
    for row in tables["limits"]:
        row["cost_mm"] = None if row["failed"] else round(row["mean"] - unbound["mean"], 3)
    tables["part"] = [
        {"part": part} | {name: means[part] for name, means in parts.items()}
        for part in SKEL_PARTS
        if all(part in means for means in parts.values())
    ]
    return tables


def labels_table(
    params: SmplParams, smpl: Smpl, male: Smpl, skel: Skel, config: FitConfig, device: torch.device
) -> Table:
    """The distance in mm of the male SKEL's skin to the annotated mesh of `smpl`, over rows: ours, and as published.

    Published labels are fits to the mesh that `male` has with the same parameters, and SKEL's betas are SMPL's.
    """
    rows, judge = [], Judge(params, smpl, skel)
    for name, target, shape in (("ours", smpl, config.shape), ("published", male, "copy")):
        model = prepare(*copy.deepcopy((target, skel)), replace(config, shape=shape), "male", device)
        found = judge.report(fit_many(params, model).skel)
        rows.append({"labels": name} | _worst_named(found["v2v_mm"], found["v2v_max_mm"]["max"]))
    return rows


def describe(result: FitResult, seconds: float) -> dict[str, Any]:
    """A table's row: millimetres, the size of the betas, rows a second, and how rows ended."""
    sound = result.v2v_mm.isfinite()
    errors = ("mean", "median", "p95", "p99", "worst row", "worst vertex")
    numbers = dict.fromkeys((*errors, "joint_mm", "betas_rms", "betas_max"))
    if sound.any():
        betas = result.skel.betas[sound]
        numbers |= _worst_named(
            statistics(result.v2v_mm[sound].numpy()) or {}, round(float(result.v2v_max_mm[sound].amax()), 2)
        )
        numbers["joint_mm"] = round(float(result.joint_mm[sound].mean()), 3)
        numbers["betas_rms"] = round(float(betas.square().mean().sqrt()), 3)
        numbers["betas_max"] = round(float(betas.abs().amax()), 2)
    numbers["rows/s"] = round(len(sound) / seconds, 1)
    statuses = {status.name: int((result.status == status).sum()) for status in Status}
    return numbers | statuses | {"failed": int((~sound).sum())}


def _worst_named(numbers: dict[str, Any], worst_vertex: float) -> dict[str, Any]:
    """Statistics of rows' means, whose largest is that of the worst row."""
    return {name: numbers[name] for name in numbers if name != "max"} | {
        "worst row": numbers["max"], "worst vertex": worst_vertex
    }  # fmt: skip


def without_limits(model: FitModel) -> FitModel:
    """The same model with limits so wide that none binds; prior and everything else as it was."""

    def wide(bound: torch.Tensor, sign: int) -> torch.Tensor:
        return torch.where(bound.isfinite(), torch.full_like(bound, sign * _FREE_RAD), bound)

    stages = tuple(replace(stage, low=wide(stage.low, -1), high=wide(stage.high, 1)) for stage in model.stages)
    low, high = wide(model.low, -1), wide(model.high, 1)
    solve = Solver(model.config, model.skel, model.kinematics, stages, (low, high), model.solve.engine)
    return replace(model, low=low, high=high, stages=stages, solve=solve)


def quality_text(report: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"v2v in mm on {report['rows']} rows ({report['subset']}), recipe {report['recipe']}"]
    for name, rows in report["tables"].items():
        lines += ["", name, table(rows)]
    return "\n".join(lines)
