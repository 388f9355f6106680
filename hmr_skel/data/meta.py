"""The text of a meta file: JSON that carries its own checksum, so that one flipped bit in it shows."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hmr_skel.data.storage import Place

MAX_META_BYTES = 16 * 2**20
"""A shard's meta file has some kilobytes; what is larger than this is none."""


def meta_text(meta: Mapping[str, Any]) -> str:
    """The file's text: `meta` (JSON values) and, last, `sha256` of all that is before it."""
    return json.dumps({**meta, "sha256": _checksum(meta)}, indent=2, allow_nan=False) + "\n"


def load_meta(path: Place) -> dict[str, Any]:
    """The content of a meta file without its checksum.

    Raises `OSError` where it cannot be read, and `ValueError` where it is not, to the byte, what `meta_text` gives.
    """
    if path.stat().st_size > MAX_META_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes")
    text = path.read_bytes().decode("ascii")  # UnicodeDecodeError is a ValueError
    try:
        meta = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(meta, dict) or "sha256" not in meta:
        raise ValueError("it has no checksum of its own: it is damaged, or of an older version")
    recorded = meta.pop("sha256")
    if recorded != _checksum(meta) or meta_text(meta) != text:
        raise ValueError("it does not have the checksum that it records")
    return meta


def _checksum(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, indent=2).encode()).hexdigest()
