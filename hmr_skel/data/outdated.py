"""Shards that are in a dataset's folder, but were made from other things than the manifest says now."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hmr_skel.data.fingerprint import describe_difference, fingerprint_of
from hmr_skel.data.manifest import Manifest
from hmr_skel.data.shards import Shard, name_shards, read_meta
from hmr_skel.data.storage import Place, each
from hmr_skel.errors import UserError

Ingredients = Callable[[Shard], Mapping[str, Any]]
"""`shard_ingredients` of a shard, as it would be built now."""


def find_outdated(out: Place, shards: Sequence[Shard], ingredients: Ingredients) -> dict[Shard, dict[str, Any]]:
    """The shards that are there and outdated, with their meta files. Reads the meta files of all shards."""
    metas = each(out, partial(read_meta, out), shards)
    return {
        shard: meta
        for shard, meta in zip(shards, metas, strict=True)
        if meta is not None and meta.get("fingerprint") != fingerprint_of(ingredients(shard))
    }


def refuse_other_manifest(out: Place, manifest: Manifest, outdated: Mapping[Shard, Mapping[str, Any]]) -> None:
    """Raise `UserError` where outdated shards were made from another manifest: another name, or another file.

    Of the same file they are what an edit has left, and are to be built again.
    """
    own = (manifest.name, manifest.file)
    names = {shard: (meta.get("manifest_name"), meta.get("manifest_file")) for shard, meta in outdated.items()}
    others = [shard for shard, name in names.items() if None not in name and name != own]
    if others:
        name, file = names[others[0]]
        which = f"shard {others[0].index}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        raise UserError(
            f"{out} holds {which} of another dataset, {name!r} made from {file}; this is {manifest.name!r} from "
            f"{manifest.file}, and makes other rows. Give each a folder of its own: --out (or OUT=), or another name "
            f"in its manifest. If {manifest.file} is to replace that dataset: hmr-skel dataset --rebuild."
        )


def outdated_texts(outdated: Mapping[Shard, Mapping[str, Any]], ingredients: Ingredients) -> list[str]:
    """Why shards are outdated, and which: `fitted by version 1, this is 2: shards 0-11`. A text for each reason."""
    reasons: dict[str, list[int]] = {}
    for shard, meta in outdated.items():
        why = describe_difference(meta["made_from"], ingredients(shard))
        reasons.setdefault(why, []).append(shard.index)
    return [f"{reason}: {name_shards(indices)}" for reason, indices in reasons.items()]
