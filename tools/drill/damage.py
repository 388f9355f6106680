"""The cost of a fault: a dataset compared with one that was built undisturbed."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.verify import first_difference
from hmr_skel.data.atomic import is_temporary
from hmr_skel.data.verify import verify_files
from hmr_skel.errors import UserError


@dataclass(frozen=True)
class Cost:
    """All zero, and equal, where nothing was lost."""

    lost: int
    """Rows that are neither kept nor rejected."""
    duplicated: int
    """Rows that are there more than once."""
    half_files: int
    """Files that cannot be read, have other bytes than was recorded, or are temporary."""
    equal: bool
    """Whether every column of every shard equals the undisturbed dataset's."""


def cost(out: Path, undisturbed: Path, *, rounding: bool = False) -> Cost:
    """Compare a finished dataset with the undisturbed one; with `rounding`, fitted columns as rows in other batches."""
    wanted, found = _rows(undisturbed), _rows(out)
    try:
        report = verify_files(out)
        count = len(report.problems) + len(report.not_built)
    except UserError:  # there is nothing at all: every row is lost
        count = 0
    temporary = [path for path in out.rglob("*") if is_temporary(path)]
    return Cost(
        lost=(wanted - found).total(),
        duplicated=sum(count - 1 for count in found.values() if count > 1),
        half_files=count + len(temporary),
        equal=equal_datasets(out, undisturbed, rounding=rounding),
    )


def _rows(out: Path) -> Counter:
    """How often each row (source, number) is kept or rejected. Files that cannot be read have none."""
    found: Counter = Counter()
    for path in (*(out / "data").glob("[!.]*.parquet"), *(out / "rejects").glob("[!.]*.parquet")):
        try:
            table = pq.read_table(path, columns=["source", "source_row"])
        except (pa.ArrowException, OSError):
            continue
        found.update(zip(table["source"].to_pylist(), table["source_row"].to_pylist(), strict=True))
    return found


def equal_datasets(one: Path, two: Path, *, rounding: bool = False) -> bool:
    """Whether two datasets have the same shards with equal values in every column of data and rejects, to the bit; with
    `rounding`, fitted columns as `verify` allows them."""
    for folder in ("data", "rejects"):
        names = [sorted(path.name for path in (out / folder).glob("[!.]*.parquet")) for out in (one, two)]
        if names[0] != names[1]:
            return False
        for name in names[0]:
            first, second = (pq.read_table(out / folder / name) for out in (one, two))
            if first.schema != second.schema or len(first) != len(second):
                return False
            for a, b in zip(first.to_pylist(), second.to_pylist(), strict=True):
                # As texts: not-a-number differs from itself.
                if first_difference(a, b, loose=False) if rounding and folder == "data" else str(a) != str(b):
                    return False
    return True
