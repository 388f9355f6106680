"""Compare a dataset with its manifest, by fingerprints and by fitting a sample of rows again, and repair it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from flows.shard import Builder
from hmr_skel.data.annotations import check_rows
from hmr_skel.data.schema import FIT_COLUMNS, SCHEMA
from hmr_skel.data.shards import Shard, find_files, find_outdated, outdated_texts, shard_state
from hmr_skel.data.storage import Place, open_parquet, put_bytes
from hmr_skel.data.verify import Problem, Verification, verify_files
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows

SAME = dict.fromkeys(FIT_COLUMNS, (1e-3, 5e-3))  # mm
SAME |= {"skel_q": (1e-4, 1e-3), "skel_betas": (1e-3, 5e-3), "skel_transl": (1e-6, 1e-5)}  # rad, 1, m
SAME |= dict.fromkeys(("max_limit_violation_deg", "beyond_deg"), (6e-3, 6e-2))  # degrees
SAME |= {"push": (5.0, 50.0)}  # mm^2/rad
SAME |= dict.fromkeys(("iterations", "starts"), (np.inf, np.inf))  # a fit may end in the same place by another way
"""How far a column of a row that is fitted again may differ, on a CPU and with a GPU. Other columns must be equal."""

Key = tuple[str, int]
"""The key of a row: its source, and its number there."""
Rows = dict[Key, Mapping[str, Any]]
"""The columns of kept rows; rejected rows have only `reason`."""


def verify_dataset(out: Place, builder: Builder | None = None, *, sample: int = 64, seed: int = 0) -> Verification:
    """Check the dataset in the folder `out`. Shards that are not built yet are not a problem.

    Without `builder`, it only compares the files with each other. Otherwise it also reads, checks and fits `sample`
    rows again, spread over all sound shards and chosen by `seed`. Raises `UserError` if there is no dataset, or a
    source or body model cannot be read.
    """
    report = verify_files(out, None if builder is None else len(builder.shards))
    if builder is None:
        return report
    shards = [builder.shards[index] for index in report.sound]
    outdated = find_outdated(out, shards, builder.ingredients)
    older = [
        Problem(f"{text} would be built again by `hmr-skel dataset` (--repair leaves them)")
        for text in outdated_texts(outdated, builder.ingredients)
    ]
    current = [shard for shard in shards if shard not in outdated]
    chosen = _choose(current, sample, seed)
    wrong = [problem for shard, rows in _refit(builder, chosen).items() if (problem := _compare(builder, shard, rows))]
    sound = sorted({shard.index for shard in current} - {problem.shard for problem in wrong})
    problems, refitted = [*report.problems, *older, *wrong], sum(map(len, chosen.values()))
    return replace(report, sound=sound, problems=problems, refitted=refitted)


def _choose(shards: Sequence[Shard], sample: int, seed: int) -> dict[Shard, list[Key]]:
    """Choose `sample` rows of all, by shard."""
    places = [(shard, piece) for shard in shards for piece in shard.pieces]
    ends = np.cumsum([len(piece) for _, piece in places], dtype=int)
    total = int(ends[-1]) if places else 0
    chosen: dict[Shard, list[Key]] = {}
    for number in np.sort(np.random.default_rng(seed).choice(total, min(sample, total), replace=False)).tolist():
        place = int(np.searchsorted(ends, number, side="right"))
        shard, piece = places[place]
        chosen.setdefault(shard, []).append((piece.source, piece.stop - int(ends[place]) + number))
    return chosen


def _refit(builder: Builder, chosen: Mapping[Shard, list[Key]]) -> dict[Shard, Rows]:
    """Read and fit the chosen rows of each shard again."""
    now: Rows = {}
    kept: dict[str, list[AnnotationRows]] = {}
    for source, row in (key for keys in chosen.values() for key in keys):
        rows, rejects = check_rows(builder.readers[source].read(row, row + 1), builder.manifest.source(source).exclude)
        kept.setdefault(source, []).append(rows)
        now |= {(source, reject.source_row): {"reason": reject.reason} for reject in rejects}
    for source, pieces in kept.items():
        table, rejects, _ = builder.fitter.fit(_joined(pieces))
        now |= {(source, row["source_row"]): row for row in table.to_pylist()}
        now |= {(source, reject.source_row): {"reason": reject.reason} for reject in rejects}
    return {shard: {key: now[key] for key in keys} for shard, keys in chosen.items()}


def _compare(builder: Builder, shard: Shard, now: Rows) -> Problem | None:
    """The problem of a shard whose rows differ from `now`; None if they are equal."""
    file, meta = shard.data_file(builder.out), shard_state(builder.out, shard).meta or {}
    with open_parquet(shard.rejects_file(builder.out)) as parquet:
        rejects = parquet.read(["source", "source_row", "reason"]).to_pylist()
    was: Rows = {(row["source"], row["source_row"]): {"reason": row["reason"]} for row in rejects}
    with open_parquet(file) as parquet:
        table = parquet.read()
    for i, key in enumerate(zip(table["source"].to_pylist(), table["source_row"].to_pylist(), strict=True)):
        if key in now:
            was[key] = table.slice(i, 1).to_pylist()[0]
    loose = "cuda" in f"{meta.get('device')} {builder.fitter.device}"
    missing = {"reason": "not there"}
    differences = {key: first_difference(was.get(key, missing), row, loose) for key, row in now.items()}
    wrong = [f"{source}/{row:08d} ({text})" for (source, row), text in differences.items() if text]
    if not wrong:
        return None
    found = f"{len(wrong)} of {len(now)} rows differ when fitted again, first {wrong[0]}"
    return Problem(f"{file}: {found}. Build the shard again.", shard.index)


def _joined(pieces: list[AnnotationRows]) -> AnnotationRows:
    """Concatenate rows of one source."""
    columns = {f.name: [getattr(rows, f.name) for rows in pieces] for f in fields(AnnotationRows) if f.name != "source"}
    return replace(pieces[0], **{name: None if v[0] is None else np.concatenate(v) for name, v in columns.items()})


def first_difference(was: Mapping[str, Any], now: Mapping[str, Any], loose: bool) -> str | None:
    """The first column in which two rows differ: fitted columns by more than rounding, other columns in any bit."""
    reasons = was.get("reason", "kept"), now.get("reason", "kept")
    if reasons != ("kept", "kept"):
        return None if reasons[0] == reasons[1] else f"{reasons[0]}, not {reasons[1]}"
    for name in SCHEMA.names:
        a, b = was[name], now[name]
        if a is None or b is None or isinstance(a, str):
            if a != b and name not in ("status", "push_dof"):  # these may differ, like iterations
                return name
            continue
        same = SAME.get(name, (0.0, 0.0))[loose]
        if name == "keypoints_3d" and now["keypoints_3d_source"] != "label":
            same = 1e-5  # m, of a mesh
        first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
        equal = (first == second) | (np.isnan(first) & np.isnan(second))
        apart = np.where(equal, 0.0, np.abs(first - second)).max()
        if not apart <= same:  # also if only one is NaN
            return f"{name} by {apart:.2g}"
    return None


def repair_dataset(builder: Builder, problems: list[Problem], *, progress: bool = True) -> tuple[int, int]:
    """Move files that belong to no shard to the dataset's folder `set-aside`, and build shards with problems again.

    Returns the numbers of moved files and built shards. Raises `UserError` as a build does.
    """
    counts = Counter(count for _, count in find_files(builder.out)[0])
    if counts and counts.most_common(1)[0][0] != len(builder.shards):
        found = f"{counts.most_common(1)[0][0]} shards, and the manifest makes {len(builder.shards)}"
        raise UserError(
            f"{builder.out} was made in {found}: a repair would fit all rows again. Set rows_per_shard to its "
            "old value, or build into another folder."
        )
    strays = [problem.stray for problem in problems if problem.stray is not None]
    for path in strays:
        target = builder.out / "set-aside" / path.parent.name / path.name
        if path.is_dir() or target.exists():
            raise UserError(f"{path} does not belong here, and cannot become {target}. Move it away by hand.")
        put_bytes(target, path.read_bytes())
        path.unlink()
    shards = sorted({problem.shard for problem in problems if problem.shard is not None})
    if shards:
        builder.prepare()
    for index in shards:
        builder.build(index, rebuild=True, progress=progress)
    return len(strays), len(shards)
