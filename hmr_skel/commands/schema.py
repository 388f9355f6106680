"""`hmr-skel schema`: the columns of every table that we write, from the objects that write them."""

import argparse

SCHEMA = """\
Print the columns of every table that is written, with types, units and meanings, as Markdown: docs/schema.md is this
text. In the files themselves the same stands in each column's field metadata (meaning, unit, shape)."""

_INTRODUCTION = """\
# Columns of the tables

Printed by `hmr-skel schema` from the schema objects; the same texts are in the field metadata of every file, as
`meaning`, `unit` and `shape`. Arrays are fixed-size lists of float32, flattened row-major; `load_shards` folds them.
Null means not known or not annotated, never zero. Frames, units and the root: [conventions.md](conventions.md)."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `schema`."""
    schema = commands.add_parser(
        "schema",
        help="columns of the tables that are written, with units",
        description=SCHEMA,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    schema.set_defaults(run=lambda args: print(schema_page(), end=""))


def schema_page() -> str:
    """The page."""
    from hmr_skel.convert.tables import FULL, JOINTS
    from hmr_skel.data.card import column_table
    from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA
    from hmr_skel.model.config import DecoderConfig
    from hmr_skel.predict.table import schema

    stages = 1 + DecoderConfig().depth
    tables = (
        ("Datasets", "`data/train-*.parquet`, written by `fit` and `dataset`.", SCHEMA),
        ("Rows left out", "`rejects/*.parquet` beside them.", REJECTS_SCHEMA),
        ("Converted motion", "`hmr-skel convert`, .parquet and .npz.", FULL),
        ("Joints of converted motion", "`hmr-skel convert --joints`.", JOINTS),
        (
            "Predictions",
            f"`hmr-skel predict`, .parquet and .npz; stages of a network with the paper's decoder ({stages}).",
            schema(stages),
        ),
    )
    parts = [_INTRODUCTION]
    for title, text, columns in tables:
        parts += [f"## {title}\n\n{text}", "\n".join(column_table(columns))]
    return "\n\n".join(parts) + "\n"
