"""A dataset against its manifest: fingerprints, rows of the sources, a sample of rows fitted again; and its repair."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flows.shard import Builder
from hmr_skel.data.atomic import is_temporary
from hmr_skel.data.checks import check_rows
from hmr_skel.data.fingerprint import describe_difference
from hmr_skel.data.schema import FIT_COLUMNS, SCHEMA, shard_table
from hmr_skel.data.shards import Shard, name_shards
from hmr_skel.data.storage import Place, open_parquet, put_bytes
from hmr_skel.data.verify import FilesReport, Problem, foreign_shards, verify_files
from hmr_skel.rows import AnnotationRows, Reject

SAME_Q_RAD, SAME_MM = 1e-4, 1e-3
"""How far a row fitted again may be off: in another batch it is by no more; a GPU's by ten and five times that."""
SET_ASIDE = "set-aside"
"""The folder of a dataset that repair moves files to that do not belong to it."""

_PATH_DEPENDENT = {"iterations", "starts", "status"}  # of a fit that ends in the same place by another way


@dataclass(frozen=True)
class Verification:
    """What came of it."""

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
        problems += foreign_shards(out, report.sound)
        refitted = 0
    else:
        problems += _other_fingerprints(builder, report)
        bad = {problem.shard for problem in problems}
        sound = {index: meta for index, meta in report.sound.items() if index not in bad}
        refitted, wrong = _refit_sample(builder, sound, sample, seed, progress)
        problems += wrong
    bad = {problem.shard for problem in problems}
    return Verification(report.count, len(set(report.sound) - bad), refitted, problems)


def _other_fingerprints(builder: Builder, report: FilesReport) -> list[Problem]:
    problems = []
    as_now = {index for index, meta in report.sound.items() if _is_as_now(builder, builder.shards[index], meta)}
    for index, meta in report.sound.items():
        wanted = builder.ingredients(builder.shards[index])
        if index not in as_now:
            # Of the same rows, or like all others: no foreign shard, but an older one. It may be good as it is.
            outdated = bool(meta["made_from"]) and (not as_now or meta["made_from"].get("pieces") == wanted["pieces"])
            reason = describe_difference(meta["made_from"], wanted)
            problems.append(
                Problem(reason, index, outdated=True)
                if outdated
                else Problem(f"{builder.shards[index].meta_file(builder.out)}: {reason}. Build the shard again.", index)
            )
    return problems


def problem_lines(problems: list[Problem]) -> list[str]:
    """What to print: a line for each problem, but one for all shards that are outdated for the same reason."""
    lines = [problem.text for problem in problems if not problem.outdated]
    reasons: dict[str, list[int]] = {}
    for problem in problems:
        if problem.outdated and problem.shard is not None:
            reasons.setdefault(problem.text, []).append(problem.shard)
    again = "would be built again (repair leaves them unless told --outdated)"
    return lines + [f"{reason}: {name_shards(shards)} {again}" for reason, shards in reasons.items()]


def _is_as_now(builder: Builder, shard: Shard, meta: Mapping[str, Any]) -> bool:
    return meta["fingerprint"] == builder.fingerprint(shard) and meta["pieces"] == list(shard.pieces)


def _refit_sample(
    builder: Builder,
    metas: Mapping[int, Mapping[str, Any]],
    sample: int,
    seed: int,
    progress: Callable[[int], None] | None,
) -> tuple[int, list[Problem]]:
    """How many rows were looked at, and a problem for each shard that holds something else."""
    places = [(index, piece) for index in metas for piece in metas[index]["pieces"]]
    lengths = np.array([len(piece) for _, piece in places], int)
    total = int(lengths.sum())
    if not total or sample <= 0:
        return 0, []
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(sample, total), replace=False))
    ends = np.cumsum(lengths)
    shard_of: dict[tuple[str, int], int] = {}
    pieces: list[AnnotationRows] = []
    rejects: list[Reject] = []
    for number in chosen.tolist():
        place = int(np.searchsorted(ends, number, side="right"))
        index, piece = places[place]
        row = piece.stop - int(ends[place]) + number
        kept, out = check_rows(
            builder.readers[piece.source].read(row, row + 1), builder.manifest.source(piece.source).exclude
        )
        shard_of[piece.source, row] = index
        pieces += [kept] if len(kept) else []
        rejects += out
    fitted, failed, _ = builder.fitter.fit(pieces, progress)
    fresh = {
        (row["source"], row["source_row"]): row
        for rows, columns in fitted
        for row in pa.concat_tables([SCHEMA.empty_table(), shard_table(rows, columns)]).to_pylist()
    }
    reasons = {(reject.source, reject.source_row): reject.reason for reject in (*rejects, *failed)}
    problems = []
    for index in sorted(set(shard_of.values())):
        keys = [key for key, shard in shard_of.items() if shard == index]
        loose = "cuda" in str(metas[index].get("device")) or builder.device.type == "cuda"
        wrong = _differing(builder, index, keys, fresh, reasons, loose)
        if wrong:
            file = builder.shards[index].data_file(builder.out)
            text = f"{file}: {len(wrong)} of {len(keys)} rows made again are others, the first {wrong[0]}."
            problems.append(Problem(f"{text} Build the shard again.", index))
    return len(chosen), problems


def _differing(
    builder: Builder,
    index: int,
    keys: list[tuple[str, int]],
    fresh: Mapping[tuple[str, int], Mapping[str, Any]],
    reasons: Mapping[tuple[str, int], str],
    loose: bool,
) -> list[str]:
    shard = builder.shards[index]
    with open_parquet(shard.data_file(builder.out)) as file:
        stored = file.read()
    with open_parquet(shard.rejects_file(builder.out)) as file:
        rejected = file.read(["source", "source_row", "reason"]).to_pylist()
    stored_reasons = {(row["source"], row["source_row"]): row["reason"] for row in rejected}
    kept = zip(stored["source"].to_pylist(), stored["source_row"].to_pylist(), strict=True)
    place = {key: i for i, key in enumerate(kept)}
    wrong = []
    for key in keys:
        if key in fresh and key in place:
            difference = first_difference(stored.slice(place[key], 1).to_pylist()[0], fresh[key], loose)
        else:
            was = "kept" if key in place else stored_reasons.get(key)
            now = "kept" if key in fresh else reasons[key]
            difference = f"{was}, not {now}" if was != now else None
        if difference is not None:
            wrong.append(f"{key[0]}/{key[1]:08d} ({difference})")
    return wrong


def first_difference(was: Mapping[str, Any], now: Mapping[str, Any], loose: bool) -> str | None:
    """The first column in which two rows differ: fitted ones by more than rounding, all others in any bit."""
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


def repair_dataset(
    out: Place,
    problems: list[Problem],
    open_builder: Callable[[], Builder],
    *,
    outdated: bool = False,
    progress: bool = True,
) -> tuple[int, int]:
    """Move away what does not belong there, build again the shards that something is wrong with.

    Args:
        out: the dataset's folder.
        problems: as found.
        open_builder: opens the manifest's builder, when nothing is in its way any more.
        outdated: also build again the sound shards that were only made from other things than the manifest says now.
        progress: show a progress bar on a terminal.

    Returns how many files were moved and how many shards built. Raises `UserError` as a build does.
    """
    strays = [problem.stray for problem in problems if problem.stray is not None]
    for path in strays:
        if is_temporary(path):
            path.unlink(missing_ok=True)
        else:
            _set_aside(out, path)
    mended = [problem for problem in problems if outdated or not problem.outdated]
    shards = sorted({problem.shard for problem in mended if problem.shard is not None})
    if shards:
        builder = open_builder()
        builder.load_models(shards, rebuild=True)
        for index in shards:
            builder.build(index, rebuild=True, progress=progress)
    return len(strays), len(shards)


def _set_aside(out: Place, path: Place) -> None:
    folder = out / SET_ASIDE / path.parent.name
    target, number = folder / path.name, 1
    while target.exists():  # of an earlier repair
        target, number = folder / f"{path.name}.{number}", number + 1
    put_bytes(target, path.read_bytes())
    path.unlink()
