"""What the fit's choices cost, each in one table on the same rows: shape, limits, gender, root, body part."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from fitting import config as choices
from fitting.bench import copies
from fitting.config import FitConfig
from fitting.fit import FitResult
from fitting.judge import PARTS, Judge, summary
from fitting.many import fit_best, fit_many
from fitting.model import FitModel, prepare
from fitting.quality import Status
from hmr_skel.body.dofs import LIMIT_TABLES
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.rows import SmplParams

Table = list[dict[str, Any]]
# A box that binds nothing a body can do, yet is finite, so that every angle has a turn nearest to its middle.
_FREE_RAD = 3 * torch.pi


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
    bench = _Bench(params, smpl, skels, device)
    plan: list[tuple[str, str, Callable[[], FitResult]]] = []
    for field, values in _choices(config).items():
        plan += [
            (field, value, lambda f=field, v=value: bench.fit(gender, replace(config, **{f: v}))) for value in values
        ]
    plan += [("limits", name, lambda n=name: bench.fit(gender, replace(config, limits=n))) for name in LIMIT_TABLES]
    plan += [("limits", "none", lambda: bench.fit(gender, config, free=True))]
    plan += [("gender", name, lambda n=name: bench.fit(n, config)) for name in skels]
    if len(skels) > 1:
        plan += [("gender", "best", lambda: bench.best(config))]
    tables: dict[str, Table] = {}
    by_part: dict[str, dict[str, float]] = {}
    for index, (table, name, run) in enumerate(plan):
        progress(f"{table} {name}", index, len(plan))
        result = run()
        tables.setdefault(table, []).append({table: name} | describe(result))
        if table == "shape":
            by_part[name] = Judge(params, smpl, skels[gender]).report(result.skel)["by_part_mm"]
    progress("done", len(plan), len(plan))
    free = next(row for row in tables["limits"] if row["limits"] == "none")
    for row in tables["limits"]:
        row["cost_mm"] = None if row["failed"] else round(row["mean"] - free["mean"], 3)
    tables["part"] = [
        {"part": part} | {f"mean_mm shape {name}": means[part] for name, means in by_part.items()}
        for part in PARTS
        if all(part in means for means in by_part.values())
    ]
    return tables


def _choices(config: FitConfig) -> dict[str, tuple[str, ...]]:
    """The fields of a recipe that are compared, with the values that the configuration knows."""
    known = {"shape": getattr(choices, "SHAPES", ()), "root": getattr(choices, "ROOTS", ())}
    there = {field.name for field in fields(config)}
    return {name: values for name, values in known.items() if name in there and len(values) > 1}


def describe(result: FitResult) -> dict[str, Any]:
    """A table's row: millimetres, the size of the betas, and how rows ended."""
    sound = result.v2v_mm.isfinite()
    numbers = dict.fromkeys(("mean", "median", "p95", "p99", "max", "joint_mm", "betas_rms", "betas_max"))
    if sound.any():
        betas = result.skel.betas[sound]
        numbers |= summary(result.v2v_mm[sound])
        numbers["joint_mm"] = round(float(result.joint_mm[sound].mean()), 3)
        numbers["betas_rms"] = round(float(betas.square().mean().sqrt()), 3)
        numbers["betas_max"] = round(float(betas.abs().amax()), 2)
    statuses = {status.name: int((result.status == status).sum()) for status in Status}
    return numbers | statuses | {"failed": int((~sound).sum())}


class _Bench:
    """Fits the rows in many ways; models are made when asked for."""

    def __init__(self, params: SmplParams, smpl: Smpl, skels: Mapping[str, Skel], device: torch.device) -> None:
        self.params, self.smpl, self.skels, self.device = params, smpl, skels, device

    def model(self, gender: str, config: FitConfig) -> FitModel:
        return prepare(*copies(self.smpl, self.skels[gender]), config, gender, self.device)

    def fit(self, gender: str, config: FitConfig, free: bool = False) -> FitResult:
        model = self.model(gender, config)
        return fit_many(self.params, without_limits(model) if free else model)

    def best(self, config: FitConfig) -> FitResult:
        return fit_best(self.params, [self.model(gender, config) for gender in self.skels])


def without_limits(model: FitModel) -> FitModel:
    """The same model with limits so wide that none binds; prior and everything else as it was."""

    def wide(bound: torch.Tensor, sign: int) -> torch.Tensor:
        return torch.where(bound.isfinite(), torch.full_like(bound, sign * _FREE_RAD), bound)

    stages = tuple(
        replace(stage, box=replace(stage.box, low=wide(stage.box.low, -1), high=wide(stage.box.high, 1)))
        for stage in model.stages
    )
    return replace(model, low=wide(model.low, -1), high=wide(model.high, 1), stages=stages)
