"""What a shard depends on, as one hash: as long as it is equal, the shard need not be built again."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hmr_skel import __version__
from hmr_skel.data.atomic import replacing
from hmr_skel.data.manifest import Manifest
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.shards import Shard
from hmr_skel.errors import UserError


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


def describe_difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which of its ingredients a shard differs from what would be built now."""
    names = {"pieces": "rows or label files", "body_models": "body models", "code": "version of the fit's code"}
    other: Iterable[str] = [names.get(key, key) for key in now if was.get(key) != now[key]]
    return ", ".join(other) or "fingerprint"


def hash_files(paths: Iterable[Path], notes: Path | None = None) -> str:
    """sha256 hex of files by name and content, whatever their order and folder.

    `notes` is a folder to remember each file's hash in: it is then read only where its size or times are others.
    """
    found = sorted((path.name, file_sha256(path) if notes is None else _noted_sha256(path, notes)) for path in paths)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _noted_sha256(path: Path, notes: Path) -> str:
    path = path.resolve()
    state = path.stat()
    # ctime too: a copy that keeps the original's mtime has a ctime of its own.
    found = [str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    note = notes / f"{path.name}.json"
    with contextlib.suppress(OSError, ValueError):  # no note yet, or a damaged one
        noted = json.loads(note.read_text())
        if isinstance(noted, dict) and noted.get("file") == found and isinstance(noted.get("sha256"), str):
            return noted["sha256"]
    digest = file_sha256(path)
    with contextlib.suppress(UserError), replacing(note) as temporary:  # on a read-only disk it is read each time
        temporary.write_text(json.dumps({"file": found, "sha256": digest}))
    return digest


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
