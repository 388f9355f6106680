"""Gather the figures of a report in one pass over the shards of a dataset.

It needs 16 bytes per row, for errors that are sorted exactly; angles and betas are counted in bins.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hmr_skel.body.dofs import LIMIT_TABLES, NUM_DOFS, limits
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.data.meta import LIMIT_TOLERANCE_DEG
from hmr_skel.data.schema import GIVEN
from hmr_skel.data.shards import Shard, elsewhere, find_states
from hmr_skel.data.storage import Place, open_parquet
from hmr_skel.errors import UserError

ERRORS = ("v2v_mm", "v2v_max_mm", "joint_mm")
AT_LIMIT_DEG = 0.1
"""An angle this near to a limit counts as held by it, deg."""
_COLUMNS = ("source", "status", "skel_gender", "skel_q", "skel_betas", "max_limit_violation_deg", *ERRORS)
_REJECT_COLUMNS = ["source", "reason", "detail"]


class Bins:
    """A growing histogram. Values beyond its ends count in the outer bins; NaN does not count."""

    def __init__(self, low: float, high: float, count: int) -> None:
        self.edges = np.linspace(low, high, count + 1)
        self.counts = np.zeros(count, np.int64)
        self.least, self.most = np.inf, -np.inf
        self.squares = 0.0

    def __len__(self) -> int:
        return int(self.counts.sum())

    def add(self, values: Float[np.ndarray, "N"]) -> None:
        """Count more values."""
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return
        inside = values.clip(self.edges[0], self.edges[-1])
        self.counts += np.histogram(inside, self.edges)[0]
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
        self.squares += float((values**2).sum())

    @property
    def rms(self) -> float:
        """The root mean square; NaN without values."""
        return float(np.sqrt(self.squares / len(self))) if len(self) else float("nan")

    def quantile(self, share: float) -> float:
        """The quantile, to the width of a bin, between `least` and `most`; NaN without values."""
        if not len(self):
            return float("nan")
        below = np.concatenate(([0], np.cumsum(self.counts)))
        value = float(np.interp(share * below[-1], below, self.edges))
        return min(max(value, self.least), self.most)


@dataclass
class Dataset:
    """The figures of a dataset with N kept rows, in the order of the shards."""

    folder: Path
    name: str  # the manifest's
    metas: list[dict[str, Any]]  # of every complete shard, by number
    rows: Shards  # the kept rows, for access one by one
    limits: str  # name of the limit table that the rows were fitted with
    source: Int[np.ndarray, "N"] = field(default_factory=lambda: np.zeros(0, np.int32))  # index into `sources`
    errors: dict[str, Float[np.ndarray, "N"]] = field(default_factory=dict)
    """Errors by name in `ERRORS`, mm; NaN for rows that were not fitted."""
    sources: list[str] = field(default_factory=list)
    """The sources in order of appearance; those with only rejects come last."""
    status: dict[str, Counter[str]] = field(default_factory=dict)  # by source
    genders: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    """The number of rows, including rows annotated with SKEL, with a dof outside its limits by more than rounding."""
    angles: list[Bins] = field(default_factory=lambda: [Bins(-360.0, 360.0, 720) for _ in range(NUM_DOFS)])  # deg
    held: Int[np.ndarray, "46 2"] = field(default_factory=lambda: np.zeros((NUM_DOFS, 2), np.int64))
    """The number of rows that each dof's lower and upper limit holds."""
    betas: list[Bins] = field(default_factory=lambda: [Bins(-8.0, 8.0, 160) for _ in range(10)])
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)  # (source, reason) -> rows
    examples: dict[str, str] = field(default_factory=dict)  # reason -> what was found in the first such row

    def __len__(self) -> int:
        return len(self.source)

    def fitted(self, source: str | None = None) -> Int[np.ndarray, "F"]:
        """The numbers of fitted rows, of a source or of all."""
        there = np.isfinite(self.errors["v2v_mm"])
        if source is not None:
            there &= self.source == self.sources.index(source)
        return np.flatnonzero(there)

    def add(self, shard: Shards) -> dict[str, np.ndarray]:
        """Count a shard's rows, and return its part of `source` and `errors`, which are joined at the end."""
        source, status = shard["source"], shard["status"]
        for name in dict.fromkeys(source.tolist()):
            if name not in self.sources:
                self.sources.append(name)
            self.status.setdefault(name, Counter()).update(status[source == name].tolist())
        self.genders.update(gender for gender in shard["skel_gender"].tolist() if gender is not None)
        degrees, bounds = np.rad2deg(shard["skel_q"].astype(np.float64)), np.rad2deg(limits(self.limits))
        excess = np.maximum(bounds[:, 0] - degrees, degrees - bounds[:, 1]).max(1)
        known = shard["max_limit_violation_deg"]
        self.violations += int((np.where(np.isnan(known), excess, known) > LIMIT_TOLERANCE_DEG).sum())
        self.held += (np.abs(degrees[..., None] - bounds) < AT_LIMIT_DEG).sum(0)
        for bins, values in zip(self.angles + self.betas, [*degrees.T, *shard["skel_betas"].T], strict=True):
            bins.add(values)
        numbers = np.array([self.sources.index(name) for name in source.tolist()], np.int32)
        given = np.where(status == GIVEN, np.float32(np.nan), np.float32(0))
        return {"source": numbers} | {name: shard[name].astype(np.float32) + given for name in ERRORS}

    def add_rejects(self, path: Path) -> None:
        """Count a shard's rejects. Raises `UserError` if the file is broken."""
        try:
            with open_parquet(path) as file:
                table = file.read(_REJECT_COLUMNS)
            rows = zip(*(table[name].to_pylist() for name in _REJECT_COLUMNS), strict=True)
        except KeyError as error:
            raise UserError(f"{path} has no column {error}. Build the shard again.") from error
        for source, reason, detail in rows:
            self.rejects[source, reason] += 1
            self.examples.setdefault(reason, detail)
            if source not in self.sources:
                self.sources.append(source)


def gather(folder: Path, progress: Callable[[int], object] = lambda rows: None) -> Dataset:
    """Read a dataset's folder.

    Args:
        folder: the folder with `data/` and `meta/`.
        progress: called with the number of new rows.

    Raises:
        UserError: the folder is not a dataset or has no row, or a file is missing or broken.
    """
    metas = read_metas(folder)
    shards = load_shards([_shard(meta).data_file(folder) for meta in metas], _COLUMNS)
    name, table = manifest_name(shards.paths[0], folder), metas[0]["made_from"]["recipe"]["limits"]
    dataset = Dataset(folder, name, metas, load_shards(list(shards.paths)), table)
    parts = []
    for shard in shards.files():
        if len(shard):
            parts.append(dataset.add(shard))
            progress(len(shard))
    for meta in metas:
        dataset.add_rejects(_shard(meta).rejects_file(folder))
    if not parts:
        rejected = sum(dataset.rejects.values())
        raise UserError(f"{folder} has no rows: {rejected:,} were rejected and none was kept.")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    dataset.source, dataset.errors = columns.pop("source"), columns
    return dataset


def read_metas(folder: Path) -> list[dict[str, Any]]:
    """The meta files of all complete shards, by number. Raises `UserError` if there is none, or one is broken."""
    metas = []
    for state in find_states(folder).values():
        if state.kind == "unfinished":
            raise UserError(f"{state.why}. Build the shard again; `hmr-skel verify {folder}` lists all problems.")
        if state.meta is not None:
            metas.append(state.meta)
    if not metas:
        raise UserError(
            f"no dataset in {folder}. Expected {folder / 'meta' / 'shard-00000-of-00012.json'} or the like; "
            f"`make dataset` and `hmr-skel fit` make them.{elsewhere(folder)}"
        )
    for meta in metas:
        recipe = meta["made_from"].get("recipe", {})
        if not isinstance(recipe, dict) or recipe.get("limits") not in LIMIT_TABLES:
            raise UserError(
                f"{folder}: shard {meta['shard']} was fitted with unknown limits. Expected one of "
                f"{', '.join(LIMIT_TABLES)}. Build the shard again."
            )
    return metas


def manifest_name(shard: Place, folder: Place) -> str:
    """The name of a shard's manifest; the folder's name if the shard does not say it."""
    with open_parquet(shard) as file:
        metadata = file.schema_arrow.metadata or {}
    return metadata.get(b"hmr_skel.manifest", folder.name.encode()).decode()


def _shard(meta: dict[str, Any]) -> Shard:
    return Shard(meta["shard"], meta["shards"], (), False)
