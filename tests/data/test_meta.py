"""Meta files carry their own checksum."""

import json
from pathlib import Path

import pytest

from hmr_skel.data.meta import MAX_META_BYTES, load_meta, meta_text

META = {
    "shard": 0, "shards": 1, "split": "train", "rows": 8, "kept": 8, "rejected": 0, "mean": 0.1,
    "files": {"data/é.parquet": {"bytes": 5, "sha256": "0f"}}, "pieces": [{"source": "a", "start": 0, "stop": 8}],
    "made_from": {"manifest": "m", "pieces": [["a", 0, 8, "c"]], "body_models": "b", "recipe": {}}, "fingerprint": "f",
}  # fmt: skip


def test_there_and_back(tmp_path: Path):
    (tmp_path / "m").write_text(meta_text(META))
    assert load_meta(tmp_path / "m") == META
    assert json.loads((tmp_path / "m").read_text())["rows"] == 8  # plain JSON for everybody else


def test_every_flipped_bit_shows(tmp_path: Path):
    content = meta_text(META).encode()
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            (tmp_path / "m").write_bytes(changed)
            with pytest.raises(ValueError):  # noqa: PT011  whichever of several says so first
                load_meta(tmp_path / "m")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"1",
        b"\xff",
        b"[" * 100_000,
        json.dumps(META).encode(),
        meta_text(META).replace("\n", "\r\n").encode(),
        meta_text(META).encode() + b"\n",
        b" " * (MAX_META_BYTES + 1),
    ],
    ids=range(10),
)
def test_what_is_no_meta_file(tmp_path: Path, content: bytes):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ValueError, match=r"checksum|bytes|expected|Expecting|ascii|nested|damaged|JSON"):
        load_meta(tmp_path / "m")
