"""Damage to a finished dataset, seeded: does `verify` find each, name no other shard, and does `--repair` mend it?"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

from flows.shard import Builder
from flows.verify import repair_dataset, verify_dataset
from hmr_skel.data.shards import Shard


@dataclass(frozen=True)
class Damage:
    """What was done."""

    text: str
    shards: frozenset[int] = frozenset()
    """The shards that are not whole any more."""
    strays: frozenset[Path] = frozenset()
    """Files that do not belong there."""


@dataclass(frozen=True)
class Outcome:
    """What became of one damage."""

    kind: str
    text: str
    found: bool
    """By `verify`, with the shard or the file named."""
    by_files: bool
    """By `verify --files-only`."""
    others: int
    """Shards named with which nothing was wrong."""
    restored: bool
    """After `--repair` the dataset equals the undamaged one."""


Damaging = Callable[[Sequence[Shard], Path, Path, Random], Damage]
"""(shards, dataset, another dataset of as many shards, generator) -> what was done."""


def _files(shard: Shard, out: Path) -> tuple[Path, Path, Path]:
    return shard.data_file(out), shard.rejects_file(out), shard.meta_file(out)


def _bit_flip(which: int) -> Damaging:
    def flip(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
        shard = rng.choice(shards)
        path = _files(shard, out)[which]
        content = bytearray(path.read_bytes())
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        return Damage(f"bit {bit} of byte {place} of {path.name}", frozenset({shard.index}))

    return flip


def _cut_short(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    shard = rng.choice(shards)
    path = rng.choice(_files(shard, out))
    size = rng.randrange(path.stat().st_size)
    path.write_bytes(path.read_bytes()[:size])
    return Damage(f"{path.name} cut to {size} bytes", frozenset({shard.index}))


def _grown(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    shard = rng.choice(shards)
    path = rng.choice(_files(shard, out))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 100)))
    return Damage(f"bytes after the end of {path.name}", frozenset({shard.index}))


def _swapped(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    """Two files of a kind that differ: rejects of shards without any are equal, and swapping them is no damage."""
    while True:
        one, two = rng.sample(list(shards), 2)
        first, second = rng.choice(list(zip(_files(one, out), _files(two, out), strict=True)))
        contents = first.read_bytes(), second.read_bytes()
        if contents[0] != contents[1]:
            break
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    return Damage(f"{first.name} and {second.name} swapped", frozenset({one.index, two.index}))


def _file_removed(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    shard = rng.choice(shards)
    path = rng.choice(_files(shard, out))
    path.unlink()
    return Damage(f"{path.name} removed", frozenset({shard.index}))


def _shard_removed(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    shard = rng.choice(shards)
    for path in _files(shard, out):
        path.unlink()
    return Damage(f"shard {shard.index} removed", frozenset({shard.index}))


def _copied_over(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    """A shard's three files under the names of another: its rows are there twice, the other's not at all."""
    one, two = rng.sample(list(shards), 2)
    for source, target in zip(_files(one, out), _files(two, out), strict=True):
        shutil.copyfile(source, target)
    return Damage(f"shard {one.index} copied over shard {two.index}", frozenset({two.index}))


def _copied_beside(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    """A file under a name of no shard: a number beyond the last, another count, one more zero, or what a file manager
    calls a copy."""
    shard = rng.choice(shards)
    path = rng.choice(_files(shard, out))
    beyond, larger = f"{shard.count + rng.randrange(3):05d}-of-{shard.count:05d}", f"{shard.index:05d}-of-{99:05d}"
    name = rng.choice(
        [
            path.name.replace(shard.number, beyond),
            path.name.replace(shard.number, larger),
            path.name.replace(shard.number, f"0{shard.number}"),
            f"{path.stem} (1){path.suffix}",
        ]
    )
    shutil.copyfile(path, path.with_name(name))
    return Damage(f"{path.name} copied to {name}", strays=frozenset({path.with_name(name)}))


def _foreign(shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> Damage:
    """A sound shard of another dataset, of other labels, in the place of ours."""
    shard = rng.choice(shards)
    for source, target in zip(_files(shard, other), _files(shard, out), strict=True):
        shutil.copyfile(source, target)
    return Damage(f"shard {shard.index} of another dataset", frozenset({shard.index}))


KINDS: Mapping[str, Damaging] = {
    "bit flipped in data": _bit_flip(0),
    "bit flipped in rejects": _bit_flip(1),
    "bit flipped in meta": _bit_flip(2),
    "file cut short": _cut_short,
    "file grown": _grown,
    "files swapped": _swapped,
    "file removed": _file_removed,
    "shard removed": _shard_removed,
    "shard duplicated": _copied_over,
    "file duplicated": _copied_beside,
    "foreign shard": _foreign,
}


def corruption_drill(
    builder: Builder,
    other: Path,
    work: Path,
    *,
    times: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> list[Outcome]:
    """Damage a dataset `times` times, in each kind in turn, and verify and repair it each time.

    Args:
        builder: of the finished dataset, which stays as it is (`any_plan=True`).
        other: a finished dataset of as many shards, of other labels.
        work: an empty folder for the copies that are damaged.
        times: how many.
        seed: of where and what.
        progress: called after each.
    """
    sound, target = builder.local, work / "damaged"
    rng = Random(seed)
    kinds = list(KINDS.items())
    outcomes = []
    builder.out = target
    try:
        for number in range(times):
            shutil.rmtree(target, ignore_errors=True)
            for folder in ("data", "rejects", "meta"):
                shutil.copytree(sound / folder, target / folder)
            kind, damage = kinds[number % len(kinds)]
            done = damage(builder.shards, target, other, rng)
            outcomes.append(_outcome(kind, done, builder, sound))
            if progress is not None:
                progress(1)
    finally:
        builder.out = sound
    return outcomes


def _outcome(kind: str, done: Damage, builder: Builder, sound: Path) -> Outcome:
    target = builder.local
    alone = verify_dataset(target).problems
    problems = verify_dataset(target, builder, sample=0).problems
    named = {problem.shard for problem in problems if problem.shard is not None}
    strays = {problem.stray for problem in problems if problem.stray is not None}
    repair_dataset(target, problems, lambda: builder, progress=False)
    clean = not verify_dataset(target, builder, sample=0).problems
    return Outcome(
        kind=kind,
        text=done.text,
        found=done.shards <= named and done.strays <= strays,
        by_files=bool(alone),
        others=len(named - done.shards),
        restored=clean and equal_datasets(sound, target),
    )


def equal_datasets(one: Path, two: Path) -> bool:
    """Whether two datasets have the same shards with equal values in every column of data and rejects."""
    for folder in ("data", "rejects"):
        names = [sorted(path.name for path in (out / folder).glob("[!.]*.parquet")) for out in (one, two)]
        if names[0] != names[1]:
            return False
        for name in names[0]:
            first, second = (pq.read_table(out / folder / name) for out in (one, two))
            if not _equal(first, second):
                return False
    return True


def _equal(one, two) -> bool:
    """Equal in every bit; `Table.equals` says that not-a-number differs from itself."""
    if one.schema != two.schema or len(one) != len(two):
        return False
    for name in one.column_names:
        first, second = one[name].combine_chunks(), two[name].combine_chunks()
        if not first.equals(second) and str(first.to_pylist()) != str(second.to_pylist()):
            return False
    return True


def corruption_table(outcomes: Sequence[Outcome]) -> str:
    """A line per kind."""
    lines = [f"{'damage':<26}{'times':>7}{'found':>7}{'by files alone':>16}{'wrongly named':>15}{'restored':>10}"]
    for kind in [*dict.fromkeys(outcome.kind for outcome in outcomes), None]:
        own = [outcome for outcome in outcomes if kind in (None, outcome.kind)]
        counts = (len(own), *(sum(getattr(one, name) for one in own) for name in _COUNTED))
        lines.append(
            f"{kind or 'all':<26}" + "".join(f"{n:>{w}}" for n, w in zip(counts, (7, 7, 16, 15, 10), strict=True))
        )
    return "\n".join(lines)


_COUNTED = ("found", "by_files", "others", "restored")
