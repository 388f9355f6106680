"""Damage to a finished dataset, seeded: `verify` has to find it and name no other shard, `--repair` to mend it."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from flows.shard import Builder
from flows.verify import repair_dataset, verify_dataset
from hmr_skel.data.shards import Shard
from tools.drill.damage import cost
from tools.drill.faults import Result


@dataclass(frozen=True)
class Damage:
    """What was done."""

    text: str
    shards: frozenset[int] = frozenset()
    """The shards that are not whole any more."""
    strays: frozenset[Path] = frozenset()
    """Files that do not belong there."""


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


def damage_and_repair(builder: Builder, other: Path, work: Path, *, times: int, seed: int) -> list[Result]:
    """Damage copies of a dataset, in each kind in turn; verify and repair each.

    Args:
        builder: of the finished dataset, which stays as it is (`any_plan=True`).
        other: a finished dataset of as many shards, of other labels.
        work: an empty folder for the copies.
        times: how many.
        seed: of where and what.
    """
    sound, target = builder.local, work / "damaged"
    rng, kinds, results = Random(seed), list(KINDS.items()), []
    builder.out = target
    try:
        for number in range(times):
            shutil.rmtree(target, ignore_errors=True)
            for folder in ("data", "rejects", "meta"):
                shutil.copytree(sound / folder, target / folder)
            kind, damage = kinds[number % len(kinds)]
            done = damage(builder.shards, target, other, rng)
            notes = tuple(f"{kind}: {done.text}: {what}" for what in _mended(builder, done))
            results.append(Result("damage, verify --repair", 1, cost(target, sound), notes))
    finally:
        builder.out = sound
    return results


def _mended(builder: Builder, done: Damage) -> list[str]:
    """Verify, repair, verify again. Returns what did not go as it should."""
    target, wrong = builder.local, []
    if not verify_dataset(target).problems:
        wrong.append("not found by the files alone")
    problems = verify_dataset(target, builder, sample=0).problems
    named = {problem.shard for problem in problems if problem.shard is not None}
    strays = {problem.stray for problem in problems if problem.stray is not None}
    if not (done.shards <= named and done.strays <= strays):
        wrong.append("not found")
    if named - done.shards:
        wrong.append(f"shards {sorted(named - done.shards)} are named, with which nothing is wrong")
    repair_dataset(target, problems, lambda: builder, progress=False)
    if verify_dataset(target, builder, sample=0).problems:
        wrong.append("not sound after the repair")
    return wrong
