"""Checks a dataset on disk by its files alone, against what its meta files say.

`flows/verify.py` compares it with the manifest too, fits a sample of rows again, and repairs.
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
    """One thing that is wrong with a dataset."""

    text: str
    """A sentence that names the file."""
    shard: int | None = None
    """The shard that has to be built again to mend it."""
    stray: Place | None = None
    """The file that does not belong there: taking it away mends it."""


@dataclass(frozen=True)
class Verification:
    """What is wrong with a dataset, and how much of it was looked at."""

    shards: int
    """How many the dataset is to have."""
    sound: list[int]
    """Shards that nothing is wrong with."""
    not_built: list[int]
    """Shards that have no file at all."""
    problems: list[Problem]
    refitted: int = 0
    """Rows that were read from their sources and fitted again."""


def verify_files(out: Place, count: int | None = None) -> Verification:
    """Look at every file of a dataset.

    Each shard that has a file must be complete (`shard_state`) with the checksums that were written, with the columns
    of the schema, finite SKEL values, and exactly the rows that it was to read, kept or rejected once. No row may be in
    two shards, and no file may be there that belongs to none (temporary ones aside, which builds remove).

    `count` is how many shards the dataset is to have; what most of its files' names say, if not given. Raises
    `UserError` where there is no dataset.
    """
    there, others = find_files(out)
    if count is None:
        if not there:
            raise UserError(f"no dataset in {out}. Expected {out / 'meta' / 'shard-00000-of-00012.json'} or the like.")
        count = Counter(number for _, number in there).most_common(1)[0][0]
    text = "no file of a dataset has such a name."
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
                raise  # of the disk or the store: no damage, and nothing is to be built again
            problems.append(Problem(str(error), index))
    return Verification(count, list(sound), not_built, problems + _in_two_shards(out, sound))


def _verified_pieces(out: Place, shard: Shard) -> list[Piece]:
    """What the shard was made of. Raises `UserError` for the first thing that is wrong with it."""
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
                raise _wrong(path, "other columns than this version writes.")
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
