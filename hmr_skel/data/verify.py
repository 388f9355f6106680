"""Check a dataset on disk against its own meta files.

`flows/verify.py` also compares it with the manifest, fits a sample of rows again, and repairs it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hmr_skel.data.atomic import is_temporary
from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA
from hmr_skel.data.shards import Piece, Shard, find_files, shard_state
from hmr_skel.data.storage import Place, open_parquet
from hmr_skel.errors import UserError


@dataclass(frozen=True)
class Problem:
    """A problem of a dataset."""

    text: str
    """A sentence that names the file."""
    shard: int | None = None
    """The shard to build again."""
    stray: Place | None = None
    """The file to move away."""


@dataclass(frozen=True)
class Verification:
    """The problems of a dataset, and how much of it was checked."""

    shards: int
    """The number of shards that the dataset should have."""
    sound: list[int]
    """The numbers of shards without problems."""
    not_built: list[int]
    """The numbers of shards without files."""
    problems: list[Problem]
    refitted: int = 0
    """The number of rows that were read and fitted again."""


def verify_files(out: Place, count: int | None = None) -> Verification:
    """Check every file of a dataset.

    Each shard with a file must be complete (`shard_state`), with the checksums that were written, the columns of the
    schema, finite SKEL values, and each of its rows either kept or rejected, once. No row may be in two shards, and no
    file may be there without a shard, except temporary files, which builds remove.

    `count` is the number of shards; by default that in most files' names. Raises `UserError` if there is no dataset.
    """
    there, others = find_files(out)
    if count is None:
        if not there:
            raise UserError(f"no dataset in {out}. Expected {out / 'meta' / 'shard-00000-of-00012.json'} or the like.")
        count = Counter(number for _, number in there).most_common(1)[0][0]
    text = "not a name of a dataset's file."
    problems = [Problem(f"{path}: {text}", stray=path) for path in others if not is_temporary(path)]
    problems += [
        Problem(f"{path}: of no shard of this dataset, which has {count}, 0 to {count - 1}.", stray=path)
        for (index, of), paths in there.items()
        if of != count or index >= count
        for path in paths
    ]
    sound: dict[int, list[Piece]] = {}
    not_built = [index for index in range(count) if (index, count) not in there]
    for index in sorted(set(range(count)) - set(not_built)):
        try:
            sound[index] = _verified_pieces(out, Shard(index, count, (), False))
        except UserError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise  # an error of the disk or the store is not damage: build nothing again
            problems.append(Problem(str(error), index))
    return Verification(count, list(sound), not_built, problems + _in_two_shards(out, sound))


def _verified_pieces(out: Place, shard: Shard) -> list[Piece]:
    """The pieces of the shard. Raises `UserError` for the first problem."""
    state = shard_state(out, shard, read=True)
    if state.meta is None or state.kind != "complete":
        raise UserError(f"{state.why}. Build the shard again.")
    meta, keys = state.meta, []
    for path, schema, count, finite in (
        (shard.data_file(out), SCHEMA, meta["kept"], ("skel_q", "skel_betas")),
        (shard.rejects_file(out), REJECTS_SCHEMA, meta["rejected"], ()),
    ):
        with open_parquet(path) as file:
            if not file.schema_arrow.equals(schema):
                raise _wrong(path, "it has other columns than this version writes.")
            if file.metadata.num_rows != count:
                raise _wrong(path, f"it has {file.metadata.num_rows:,} rows, but its meta file says {count:,}.")
            made_from = (file.schema_arrow.metadata or {}).get(b"hmr_skel.fingerprint", b"")
            if schema is SCHEMA and made_from != meta["fingerprint"].encode():
                raise _wrong(path, "it has another fingerprint than its meta file.")
            table = file.read([*finite, "source", "source_row"])
        for name in finite:
            values = table[name].combine_chunks()
            if bad := values.null_count + np.count_nonzero(~np.isfinite(values.flatten())):
                raise _wrong(path, f"{name} has {bad:,} values that are not finite.")
        keys.append((table["source"].to_numpy(), table["source_row"].to_numpy()))
    sources, rows = (np.concatenate(parts) for parts in zip(*keys, strict=True))
    pieces = [Piece(**piece) for piece in meta["pieces"]]
    expected, once = sum(map(len, pieces)), 0
    for piece in pieces:
        own = rows[(sources == piece.source) & (rows >= piece.start) & (rows < piece.stop)]
        once += len(np.unique(own))
    if once != expected or len(rows) != expected:
        lost, extra = expected - once, len(rows) - once
        what = f"of {expected} rows to read, {lost} are neither kept nor rejected; {extra} too many."
        raise _wrong(shard.meta_file(out), what)
    return pieces


def _wrong(path: Place, what: str) -> UserError:
    return UserError(f"{path}: {what} Build the shard again.")


def _in_two_shards(out: Place, sound: Mapping[int, Sequence[Piece]]) -> list[Problem]:
    problems = []
    spans = sorted((piece.source, piece.start, piece.stop, index) for index in sound for piece in sound[index])
    for (source, _, stop, first), (other, start, _, second) in pairwise(spans):
        if source == other and start < stop:
            text = f"{out}: rows of {source!r} are in shard {first} and in shard {second} too. Build both again."
            problems += [Problem(text, first), Problem(text, second)]
    return problems
