"""What the report says of a dataset's rows, in one pass over its shards.

Memory: 16 bytes a row (errors, to be sorted exactly), whatever the rows hold; angles and betas are counted in bins.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hmr_skel.body.dofs import LIMIT_TABLES, NUM_DOFS, limits
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.data.meta import LIMIT_TOLERANCE_DEG, load_meta
from hmr_skel.data.schema import GIVEN
from hmr_skel.data.storage import Place, open_parquet
from hmr_skel.errors import UserError
from hmr_skel.report.bins import Bins

ERRORS = ("v2v_mm", "v2v_max_mm", "joint_mm")
AT_LIMIT_DEG = 0.1
"""An angle this near to a bound of its range counts as held by it."""
_COLUMNS = ("source", "status", "skel_gender", "skel_q", "skel_betas", "max_limit_violation_deg", *ERRORS)
_REJECT_COLUMNS = ["source", "reason", "detail"]


@dataclass(frozen=True)
class Dataset:
    """A dataset, gathered. N rows that were kept, in the order of the shards."""

    folder: Path
    name: str
    """The manifest's."""
    metas: list[dict[str, Any]]
    """Of every finished shard, by number."""
    rows: Shards
    """The kept rows, to be looked at one by one."""
    sources: list[str]
    """In the order in which they appear; those with rejects only come last."""
    source: Int[np.ndarray, "N"]
    """Index into `sources`."""
    errors: dict[str, Float[np.ndarray, "N"]]
    """By name in `ERRORS`, mm; NaN where the row was not fitted."""
    status: dict[str, Counter[str]]
    """By source."""
    genders: Counter[str]
    violations: int
    """Rows with a dof outside its range by more than float32 can tell, those that came as SKEL too."""
    angles: list[Bins]
    """Of each dof, deg."""
    held: Int[np.ndarray, "46 2"]
    """How many rows each dof's lower and upper bound holds."""
    limits: str
    """Name of the limit table that the rows were fitted with."""
    betas: list[Bins]
    rejects: Counter[tuple[str, str]]
    """(source, reason) -> rows."""
    examples: dict[str, str]
    """Reason -> what was found in the first such row."""

    def __len__(self) -> int:
        return len(self.source)

    def fitted(self, source: str | None = None) -> Int[np.ndarray, "F"]:
        """Numbers of the rows that were fitted, of a source or of all."""
        there = np.isfinite(self.errors["v2v_mm"])
        if source is not None:
            there &= self.source == self.sources.index(source)
        return np.flatnonzero(there)


def gather(folder: Path, progress: Callable[[int], object] = lambda rows: None) -> Dataset:
    """Read a dataset's folder.

    Args:
        folder: the one with `data/` and `meta/` in it.
        progress: called with the number of rows just read.

    Raises:
        UserError: it is no dataset, has no row, or a file is missing or broken.
    """
    metas = read_metas(folder)
    shards = load_shards([_file(folder, meta, "data/") for meta in metas], _COLUMNS)
    table = metas[0]["made_from"]["recipe"]["limits"]
    tally = _Tally(np.rad2deg(limits(table)))
    for shard in shards.files():
        if len(shard):
            tally.add(shard)
            progress(len(shard))
    rejects, examples = _read_rejects([_file(folder, meta, "rejects/") for meta in metas], tally.sources)
    if not tally.codes:
        raise UserError(f"{folder} has no rows: {sum(rejects.values()):,} were rejected and none was kept.")
    return Dataset(
        folder=folder,
        name=manifest_name(shards.paths[0], folder),
        metas=metas,
        rows=load_shards(list(shards.paths)),
        sources=tally.sources,
        source=np.concatenate(tally.codes),
        errors={name: np.concatenate(parts) for name, parts in tally.errors.items()},
        status=tally.status,
        genders=tally.genders,
        violations=tally.violations,
        angles=tally.angles,
        held=tally.held,
        limits=table,
        betas=tally.betas,
        rejects=rejects,
        examples=examples,
    )


def read_metas(folder: Path) -> list[dict[str, Any]]:
    """The meta files of all finished shards, by number. Raises `UserError` where there are none, or one is broken."""
    paths = sorted((folder / "meta").glob("shard-*.json"))
    if not paths:
        raise UserError(
            f"no dataset in {folder}. Expected {folder / 'meta' / 'shard-00000-of-00012.json'} or the like; "
            "`make dataset` and `hmr-skel fit` make them."
        )
    metas = []
    for path in paths:
        try:
            meta = load_meta(path)
            if (table := meta["made_from"].get("recipe", {}).get("limits")) not in LIMIT_TABLES:
                raise ValueError(f"its rows were fitted with limits {table!r}, known are {', '.join(LIMIT_TABLES)}")
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: not a meta file of a shard ({error}). Build the shard again.") from error
        metas.append(meta)
    return metas


def manifest_name(shard: Place, folder: Path) -> str:
    """The name of the manifest that a shard was made by; the folder's where the shard does not say."""
    with open_parquet(shard) as file:
        metadata = file.schema_arrow.metadata or {}
    return metadata.get(b"hmr_skel.manifest", folder.name.encode()).decode()


def _file(folder: Path, meta: dict[str, Any], kind: str) -> Path:
    # One that leads elsewhere is no name of ours: what a meta file says must not be read from anywhere else.
    name = next((name for name in meta["files"] if name.startswith(kind) and "/" not in name[len(kind) :]), None)
    if name is None or not (folder / name).is_file():
        raise UserError(
            f"shard {meta['shard']} of {folder} has no file {name or kind}. `hmr-skel verify {folder}` lists what is "
            "wrong; build the shard again."
        )
    return folder / name


@dataclass
class _Tally:
    """Counts so far."""

    limits_deg: Float[np.ndarray, "46 2"]
    sources: list[str] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    errors: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in ERRORS})
    status: dict[str, Counter[str]] = field(default_factory=dict)
    genders: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    angles: list[Bins] = field(default_factory=lambda: [Bins(-360.0, 360.0, 720) for _ in range(NUM_DOFS)])
    held: np.ndarray = field(default_factory=lambda: np.zeros((NUM_DOFS, 2), np.int64))
    betas: list[Bins] = field(default_factory=lambda: [Bins(-8.0, 8.0, 160) for _ in range(10)])

    def add(self, shard: Shards) -> None:
        """Count a shard's rows."""
        source, status = shard["source"], shard["status"]
        for name in dict.fromkeys(source.tolist()):
            if name not in self.sources:
                self.sources.append(name)
            self.status.setdefault(name, Counter()).update(status[source == name].tolist())
        self.codes.append(np.array([self.sources.index(name) for name in source.tolist()], np.int32))
        for name, parts in self.errors.items():
            values = shard[name].astype(np.float32)
            parts.append(np.where(status == GIVEN, np.float32(np.nan), values))
        self.genders.update(gender for gender in shard["skel_gender"].tolist() if gender is not None)
        degrees = np.rad2deg(shard["skel_q"].astype(np.float64))
        low, high = self.limits_deg.T
        excess, known = np.maximum(low - degrees, degrees - high).max(1), shard["max_limit_violation_deg"]
        self.violations += int((np.where(np.isnan(known), excess, known) > LIMIT_TOLERANCE_DEG).sum())
        self.held += (np.abs(degrees[..., None] - self.limits_deg) < AT_LIMIT_DEG).sum(0)
        for bins, values in zip(self.angles, degrees.T, strict=True):
            bins.add(values)
        for bins, values in zip(self.betas, shard["skel_betas"].T, strict=True):
            bins.add(values)


def _read_rejects(paths: Sequence[Path], sources: list[str]) -> tuple[Counter[tuple[str, str]], dict[str, str]]:
    """Counts and examples; sources that only have rejects are added to `sources`."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[str, str] = {}
    for path in paths:
        try:
            with open_parquet(path) as file:
                table = file.read(_REJECT_COLUMNS)
            rows = zip(*(table[name].to_pylist() for name in _REJECT_COLUMNS), strict=True)
        except KeyError as error:
            raise UserError(f"{path} has no column {error}. Build the shard again.") from error
        for source, reason, detail in rows:
            counts[source, reason] += 1
            examples.setdefault(reason, detail)
    sources += dict.fromkeys(source for source, _ in counts if source not in sources)
    return counts, examples
