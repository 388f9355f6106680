"""A dataset against its manifest: fingerprints, and a sample of rows read and fitted again; and its repair."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.shard import Builder
from hmr_skel.data.atomic import is_temporary
from hmr_skel.data.checks import check_rows
from hmr_skel.data.fingerprint import describe_difference
from hmr_skel.data.schema import FIT_COLUMNS, SCHEMA, shard_table
from hmr_skel.data.shards import Shard, name_shards
from hmr_skel.data.storage import Place, open_parquet, put_bytes
from hmr_skel.data.verify import FilesReport, Problem, verify_files
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows, Reject

SAME_Q_RAD, SAME_MM = 1e-4, 1e-3
"""How far a row that is fitted again may be off. On a GPU ten (angles) and five times (distances) as much."""
SET_ASIDE = "set-aside"
"""The folder of a dataset that repair moves files to that do not belong to it."""

_PATH_DEPENDENT = {"iterations", "starts", "status"}  # of a fit that ends in the same place by another way

Key = tuple[str, int]
"""A row: its source, and its number there."""


@dataclass(frozen=True)
class Verification:
    """What is wrong with a dataset, and how much of it was looked at."""

    shards: int
    """In the dataset."""
    sound: int
    refitted: int
    """Rows that were read from their sources and fitted again."""
    problems: list[Problem]


def verify_dataset(
    out: Place,
    builder: Builder | None = None,
    *,
    partial: bool = False,
    sample: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """What is wrong with a dataset.

    Args:
        out: its folder.
        builder: of its manifest (`any_plan=True`); without, only the files are compared, with each other.
        partial: shards that are not there at all are no problem.
        sample: how many rows to read from their sources, check and fit again, spread over all sound shards.
        seed: which ones.
        progress: called with rows just fitted.

    Raises `UserError` where there is no dataset, or a source or body model cannot be read.
    """
    report = verify_files(out, count=None if builder is None else len(builder.shards), partial=partial)
    problems = list(report.problems)
    if builder is None:
        refitted = 0
    else:
        problems += _other_fingerprints(builder, report)
        bad = {problem.shard for problem in problems}
        sound = {index: meta for index, meta in report.sound.items() if index not in bad}
        refitted, wrong = _refit_sample(builder, sound, sample, seed, progress)
        problems += wrong
    bad = {problem.shard for problem in problems}
    return Verification(report.count, len(set(report.sound) - bad), refitted, problems)


def problem_lines(problems: list[Problem]) -> list[str]:
    """What to print: a line for each problem, but one for all shards that are outdated for the same reason."""
    reasons: dict[str, list[int]] = {}
    for problem in problems:
        if problem.outdated and problem.shard is not None:
            reasons.setdefault(problem.text, []).append(problem.shard)
    again = "would be built again (repair leaves them unless told --outdated)"
    lines = [problem.text for problem in problems if not problem.outdated]
    return lines + [f"{reason}: {name_shards(shards)} {again}" for reason, shards in reasons.items()]


def _other_fingerprints(builder: Builder, report: FilesReport) -> list[Problem]:
    made = {index: builder.shards[index] for index in report.sound}
    as_now = {
        index
        for index, shard in made.items()
        if report.sound[index]["fingerprint"] == builder.fingerprint(shard)
        and report.sound[index]["pieces"] == list(shard.pieces)
    }
    problems = []
    for index in sorted(made.keys() - as_now):
        was, wanted = report.sound[index]["made_from"], builder.ingredients(made[index])
        reason = describe_difference(was, wanted)
        # Of the same rows, or like all others: no foreign shard, but an older one. It may be good as it is.
        if was and (not as_now or was.get("pieces") == wanted["pieces"]):
            problems.append(Problem(reason, index, outdated=True))
        else:
            problems.append(Problem(f"{made[index].meta_file(builder.out)}: {reason}. Build the shard again.", index))
    return problems


def _refit_sample(
    builder: Builder,
    metas: Mapping[int, Mapping[str, Any]],
    sample: int,
    seed: int,
    progress: Callable[[int], None] | None,
) -> tuple[int, list[Problem]]:
    """How many rows were looked at, and a problem for each shard that holds something else."""
    chosen = _choose(metas, sample, seed)
    pieces: list[AnnotationRows] = []
    rejects: list[Reject] = []
    for source, row in (key for keys in chosen.values() for key in keys):
        kept, out = check_rows(builder.readers[source].read(row, row + 1), builder.manifest.source(source).exclude)
        pieces += [kept] if len(kept) else []
        rejects += out
    fitted, failed, _ = builder.fitter.fit(pieces, progress) if pieces else ([], [], 0)
    now: dict[Key, Mapping[str, Any]] = {_key(row): row for pair in fitted for row in shard_table(*pair).to_pylist()}
    now |= {(reject.source, reject.source_row): {"reason": reject.reason} for reject in (*rejects, *failed)}
    problems = []
    for index, keys in chosen.items():
        was = _stored(builder.shards[index], builder.out, keys)
        loose = "cuda" in str(metas[index].get("device")) or builder.device.type == "cuda"
        wrong = [
            f"{key[0]}/{key[1]:08d} ({difference})"
            for key in keys
            if (difference := first_difference(was.get(key, {}), now[key], loose))
        ]
        if wrong:
            file = builder.shards[index].data_file(builder.out)
            text = f"{file}: {len(wrong)} of {len(keys)} rows made again are others, the first {wrong[0]}."
            problems.append(Problem(f"{text} Build the shard again.", index))
    return sum(map(len, chosen.values())), problems


def _choose(metas: Mapping[int, Mapping[str, Any]], sample: int, seed: int) -> dict[int, list[Key]]:
    """So many rows of all, by shard."""
    places = [(index, piece) for index in metas for piece in metas[index]["pieces"]]
    ends = np.cumsum([len(piece) for _, piece in places], dtype=int)
    total = int(ends[-1]) if places else 0
    chosen: dict[int, list[Key]] = {}
    for number in np.sort(np.random.default_rng(seed).choice(total, min(sample, total), replace=False)).tolist():
        place = int(np.searchsorted(ends, number, side="right"))
        index, piece = places[place]
        chosen.setdefault(index, []).append((piece.source, piece.stop - int(ends[place]) + number))
    return chosen


def _stored(shard: Shard, out: Place, keys: Sequence[Key]) -> dict[Key, Mapping[str, Any]]:
    """These rows as the shard has them; a rejected one by its reason alone."""
    with open_parquet(shard.rejects_file(out)) as file:
        found: dict[Key, Mapping[str, Any]] = {
            _key(row): {"reason": row["reason"]} for row in file.read(["source", "source_row", "reason"]).to_pylist()
        }
    with open_parquet(shard.data_file(out)) as file:
        table = file.read()
    kept = zip(table["source"].to_pylist(), table["source_row"].to_pylist(), strict=True)
    places = {key: i for i, key in enumerate(kept)}
    return found | {key: table.slice(places[key], 1).to_pylist()[0] for key in keys if key in places}


def _key(row: Mapping[str, Any]) -> Key:
    return row["source"], row["source_row"]


def first_difference(was: Mapping[str, Any], now: Mapping[str, Any], loose: bool) -> str | None:
    """The first column in which two rows differ: fitted ones by more than rounding, all others in any bit.

    A row that was rejected has its `reason` only.
    """
    if "reason" in was or "reason" in now:
        reasons = was.get("reason", "kept"), now.get("reason", "kept")
        return None if reasons[0] == reasons[1] else f"{reasons[0]}, not {reasons[1]}"
    for name in SCHEMA.names:
        if name in _PATH_DEPENDENT:
            continue
        a, b = was[name], now[name]
        if a is None or b is None or isinstance(a, str):
            if a != b:
                return name
            continue
        first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        apart = np.where(same, 0.0, np.abs(first - second)).max()
        if not apart <= _tolerance(name, now, loose):  # not a number on one side only, too
            return f"{name} by {apart:.2g}"
    return None


def _tolerance(name: str, row: Mapping[str, Any], loose: bool) -> float:
    if name == "skel_q":
        return SAME_Q_RAD * (10 if loose else 1)
    if name == "max_limit_violation_deg":
        return float(np.degrees(SAME_Q_RAD)) * (10 if loose else 1)
    if name in ("skel_betas", "skel_transl") or name in FIT_COLUMNS:
        return SAME_MM * (5 if loose else 1)
    if name == "keypoints_3d" and row["keypoints_3d_source"] != "label":
        return 1e-5  # m, of a mesh
    return 0.0


def _move(path: Place, target: Place) -> None:
    if isinstance(path, Path) and isinstance(target, Path):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        except OSError as error:
            raise UserError(f"cannot move {path} to {target}: {error.strerror or error}. Move it by hand.") from error
    elif path.is_dir():
        raise UserError(f"{path} is a folder, and a store has no step that moves one. Move it by hand to {target}.")
    else:
        put_bytes(target, path.read_bytes())
        path.unlink(missing_ok=True)


def repair_dataset(
    out: Place,
    problems: list[Problem],
    open_builder: Callable[[], Builder],
    *,
    outdated: bool = False,
    progress: bool = True,
) -> tuple[int, int]:
    """Move away what does not belong there, and build again the shards that something is wrong with.

    Args:
        out: the dataset's folder.
        problems: as found.
        open_builder: opens the manifest's builder, when nothing is in its way any more.
        outdated: also build again shards that are sound but outdated.
        progress: show a progress bar on a terminal.

    Returns how many files were moved and how many shards built. Raises `UserError` as a build does.
    """
    strays = [problem.stray for problem in problems if problem.stray is not None]
    for path in strays:
        if is_temporary(path) and not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        target, number = out / SET_ASIDE / path.parent.name / path.name, 1
        while target.exists():  # of an earlier repair
            target, number = target.parent / f"{path.name}.{number}", number + 1
        _move(path, target)
    mended = [problem for problem in problems if outdated or not problem.outdated]
    shards = sorted({problem.shard for problem in mended if problem.shard is not None})
    if shards:
        builder = open_builder()
        builder.load_models(shards, rebuild=True)
        for index in shards:
            builder.build(index, rebuild=True, progress=progress)
    return len(strays), len(shards)
