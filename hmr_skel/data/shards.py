"""Rows -> numbered shards, and what a shard's files are called. A pure function of the manifest and the row counts."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hmr_skel.data.manifest import MAX_SHARDS, Manifest
from hmr_skel.data.meta import load_meta
from hmr_skel.data.storage import Place, RemotePath, sha256_of
from hmr_skel.errors import UserError

P = TypeVar("P", Path, RemotePath, Place)


@dataclass(frozen=True)
class Piece:
    """A run of rows of one source."""

    source: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Shard:
    """One unit of work: rows [index * rows_per_shard, ...) of all sources laid end to end in the manifest's order."""

    index: int
    count: int  # of shards in the dataset
    pieces: tuple[Piece, ...]
    held_out: bool  # for evaluation, not for training

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def number(self) -> str:
        """`00007-of-00012`"""
        return f"{self.index:05d}-of-{self.count:05d}"

    def data_file(self, out: P) -> P:
        # Held-out shards are called train- too: which they are is the manifest's choice, and names must not change
        # with it. The dataset card tells Hugging Face `datasets` which split a file belongs to.
        return out / "data" / f"train-{self.number}.parquet"

    def rejects_file(self, out: P) -> P:
        return out / "rejects" / f"rejects-{self.number}.parquet"

    def meta_file(self, out: P) -> P:
        return out / "meta" / f"shard-{self.number}.json"


def plan(manifest: Manifest, num_rows: Mapping[str, int]) -> list[Shard]:
    """All shards of a manifest whose sources have so many rows (by name)."""
    total = sum(num_rows[source.name] for source in manifest.sources)
    size = manifest.rows_per_shard
    count = -(-total // size)
    if count > MAX_SHARDS:
        raise UserError(
            f"manifest {manifest.name!r} makes {count:,} shards of {size:,} rows out of {total:,}. Expected at most "
            f"{MAX_SHARDS:,}: raise rows_per_shard."
        )
    if manifest.held_out_shards >= count:
        raise UserError(
            f"manifest {manifest.name!r} holds out {manifest.held_out_shards} shards, but {total:,} rows make {count} "
            f"of {size:,}. Expected fewer: lower held_out_shards or rows_per_shard."
        )
    return [
        Shard(
            index=index,
            count=count,
            pieces=tuple(_pieces(manifest, num_rows, index * size, min((index + 1) * size, total))),
            held_out=index >= count - manifest.held_out_shards,
        )
        for index in range(count)
    ]


def _pieces(manifest: Manifest, num_rows: Mapping[str, int], start: int, stop: int):
    offset = 0  # of the source's first row among all rows
    for source in manifest.sources:
        first, last = max(start - offset, 0), min(stop - offset, num_rows[source.name])
        if first < last:
            yield Piece(source.name, first, last)
        offset += num_rows[source.name]


def pick(shards: list[Shard], index: int) -> Shard:
    """The shard of that number. Raises `UserError` where there is none."""
    if not 0 <= index < len(shards):
        raise UserError(f"no shard {index}: this manifest makes {len(shards)} shards, 0 to {len(shards) - 1}.")
    return shards[index]


def parse_shards(text: str, what: str = "shards") -> list[int]:
    """`0-3,7` to [0, 1, 2, 3, 7]. Numbers are decimal: 07 and 08 are 7 and 8. Raises `UserError`."""
    numbers: list[int] = []
    for part in text.split(","):
        if not (match := re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part, re.ASCII)):
            raise UserError(f"{text!r} names no {what}. Expected whole numbers from 0, such as 7, 07 or 0-3,7.")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise UserError(f"{part.strip()!r} in {text!r} goes backwards. Expected the smaller number first.")
        numbers += range(first, last + 1)
    return sorted(set(numbers))


def name_shards(indices: Iterable[int]) -> str:
    """`shards 0-3, 7` of [0, 1, 2, 3, 7]; `shard 7` of [7]."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and runs[-1][-1] == index - 1:
            runs[-1][1:] = [index]
        else:
            runs.append([index])
    plural = "s" * (len(runs) > 1 or len(runs[0]) > 1)
    return f"shard{plural} {', '.join('-'.join(map(str, run)) for run in runs)}"


def cache_dir(out: Path) -> Path:
    """Where unpacked label arrays are kept beside a dataset. May be deleted at any time between builds."""
    return out / ".cache"


def read_meta(out: Place, shard: Shard) -> dict[str, Any] | None:
    """The shard's meta file, or None where there is none or it is damaged."""
    try:
        return load_meta(shard.meta_file(out))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def is_complete(out: Place, shard: Shard, fingerprint: str, *, read: bool = False) -> bool:
    """Whether the shard is there, its files have the sizes in its meta file, and it was made from what `fingerprint`
    stands for. With `read`, its files are read, and must have the checksums in its meta file too."""
    meta = read_meta(out, shard)
    if meta is None or meta["fingerprint"] != fingerprint:
        return False
    found = {}
    try:
        for file in (shard.data_file, shard.rejects_file):
            name, path = file(Path()).as_posix(), file(out)
            found[name] = {"bytes": path.stat().st_size} | ({"sha256": sha256_of(path)} if read else {})
    except (FileNotFoundError, NotADirectoryError):
        return False
    keys = ("bytes", "sha256") if read else ("bytes",)
    return found == {name: {key: file[key] for key in keys} for name, file in meta["files"].items()}


def check_no_other_plan(out: Place, count: int) -> None:
    """Raise `UserError` where `out` holds shards of another number of shards: readers would mix the two."""
    for folder in ("data", "rejects", "meta"):
        for path in sorted((out / folder).glob("[!.]*-of-*.*")):  # hidden ones are temporary
            if not path.stem.endswith(f"-of-{count:05d}"):
                raise UserError(
                    f"{path} belongs to a dataset of another number of shards than the {count} of this manifest. "
                    "Choose another output folder (--out, or OUT=), or delete this one's data, rejects and meta."
                )
