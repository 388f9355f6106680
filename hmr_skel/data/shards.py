"""Divide rows into numbered shards (by the manifest and the row counts only), and say which shards are complete.

A shard's fingerprint is the hash of everything that it depends on: while it is equal, the shard is not built again.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from hmr_skel.data.manifest import MAX_SHARDS, Manifest
from hmr_skel.data.meta import load_meta
from hmr_skel.data.storage import Place, RemotePath, each, sha256_of
from hmr_skel.errors import UserError
from hmr_skel.places import data_folder

P = TypeVar("P", Path, RemotePath, Place)


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one source."""

    source: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Shard:
    """A unit of work: rows [index * rows_per_shard, ...) of all sources, concatenated in the manifest's order."""

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
        # Held-out shards are also called train-, since names must not change with the manifest's choice. The dataset
        # card tells Hugging Face `datasets` which split a file belongs to.
        return out / "data" / f"train-{self.number}.parquet"

    def rejects_file(self, out: P) -> P:
        return out / "rejects" / f"rejects-{self.number}.parquet"

    def meta_file(self, out: P) -> P:
        return out / "meta" / f"shard-{self.number}.json"


def plan(manifest: Manifest, num_rows: Mapping[str, int]) -> list[Shard]:
    """All shards of a manifest whose sources have these numbers of rows (by name)."""
    total, size = sum(num_rows[source.name] for source in manifest.sources), manifest.rows_per_shard
    count = -(-total // size)
    if not manifest.held_out_shards < count <= MAX_SHARDS:
        raise UserError(
            f"manifest {manifest.name!r} holds out {manifest.held_out_shards} shards; {total:,} rows make {count:,} of "
            f"{size:,}. Expected more than are held out, and at most {MAX_SHARDS:,}: change rows_per_shard."
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
    offset = 0  # number of the source's first row among all rows
    for source in manifest.sources:
        first, last = max(start - offset, 0), min(stop - offset, num_rows[source.name])
        if first < last:
            yield Piece(source.name, first, last)
        offset += num_rows[source.name]


def pick(shards: list[Shard], index: int) -> Shard:
    """The shard with that number. Raises `UserError` if there is none."""
    if not 0 <= index < len(shards):
        raise UserError(f"no shard {index}: this manifest makes {len(shards)} shards, 0 to {len(shards) - 1}.")
    return shards[index]


def parse_shards(text: str, what: str = "shards") -> list[int]:
    """Parse `0-3,7` to [0, 1, 2, 3, 7]. Numbers are decimal: 07 and 08 are 7 and 8. Raises `UserError`."""
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
    """`shards 0-3, 7` for [0, 1, 2, 3, 7]; `shard 7` for [7]."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and runs[-1][-1] == index - 1:
            runs[-1][1:] = [index]
        else:
            runs.append([index])
    text = ", ".join("-".join(map(str, run)) for run in runs)
    return f"shard {text}" if text.isdecimal() else f"shards {text}"


class ShardState(NamedTuple):
    """The state of a shard, the same for builds, readers, `verify` and the report."""

    kind: Literal["missing", "unfinished", "outdated", "complete"]
    why: str = ""
    """The wrong file, and what is wrong with it; empty for a complete shard."""
    meta: dict[str, Any] | None = None
    """The content of the meta file; None if it is missing or damaged."""


def shard_state(out: Place, shard: Shard, fingerprint: str | None = None, *, read: bool = False) -> ShardState:
    """The state of a shard by its files.

    `missing`: it has no file. `unfinished`: its meta file, which is written last, is missing or damaged, or its data or
    rejects file does not have the size that the meta file names. `outdated`: its fingerprint is not `fingerprint` (not
    checked for None). Else `complete`. With `read`, checksums of the files are also compared.
    """
    path = shard.meta_file(out)
    try:
        meta = load_meta(path)
    except (FileNotFoundError, NotADirectoryError):
        if shard.data_file(out).exists() or shard.rejects_file(out).exists():
            return ShardState("unfinished", f"{path}: missing; the shard is unfinished")
        return ShardState("missing", f"{out}: shard {shard.index} of {shard.count} is missing")
    except ValueError as error:
        return ShardState("unfinished", f"{path}: not a meta file of a shard ({error})")
    if (meta["shard"], meta["shards"]) != (shard.index, shard.count):
        return ShardState("unfinished", f"{path}: it is the meta file of shard {meta['shard']} of {meta['shards']}")
    files = {file(Path()).as_posix(): file(out) for file in (shard.data_file, shard.rejects_file)}
    if sorted(meta["files"]) != sorted(files):
        return ShardState("unfinished", f"{path}: it names other files ({', '.join(map(repr, meta['files']))})")
    for name, file in files.items():
        recorded = meta["files"][name]
        try:
            if file.stat().st_size != recorded["bytes"] or (read and sha256_of(file) != recorded["sha256"]):
                return ShardState("unfinished", f"{file}: not the bytes that were written", meta)
        except (FileNotFoundError, NotADirectoryError):
            return ShardState("unfinished", f"{file}: missing", meta)
    if fingerprint is not None and meta["fingerprint"] != fingerprint:
        return ShardState("outdated", f"{path}: made from other things", meta)
    return ShardState("complete", meta=meta)


def find_files(out: Place) -> tuple[dict[tuple[int, int], list[Place]], list[Place]]:
    """A dataset's files by the (number, count) in their names, and the files with other names in its folders."""
    there: dict[tuple[int, int], list[Place]] = {}
    others = []
    for folder in ("data", "rejects", "meta"):
        for path in sorted((out / folder).iterdir()) if (out / folder).is_dir() else ():
            if match := re.fullmatch(r"[a-z]+-(\d{5,6})-of-(\d{5,6})\.[a-z]+", path.name, re.ASCII):
                key = int(match[1]), int(match[2])
                shard = Shard(*key, (), False)
                if path in (shard.data_file(out), shard.rejects_file(out), shard.meta_file(out)):
                    there.setdefault(key, []).append(path)
                    continue
            others.append(path)
    return there, others


def find_states(out: Place) -> dict[int, ShardState]:
    """The states of all shards of a dataset by number, without its manifest; empty if there is no dataset.

    Raises `UserError` if its files belong to two different numbers of shards.
    """
    there, _ = find_files(out)
    count = max((count for _, count in there), default=0)
    if there:
        check_no_other_plan(out, count)
    shards = [Shard(index, count, (), False) for index in range(count)]
    return dict(enumerate(each(partial(shard_state, out), shards)))


def check_no_other_plan(out: Place, count: int) -> None:
    """Raise `UserError` if `out` has files of another number of shards, since readers would mix the two."""
    for (_, of), paths in find_files(out)[0].items():
        if of != count:
            raise UserError(
                f"{paths[0]} belongs to a dataset with another number of shards than {count}. Choose another output "
                "folder (--out, or OUT=), or delete the old files in data, rejects and meta."
            )


Ingredients = Callable[[Shard], Mapping[str, Any]]
"""Gives everything that determines a shard's rows, as a build would use it now (`Builder.ingredients`)."""


def fingerprint_of(ingredients: Mapping[str, Any]) -> str:
    """The sha256 of the `Ingredients` of a shard."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def find_outdated(out: Place, shards: Sequence[Shard], ingredients: Ingredients) -> dict[Shard, dict[str, Any]]:
    """The outdated shards, with the content of their meta files."""
    states = each(lambda shard: shard_state(out, shard, fingerprint_of(ingredients(shard))), shards)
    found = zip(shards, states, strict=True)
    return {shard: state.meta for shard, state in found if state.kind == "outdated" and state.meta is not None}


def refuse_other_manifest(out: Place, manifest: Manifest, outdated: Mapping[Shard, Mapping[str, Any]]) -> None:
    """Raise `UserError` if outdated shards were made from another manifest, with another name or file.

    Shards from an older version of the same file may be built again.
    """
    for shard, meta in outdated.items():
        name, file = meta.get("manifest_name"), meta.get("manifest_file")
        if None not in (name, file) and (name, file) != (manifest.name, manifest.file):
            raise UserError(
                f"{out} holds shard {shard.index} of another dataset, {name!r} made from {file}; this is "
                f"{manifest.name!r} from {manifest.file}, and makes other rows. Give each a folder of its own: --out "
                f"(or OUT=), or another name in its manifest. If {manifest.file} is to replace that dataset: "
                "hmr-skel dataset --rebuild."
            )


_DIFFERENCES = {
    "manifest": "made from another manifest",
    "shard": "made from another division into shards",
    "pieces": "made from other rows or label files",
    "body_models": "made from other body models",
    "recipe": "made from another recipe",
    "fit_version": "fitted by version {}, this is {}",
    "schema_version": "with columns of version {}, this is {}",
}
"""How shards are told apart whose ingredients differ in one thing."""


def outdated_texts(outdated: Mapping[Shard, Mapping[str, Any]], ingredients: Ingredients) -> list[str]:
    """Why shards are outdated, and which: `fitted by version 1, this is 2: shards 0-11`. A text for each reason."""
    reasons: dict[str, list[int]] = {}
    for shard, meta in outdated.items():
        was, now = meta["made_from"], ingredients(shard)
        texts = [text.format(was.get(key), now[key]) for key, text in _DIFFERENCES.items() if was.get(key) != now[key]]
        reasons.setdefault("; ".join(texts), []).append(shard.index)
    return [f"{reason}: {name_shards(indices)}" for reason, indices in reasons.items()]


def elsewhere(folder: Place) -> str:
    """Says where a dataset of the folder's name is, if it is in the data folder: for messages that it is not here."""
    there = data_folder() / str(folder).rstrip("/").rpartition("/")[2]
    return f" There is one in {there}." if there.is_dir() and str(there) != str(folder) else ""
