"""What a shard depends on, as one hash: as long as it is equal, the shard need not be built again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hmr_skel import __version__
from hmr_skel.data.manifest import Manifest
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.shards import Shard


def shard_ingredients(
    manifest: Manifest,
    shard: Shard,
    *,
    content: Mapping[str, str],
    body_models: str,
    recipe: Mapping[str, Any],
    code: str,
) -> dict[str, Any]:
    """All that determines a shard's rows, as JSON values; `fingerprint_of` makes one hash of it.

    Args:
        manifest: counts through `Manifest.sha256`: not by where its files are.
        shard: counts by its number and rows.
        content: `SourceReader.content_id` by source name; only the shard's own sources count.
        body_models: `hash_files` of the model files in use.
        recipe: the fit settings, batch size included: plain values (`dataclasses.asdict`).
        code: `code_version`.
    """
    parts = {
        "manifest": manifest.sha256,
        "shard": [shard.index, shard.count],
        "pieces": [[piece.source, piece.start, piece.stop, content[piece.source]] for piece in shard.pieces],
        "body_models": body_models,
        "recipe": dict(recipe),
        "code": code,
    }
    return json.loads(json.dumps(parts, default=str))  # as a meta file gives it back: tuples are lists there


def fingerprint_of(ingredients: Mapping[str, Any]) -> str:
    """sha256 hex of `shard_ingredients`."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """sha256 hex of files by name and content, whatever their order and folder."""
    found = sorted((path.name, file_sha256(path)) for path in paths)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def code_version(roots: Iterable[Path]) -> str:
    """The package's version and a hash of the Python files below `roots` (folders or files).

    With the version alone, a change to the solver would leave old shards standing until somebody bumps it.
    """
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(path.relative_to(root.parent).as_posix().encode() + b"\0")
            digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return f"{__version__}+{digest.hexdigest()[:12]}"
