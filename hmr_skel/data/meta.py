"""A shard's meta file: JSON with its own checksum, which shows a flipped bit, and the figures of the shard."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hmr_skel.data.storage import Place
from hmr_skel.rows import Reject

_KEYS = ("shard", "shards", "split", "rows", "kept", "rejected", "pieces", "made_from", "fingerprint", "files")
"""The keys of every meta file. Statistics are optional: readers must work without them."""

_CHECKSUM, _END = ',\n  "sha256": "', "\n}"
"""The text before a meta file's checksum, and the end of the file."""


def meta_text(meta: Mapping[str, Any]) -> str:
    """The text of a meta file: `meta` (JSON values), and last the `sha256` of everything before."""
    return _with_checksum(json.dumps(meta, indent=2, allow_nan=False).removesuffix(_END))


def load_meta(path: Place) -> dict[str, Any]:
    """The content of a meta file without its checksum. Every key of `_KEYS` is there.

    Raises `OSError` if it cannot be read, and `ValueError` if it is not exactly a text of `meta_text`.
    """
    text = path.read_bytes().decode("ascii")  # UnicodeDecodeError is a ValueError
    # Check the text itself: writing thousands of files again for a comparison takes seconds.
    if text != _with_checksum(text.rpartition(_CHECKSUM)[0]):
        raise ValueError("its checksum is missing or wrong: it is damaged, or not a meta file")
    meta = json.loads(text)
    del meta["sha256"]
    if missing := [key for key in _KEYS if key not in meta]:
        raise ValueError(f"it has no {', '.join(missing)}")
    return meta


def _with_checksum(members: str) -> str:
    """The whole text, from the text before the checksum, which is that of the object without it."""
    return f'{members}{_CHECKSUM}{hashlib.sha256(f"{members}{_END}".encode()).hexdigest()}"{_END}\n'


DOUBTFUL = ("far", "implausible")
"""The statuses of fits that are not good labels."""
LIMIT_TOLERANCE_DEG = 1e-3
"""A dof counts as outside its limits beyond this, since float32 cannot hold a limit exactly."""
WHOSE_LIMITS = "outside the anatomical limits of hmr-skel"
"""The limits that all recipes keep; by the published tables of SKEL and HSMR, other rows are outside."""


def summarise(table: pa.Table, rejects: Sequence[Reject]) -> dict[str, Any]:
    """Counts and error statistics of a shard's kept rows (a table of `SCHEMA`) and rejects, as JSON values.

    Errors, and means of iterations and starts, are null if no row was fitted; rows with status "given" are not fitted.
    """

    def fitted(column: str) -> np.ndarray:
        return table[column].drop_null().to_numpy()

    def counts(values: Sequence[str]) -> dict[str, int]:
        return dict(sorted(Counter(values).items()))

    errors = {name: statistics(fitted(name)) for name in ("v2v_mm", "v2v_max_mm", "joint_mm")}
    means = {name: fitted(name) for name in ("iterations", "starts")}
    return {
        "kept": table.num_rows,
        "rejected": len(rejects),
        "fitted": len(fitted("v2v_mm")),
        **errors,
        **{name: round(float(values.mean()), 3) if len(values) else None for name, values in means.items()},
        "limit_violations": int((fitted("max_limit_violation_deg") > LIMIT_TOLERANCE_DEG).sum()),
        "doubtful": sum(name in DOUBTFUL for name in table["status"].to_pylist()),
        "status": counts(table["status"].to_pylist()),
        "sources": counts(table["source"].to_pylist()),
        "reasons": counts([reject.reason for reject in rejects]),
    }


def statistics(values: np.ndarray) -> dict[str, float] | None:
    """Mean, median, p95, p99 and max over rows; None without values."""
    if not len(values):
        return None
    median, p95, p99 = np.percentile(values.astype(np.float64), [50, 95, 99], overwrite_input=True)
    numbers = {"mean": values.mean(dtype=np.float64), "median": median, "p95": p95, "p99": p99, "max": values.max()}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def error_text(figures: Mapping[str, Any]) -> str:
    """Describe `v2v_mm` and `v2v_max_mm` (`statistics` of mean and largest distances), and `doubtful` rows."""
    if figures["v2v_mm"] is None:
        return "no row was fitted"
    means = "v2v mean {mean:.2f} mm, p99 {p99:.2f} mm, worst row {max:.2f} mm".format(**figures["v2v_mm"])
    text = f"{means}, worst vertex {figures['v2v_max_mm']['max']:.1f} mm"
    if count := figures["doubtful"]:
        text += f", {count:,} row{'s' * (count != 1)} far from the annotation or in no human pose"
    return text
