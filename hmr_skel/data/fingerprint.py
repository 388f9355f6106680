"""What a shard depends on, as one hash: as long as it is equal, the shard need not be built again."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hmr_skel.data.manifest import Manifest
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
        body_models: `ModelFiles.sha256` of the model files in use.
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


_DIFFERENCES = {
    "manifest": "made from another manifest",
    "shard": "made from another division into shards",
    "pieces": "made from other rows or label files",
    "body_models": "made from other body models",
    "recipe": "made from another recipe",
    "fit_version": "fitted by version {}, this is {}",
    "schema_version": "with columns of version {}, this is {}",
}
"""How shards are told apart whose ingredients differ in one thing."""


def outdated_texts(outdated: Mapping[Shard, Mapping[str, Any]], ingredients: Ingredients) -> list[str]:
    """Why shards are outdated, and which: `fitted by version 1, this is 2: shards 0-11`. A text for each reason."""
    reasons: dict[str, list[int]] = {}
    for shard, meta in outdated.items():
        was, now = meta["made_from"], ingredients(shard)
        texts = [text.format(was.get(key), now[key]) for key, text in _DIFFERENCES.items() if was.get(key) != now[key]]
        reasons.setdefault("; ".join(texts), []).append(shard.index)
    return [f"{reason}: {name_shards(indices)}" for reason, indices in reasons.items()]
