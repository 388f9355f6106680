"""What a shard depends on, as one hash: as long as it is equal, the shard need not be built again."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hmr_skel.data.manifest import Manifest
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.schema import SCHEMA_VERSION
from hmr_skel.data.shards import Shard, name_shards, shard_state
from hmr_skel.data.storage import Place, each
from hmr_skel.errors import UserError

Ingredients = Callable[[Shard], Mapping[str, Any]]
"""`shard_ingredients` of a shard, as it would be built now."""


def shard_ingredients(
    manifest: Manifest,
    shard: Shard,
    *,
    content: Mapping[str, str],
    body_models: str,
    recipe: Mapping[str, Any],
    fit_version: int,
) -> dict[str, Any]:
    """All that determines a shard's rows, as JSON values; `fingerprint_of` makes one hash of it.

    Args:
        manifest: what `Manifest.sha256` hashes of it, which is not where its files are.
        shard: its number and its rows.
        content: `SourceReader.content_id` by source name; only the shard's own sources count.
        body_models: `hash_files` of the model files in use.
        recipe: the fit settings, batch size included: plain values (`dataclasses.asdict`).
        fit_version: `fitting.version.FIT_VERSION`. It and `SCHEMA_VERSION` stand for the code, and are raised by hand.
    """
    parts = {
        "manifest": manifest.sha256,
        "shard": [shard.index, shard.count],
        "pieces": [[piece.source, piece.start, piece.stop, content[piece.source]] for piece in shard.pieces],
        "body_models": body_models,
        "recipe": dict(recipe),
        "fit_version": fit_version,
        "schema_version": SCHEMA_VERSION,
    }
    return json.loads(json.dumps(parts, default=str))  # as a meta file gives it back: tuples are lists there


def fingerprint_of(ingredients: Mapping[str, Any]) -> str:
    """sha256 hex of `shard_ingredients`."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def hash_files(paths: Iterable[Path], notes: Path | None = None, of: Callable[[Path], str] | None = None) -> str:
    """sha256 hex of files by name and content, whatever their order and folder; `notes`, `of` as in `file_sha256`."""
    found = sorted((path.name, file_sha256(path, notes, of)) for path in paths)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def describe_difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the ingredients `was` of a shard differ from those it would have `now`, in words."""
    if not was:
        return "its meta file does not say what it was made from"
    things = {"manifest": "another manifest", "pieces": "other rows or label files", "shard": "another division"}
    things |= {"body_models": "other body models", "recipe": "another recipe"}
    other = [text for key, text in things.items() if was.get(key) != now[key]]
    reasons = [f"made from {', '.join(other)}"] if other else []
    for key, text in (("fit_version", "fitted by"), ("schema_version", "with columns of")):
        if was.get(key) != now[key]:
            reasons.append(f"{text} version {was.get(key)}, this is {now[key]}")
    return "; ".join(reasons)


def version_text(made_from: Mapping[str, Any]) -> str:
    """Which version of the fit a shard was made by, for people."""
    return f"fit version {made_from.get('fit_version')}, schema version {made_from.get('schema_version')}"


def find_outdated(out: Place, shards: Sequence[Shard], ingredients: Ingredients) -> dict[Shard, dict[str, Any]]:
    """The outdated ones of the shards, with what their meta files say."""
    states = each(lambda shard: shard_state(out, shard, fingerprint_of(ingredients(shard))), shards)
    found = zip(shards, states, strict=True)
    return {shard: state.meta for shard, state in found if state.kind == "outdated" and state.meta is not None}


def refuse_other_manifest(out: Place, manifest: Manifest, outdated: Mapping[Shard, Mapping[str, Any]]) -> None:
    """Raise `UserError` where outdated shards were made from another manifest: another name, or another file.

    Those that an older state of the same file made may be built again.
    """
    for shard, meta in outdated.items():
        name, file = meta.get("manifest_name"), meta.get("manifest_file")
        if None not in (name, file) and (name, file) != (manifest.name, manifest.file):
            raise UserError(
                f"{out} holds shard {shard.index} of another dataset, {name!r} made from {file}; this is "
                f"{manifest.name!r} from {manifest.file}, and makes other rows. Give each a folder of its own: --out "
                f"(or OUT=), or another name in its manifest. If {manifest.file} is to replace that dataset: "
                "hmr-skel dataset --rebuild."
            )


def outdated_texts(outdated: Mapping[Shard, Mapping[str, Any]], ingredients: Ingredients) -> list[str]:
    """Why shards are outdated, and which: `fitted by version 1, this is 2: shards 0-11`. A text for each reason."""
    reasons: dict[str, list[int]] = {}
    for shard, meta in outdated.items():
        reasons.setdefault(describe_difference(meta["made_from"], ingredients(shard)), []).append(shard.index)
    return [f"{reason}: {name_shards(indices)}" for reason, indices in reasons.items()]
