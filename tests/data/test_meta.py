import json
from pathlib import Path

import numpy as np
import pytest

from hmr_skel.data.annotations import plan_source
from hmr_skel.data.meta import error_text, load_meta, meta_text, summarise
from hmr_skel.data.schema import shard_table
from hmr_skel.rows import Reject
from tests.data.conftest import label_arrays, make_source
from tests.data.sample_set import fake_fit

META = {
    "shard": 0, "shards": 1, "split": "train", "rows": 8, "kept": 8, "rejected": 0, "mean": 0.1,
    "files": {"data/é.parquet": {"bytes": 5, "sha256": "0f"}}, "pieces": [{"source": "a", "start": 0, "stop": 8}],
    "made_from": {"manifest": "m", "pieces": [["a", 0, 8, "c"]], "body_models": "b", "recipe": {}}, "fingerprint": "f",
}  # fmt: skip


def test_a_flipped_bit_shows_wherever_it_is(tmp_path: Path):
    content = meta_text(META).encode()
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        (tmp_path / "m").write_bytes(changed)
        with pytest.raises(ValueError):  # noqa: PT011  whichever of several says so first
            load_meta(tmp_path / "m")


def test_what_is_no_meta_file(tmp_path: Path):
    whole = meta_text(META).encode()
    for content in (b"", b"{}", b"\xff", json.dumps(META).encode(), whole.replace(b"\n", b"\r\n"), whole + b"\n"):
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(ValueError, match=r"checksum|ascii|codec"):
            load_meta(tmp_path / "m")
    (tmp_path / "m").write_text(meta_text({"shard": 0}))  # of another program
    with pytest.raises(ValueError, match="it has no shards, split"):
        load_meta(tmp_path / "m")


def test_counts_and_errors_of_fitted_rows(tmp_path):
    np.savez(tmp_path / "a.npz", **label_arrays(101))
    rows = plan_source(make_source(tmp_path / "a.npz"), tmp_path).open().read(0, 101)
    fit = fake_fit(101) | {"v2v_mm": np.arange(101, dtype=np.float32)}
    fit["max_limit_violation_deg"] = np.where(np.arange(101) < 3, 0.5, 1e-5).astype(np.float32)
    fit["status"][[4, 9]] = "far", "implausible"
    found = summarise(shard_table(rows, fit), [Reject("aic", 1, "", "betas", ""), Reject("aic", 2, "", "box", "")])
    assert found["v2v_mm"] == {"mean": 50, "median": 50, "p95": 95, "p99": 99, "max": 100}
    assert (found["kept"], found["rejected"], found["fitted"], found["limit_violations"]) == (101, 2, 101, 3)
    assert found["reasons"] == {"betas": 1, "box": 1}
    assert (found["status"], found["doubtful"]) == ({"converged": 99, "far": 1, "implausible": 1}, 2)
    assert error_text(found).endswith(", 2 rows far from the annotation or in no human pose")
    json.dumps(found, allow_nan=False)
