"""A shard's meta file: JSON that carries its own checksum, so that one flipped bit in it shows; and its numbers."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hmr_skel.data.storage import Place
from hmr_skel.rows import Reject

_KINDS: Mapping[str, type] = {
    "shard": int, "shards": int, "split": str, "rows": int, "kept": int, "rejected": int, "pieces": list,
    "made_from": dict, "fingerprint": str, "files": dict,
}  # fmt: skip
"""What every meta file says, and as what. Statistics may be there beside it: readers must do without them."""
_PIECE: Mapping[str, type] = {"source": str, "start": int, "stop": int}
_FILE: Mapping[str, type] = {"bytes": int, "sha256": str}

_CHECKSUM, _END = ',\n  "sha256": "', "\n}"
"""What stands before a meta file's checksum, and how an object ends."""


def meta_text(meta: Mapping[str, Any]) -> str:
    """The file's text: `meta` (JSON values) and, last, `sha256` of all that is before it."""
    return _with_checksum(json.dumps(meta, indent=2, allow_nan=False).removesuffix(_END))


def load_meta(path: Place) -> dict[str, Any]:
    """The content of a meta file without its checksum. Every key of `_KINDS` is there, and of its kind.

    Raises `OSError` where it cannot be read, and `ValueError` where it is not, to the byte, what `meta_text` gives of a
    shard's numbers.
    """
    text = path.read_bytes().decode("ascii")  # UnicodeDecodeError is a ValueError
    # Of the text as it is: to write thousands of them anew in order to compare takes seconds.
    if text != _with_checksum(text.rpartition(_CHECKSUM)[0]):
        raise ValueError("it does not have a checksum of its own that is right: it is damaged, or no meta file")
    meta = json.loads(text)
    del meta["sha256"]
    _check_kinds(meta, _KINDS, "it")
    for piece in meta["pieces"]:
        _check_kinds(piece, _PIECE, "one of its pieces")
    for file in meta["files"].values():
        _check_kinds(file, _FILE, "one of its files")
    return meta


def _check_kinds(values: Any, kinds: Mapping[str, type], what: str) -> None:
    """Raise `ValueError` unless `values` is an object that has these keys, with values of these kinds."""
    if not isinstance(values, dict):
        raise ValueError(f"{what} is {values!r:.40}, expected an object")
    for name, kind in kinds.items():
        value = values.get(name)
        if type(value) is not kind or (kind is int and not 0 <= value < 2**63):
            raise ValueError(f"{what} has {f'{name} = {value!r:.40}' if name in values else f'no {name}'}")


def _with_checksum(members: str) -> str:
    """The whole file, given its text as far as the checksum. That is of the object without it."""
    return f'{members}{_CHECKSUM}{hashlib.sha256(f"{members}{_END}".encode()).hexdigest()}"{_END}\n'


LIMIT_TOLERANCE_DEG = 1e-3
"""A dof counts as outside its range from here on: float32 cannot hold a bound exactly."""


def summarise(table: pa.Table, rejects: Sequence[Reject]) -> dict[str, Any]:
    """Counts and error statistics of a shard's kept rows (a table of `SCHEMA`) and rejects, as JSON values.

    Errors, and means of iterations and starts, are null where no row was fitted; rows of status "given" never
    count as fitted.
    """
    v2v = _fitted(table, "v2v_mm")
    violations = _fitted(table, "max_limit_violation_deg")
    return {
        "kept": table.num_rows,
        "rejected": len(rejects),
        "fitted": len(v2v),
        "v2v_mm": statistics(v2v),
        "v2v_max_mm": statistics(_fitted(table, "v2v_max_mm")),
        "joint_mm": statistics(_fitted(table, "joint_mm")),
        "iterations": _mean(_fitted(table, "iterations")),
        "starts": _mean(_fitted(table, "starts")),
        "limit_violations": int((violations > LIMIT_TOLERANCE_DEG).sum()),
        "status": dict(sorted(Counter(table["status"].to_pylist()).items())),
        "sources": dict(sorted(Counter(table["source"].to_pylist()).items())),
        "reasons": dict(sorted(Counter(reject.reason for reject in rejects).items())),
    }


def statistics(values: np.ndarray) -> dict[str, float] | None:
    """Mean, median, p95, p99 and max; None of no values."""
    if not len(values):
        return None
    median, p95, p99 = np.percentile(values.astype(np.float64), [50, 95, 99], overwrite_input=True)
    numbers = {"mean": values.mean(dtype=np.float64), "median": median, "p95": p95, "p99": p99, "max": values.max()}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 3) if len(values) else None


def _fitted(table: pa.Table, column: str) -> np.ndarray:
    return table[column].drop_null().to_numpy()
