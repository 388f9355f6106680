"""The dataset card: a README.md beside the shards, for people and for Hugging Face `datasets`.

Its YAML head assigns files to splits, so that `load_dataset(folder)` gives `train` and `test` (the held-out shards),
and `load_dataset(folder, "rejects")` the rejected rows. A build writes it after its first shard and at its end.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from hmr_skel.data.manifest import Manifest
from hmr_skel.data.meta import DOUBTFUL
from hmr_skel.data.schema import SCHEMA, column_shape
from hmr_skel.data.shards import Shard, shard_state
from hmr_skel.data.storage import Place, each, put_bytes

_KINDS = {"float": "float32", "double": "float64"}
"""Common names for Arrow's types."""


def write_card(out: Place, manifest: Manifest, shards: Sequence[Shard]) -> Place:
    """Write `OUT/README.md` for the complete shards of the manifest, if it changes."""
    states = each(partial(shard_state, out), shards)
    found = zip(shards, states, strict=True)
    built = {shard: state.meta for shard, state in found if state.kind == "complete" and state.meta is not None}
    content = "\n".join([*_head(manifest, list(built)), "", _text(manifest, shards, list(built.values()))]).encode()
    path = out / "README.md"
    if not (path.is_file() and path.read_bytes() == content):
        put_bytes(path, content)
    return path


def _text(manifest: Manifest, shards: Sequence[Shard], metas: Sequence[Mapping[str, Any]]) -> str:
    kept, rejected, doubtful = (sum(meta.get(name, 0) for meta in metas) for name in ("kept", "rejected", "doubtful"))
    sources = "\n".join(f"| {one.name} | {one.format} | {_cell(one.description)} |" for one in manifest.sources)
    columns, statuses = "\n".join(column_table(SCHEMA)), " or ".join(f"`{name}`" for name in DOUBTFUL)
    return f"""\
# {manifest.name}

{manifest.description}

SMPL annotations of people in images, and SKEL fitted to them: the body model with an anatomical skeleton and 46 degrees
of freedom. Made by hmr-skel.

- {len(metas)} of {len(shards)} shards, {kept:,} rows; {rejected:,} rows left out, each with its reason, in `rejects/`
- {doubtful:,} of the rows are no good labels: their `status` is {statuses}; filter by it
- SKEL gender: {manifest.skel_gender}; fit recipe: {manifest.recipe}
- shards held out for evaluation (split `test`): {", ".join(str(one.index) for one in shards if one.held_out) or "none"}

| source | format | about |
|---|---|---|
{sources}

The terms of the labels, of the images and of the body models apply.

## Columns

Arrays are lists of float32, row-major. Null means not annotated, never zero. The camera frame is x right, y down, z
forward. Read with pandas, Polars, DuckDB, Hugging Face `datasets`, or `hmr_skel.load_shards`.

{columns}
"""


def _head(manifest: Manifest, built: Sequence[Shard]) -> list[str]:
    lines = ["---", f"pretty_name: {manifest.name}", "tags:", "- human-mesh-recovery", "- SKEL", "- SMPL"]
    if not built:
        return [*lines, "---"]

    def split(name: str, files: Sequence[Path]) -> list[str]:
        return [f"  - split: {name}", "    path:", *(f"    - {file.as_posix()}" for file in files)] if files else []

    data = {held_out: [s.data_file(Path()) for s in built if s.held_out == held_out] for held_out in (False, True)}
    lines += ["configs:", "- config_name: default", "  default: true", "  data_files:"]
    lines += [*split("train", data[False]), *split("test", data[True]), "- config_name: rejects", "  data_files:"]
    return [*lines, *split("rejects", [shard.rejects_file(Path()) for shard in built]), "---"]


def column_table(schema: pa.Schema) -> list[str]:
    """Columns, types, units and meanings as the lines of a Markdown table."""
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    for column in schema:
        shape = column_shape(column)
        kind = f"float32 [{' x '.join(map(str, shape))}]" if shape else _KINDS.get(str(column.type), str(column.type))
        texts = {key.decode(): value.decode() for key, value in column.metadata.items()}
        lines.append(f"| {column.name} | {kind} | {texts.get('unit', '')} | {_cell(texts['meaning'])} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
