"""The dataset card: a README.md beside the shards that people read and Hugging Face `datasets` obeys.

Its YAML head says which files belong to which split, so that `load_dataset(folder)` gives `train` and `test` (the
held-out shards), and `load_dataset(folder, "rejects")` the rows left out. A build writes it when its first shard is
done, then at most once a minute, and at its end, from the files that are complete.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from hmr_skel.data.manifest import Manifest
from hmr_skel.data.schema import SCHEMA, column_shape
from hmr_skel.data.shards import Shard, read_meta
from hmr_skel.data.storage import Place, each, put_bytes

_READING = """\
## Reading

```python
from hmr_skel import load_shards

shards = load_shards("this folder")                          # lazy; arrays with named columns
shards["v2v_mm"].mean(), shards["keypoints_2d"].shape, shards[0]["skel_q"]

pandas.read_parquet("data")                                  # in this folder
polars.scan_parquet("data/*.parquet")
duckdb.sql("select source, avg(v2v_mm) from 'data/*.parquet' group by source")
datasets.load_dataset("this folder", split="train")
```"""
_KINDS = {"float": "float32", "double": "float64"}
"""Arrow's names -> everybody's."""


def write_card(out: Place, manifest: Manifest, shards: Sequence[Shard]) -> Place:
    """Write `OUT/README.md` for the shards of the manifest that have a meta file, unless it says so already."""
    metas = each(partial(read_meta, out), shards)
    built = [(shard, meta) for shard, meta in zip(shards, metas, strict=True) if meta is not None]
    path = out / "README.md"
    lines = [*_head(manifest, built), "", *_body(manifest, shards, built)]
    content = ("\n".join(lines) + "\n").encode()
    if not (path.is_file() and path.read_bytes() == content):
        put_bytes(path, content)
    return path


def _head(manifest: Manifest, built: Sequence[tuple[Shard, dict]]) -> list[str]:
    lines = ["---", f"pretty_name: {manifest.name}", "tags:", "- human-mesh-recovery", "- SKEL", "- SMPL"]
    if not built:
        return [*lines, "---"]

    def split(name: str, files: Sequence[Path]) -> list[str]:
        return [f"  - split: {name}", "    path:", *(f"    - {file.as_posix()}" for file in files)] if files else []

    data = {held_out: [s.data_file(Path()) for s, _ in built if s.held_out == held_out] for held_out in (False, True)}
    lines += ["configs:", "- config_name: default", "  default: true", "  data_files:"]
    lines += [*split("train", data[False]), *split("test", data[True]), "- config_name: rejects", "  data_files:"]
    return [*lines, *split("rejects", [shard.rejects_file(Path()) for shard, _ in built]), "---"]


def _body(manifest: Manifest, shards: Sequence[Shard], built: Sequence[tuple[Shard, dict]]) -> list[str]:
    kept, rejected = (sum(meta[key] for _, meta in built) for key in ("kept", "rejected"))
    held_out = ", ".join(str(shard.index) for shard in shards if shard.held_out)
    sources = [f"| {source.name} | {source.format} | {_cell(source.description)} |" for source in manifest.sources]
    text = f"""\
# {manifest.name}

{manifest.description}

SMPL annotations of people in images, and SKEL fitted to them: the body model with an anatomical skeleton and
46 degrees of freedom. Made by hmr-skel.

- {len(built)} of {len(shards)} shards, {kept:,} rows; {rejected:,} rows left out, each with its reason, in `rejects/`
- SKEL gender: {manifest.skel_gender}; fit recipe: {manifest.recipe}
- shards held out for evaluation (split `test`): {held_out or "none"}

| source | format | about |
|---|---|---|
"""
    columns = """
The terms of use are those of the sources' labels and images and of the body models.

## Columns

Arrays are lists of float32, row-major. Null means not annotated, never zero. The camera frame is x right,
y down, z forward.
"""
    return [*text.splitlines(), *sources, *columns.splitlines(), "", *column_table(SCHEMA), "", _READING]


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
