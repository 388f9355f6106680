"""Damage to a finished dataset, seeded: `verify` has to find it and name no other shard, `--repair` to mend it."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from flows.shard import Builder
from flows.verify import repair_dataset, verify_dataset
from hmr_skel.data.shards import Shard
from tools.drill.damage import cost
from tools.drill.faults import Result

KINDS = (
    "bit flipped in data", "bit flipped in rejects", "bit flipped in meta", "file cut short", "file grown",
    "files swapped", "file removed", "shard duplicated", "file duplicated", "foreign shard",
)  # fmt: skip


def damage(kind: str, shards: Sequence[Shard], out: Path, other: Path, rng: Random) -> tuple[set[int], set[Path]]:
    """Do one kind of damage to a dataset; `other` is a dataset of as many shards, of other labels.

    Returns the numbers of the shards that are not whole any more, and files that do not belong there.
    """
    shard, second = rng.sample(list(shards), 2)
    ours, theirs, foreign = _files(shard, out), _files(second, out), _files(shard, other)
    which = rng.randrange(3)
    path, content = ours[which], ours[which].read_bytes()
    match kind:
        case "bit flipped in data" | "bit flipped in rejects" | "bit flipped in meta":
            path = ours[("data", "rejects", "meta").index(kind.split()[-1])]
            flipped = bytearray(path.read_bytes())
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            path.write_bytes(flipped)
        case "file cut short":
            path.write_bytes(content[: rng.randrange(len(content))])
        case "file grown":
            path.write_bytes(content + rng.randbytes(rng.randint(1, 100)))
        case "files swapped":
            if content == theirs[which].read_bytes():  # the rejects of shards that have none: no damage
                which, content = 0, ours[0].read_bytes()
            ours[which].write_bytes(theirs[which].read_bytes())
            theirs[which].write_bytes(content)
            return {shard.index, second.index}, set()
        case "file removed":
            path.unlink()
        case "shard duplicated":  # its rows are there twice, those of the other not at all
            for source, target in zip(ours, theirs, strict=True):
                shutil.copyfile(source, target)
            return {second.index}, set()
        case "file duplicated":  # a number beyond the last, another count, a zero more, a file manager's copy
            beyond, larger = f"{shard.count + rng.randrange(3):05d}-of-{shard.count:05d}", f"{shard.index:05d}-of-00099"
            names = [path.name.replace(shard.number, number) for number in (beyond, larger, f"0{shard.number}")]
            stray = path.with_name(rng.choice([*names, f"{path.stem} (1){path.suffix}"]))
            shutil.copyfile(path, stray)
            return set(), {stray}
        case "foreign shard":
            for source, target in zip(foreign, ours, strict=True):
                shutil.copyfile(source, target)
    return {shard.index}, set()


def _files(shard: Shard, out: Path) -> tuple[Path, Path, Path]:
    return shard.data_file(out), shard.rejects_file(out), shard.meta_file(out)


def damage_and_repair(builder: Builder, other: Path, work: Path, *, times: int, seed: int) -> Iterator[Result]:
    """Damage copies of a dataset, in each kind in turn; verify and repair each, and yield its result.

    Args:
        builder: of the finished dataset, which stays as it is.
        other: a finished dataset of as many shards, of other labels.
        work: an empty folder for the copies.
        times: how many.
        seed: of where and what.
    """
    sound, target = builder.local, work / "damaged"
    rng = Random(seed)
    builder.out = target
    try:
        for number in range(times):
            shutil.rmtree(target, ignore_errors=True)
            for folder in ("data", "rejects", "meta"):
                shutil.copytree(sound / folder, target / folder)
            kind = KINDS[number % len(KINDS)]
            damaged, strays = damage(kind, builder.shards, target, other, rng)
            notes = tuple(f"{kind}: {what}" for what in _mended(builder, kind == "foreign shard", damaged, strays))
            yield Result("damage, verify --repair", 1, cost(target, sound), notes)
    finally:
        builder.out = sound


def _mended(builder: Builder, foreign: bool, damaged: set[int], strays: set[Path]) -> list[str]:
    """Verify, repair, verify again. Returns what did not go as it should.

    A foreign shard is a sound one, which only the manifest can tell, and a build replaces.
    """
    target, wrong = builder.local, []
    if not verify_dataset(target).problems and not foreign:
        wrong.append("not found by the files alone")
    problems = verify_dataset(target, builder, sample=0).problems
    named = {problem.shard for problem in problems if problem.shard is not None}
    found = {problem.stray for problem in problems if problem.stray is not None}
    if not (problems if foreign else damaged <= named and strays <= found):
        wrong.append(f"shards {sorted(damaged)} and files {sorted(strays)} are not found")
    if named - damaged:
        wrong.append(f"shards {sorted(named - damaged)} are named, with which nothing is wrong")
    repair_dataset(builder, problems, progress=False)
    for index in builder.unfinished(range(len(builder.shards))) if foreign else ():
        builder.build(index, progress=False)
    if verify_dataset(target, builder, sample=0).problems:
        wrong.append("not sound after the repair")
    return wrong
