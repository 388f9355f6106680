"""Parquet that would fill the memory is refused before it is decoded; sound files of all kinds are read as ever."""

import base64
import io
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hmr_skel.data.load import load_shards
from hmr_skel.data.page_headers import DamagedHeader, read_page_header
from hmr_skel.data.parquet_bounds import OutOfBounds, open_parquet
from hmr_skel.data.schema import REJECTS_SCHEMA, SCHEMA


def _written(table: pa.Table, **options) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _nulls(kind: pa.DataType, rows: int) -> pa.Table:
    return pa.table({"x": pa.nulls(rows, kind)})


def _same_text(length: int, rows: int, **options) -> bytes:
    text = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["x" * length]))
    return _written(pa.table({"x": text}), **options, store_schema=False)


def _prefixes() -> bytes:
    """Each text repeats the one before: DELTA_BYTE_ARRAY."""
    table = pa.table({"x": ["x" * 50_000] * 1500})
    return _written(table, use_dictionary=False, column_encoding={"x": "DELTA_BYTE_ARRAY"}, store_schema=False)


def _claiming(content: bytes, number: int, other: int) -> bytes:
    """The footer with another number wherever it says the one."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    old = _zigzag(number)
    assert old in content[start:]
    return content[:start] + content[start:].replace(old, _zigzag(other, len(old)))


def _zigzag(value: int, length: int = 1) -> bytes:
    """As Thrift writes whole numbers, in at least so many bytes."""
    parts, value = [], 2 * value
    while value > 127 or len(parts) + 1 < length:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _lying() -> bytes:
    """A page of 300 MB, of which the footer says 3 MB in all."""
    content = _written(
        pa.table({"x": ["x" * 1_000_000] * 300}), use_dictionary=False, compression="zstd", data_page_size=2**30
    )
    column = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0)
    return _claiming(content, column.total_uncompressed_size, 3_000_000)


BOMBS: dict[str, Callable[[], bytes]] = {
    "rows": lambda: _written(_nulls(pa.int64(), 35_000_000), row_group_size=900_000),
    "rows of lists": lambda: _written(_nulls(pa.list_(pa.float32(), 176), 400_000)),
    "one text": lambda: _same_text(100_000, 900_000, compression="zstd"),
    "one text, uncompressed": lambda: _same_text(1000, 900_000, compression="none"),
    "prefixes": _prefixes,
    "a lying footer": _lying,
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    files = {name: tmp_path_factory.mktemp("bomb") / "x.parquet" for name in BOMBS}
    for name, file in files.items():
        file.write_bytes(BOMBS[name]())
        assert file.stat().st_size < 2**20
    return files


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(bombs: dict[str, Path], name: str):
    said = r"x\.parquet (claims [\d,]+ bytes of|is damaged: the pages of x are more than its footer claims)"
    with pytest.raises(OutOfBounds, match=said), open_parquet(bombs[name]):
        pass
    shards = load_shards(bombs[name])
    for read in (lambda: shards["x"], lambda: shards.valid("x"), lambda: shards[0]):
        with pytest.raises(OutOfBounds, match=said):
            read()


def test_a_process_that_reads_bombs_stays_small(bombs: dict[str, Path]):
    code = (
        "import sys, pyarrow\n"
        "from hmr_skel import load_shards\n"
        "from hmr_skel.errors import UserError\n"
        "for file in sys.argv[1:]:\n"
        "    try: load_shards(file)['x']\n"
        "    except UserError: print('refused')\n"
        "print(pyarrow.default_memory_pool().max_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, bombs.values())], capture_output=True, text=True, check=True
    )
    *refused, most_bytes = done.stdout.split()
    assert refused == ["refused"] * len(bombs)
    assert int(most_bytes) < 2**22


def _shard_rows(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    arrays = []
    for field in SCHEMA:
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.array(rng.normal(size=rows * field.type.list_size).astype(np.float32))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size))
        elif pa.types.is_string(field.type):
            arrays.append(pa.array([f"images/{i:06}.jpg" for i in range(rows)]))
        else:
            arrays.append(pa.array(np.arange(rows)).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _sparse_rows(rows: int) -> pa.Table:
    """Rows as null as the schema allows."""
    full = _shard_rows(rows)
    arrays = [pa.nulls(rows, f.type) if f.nullable else full[f.name].combine_chunks() for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


HONEST: dict[str, Callable[[], pa.Table]] = {
    "none": SCHEMA.empty_table,
    "no rejects": REJECTS_SCHEMA.empty_table,
    "rejects": lambda: pa.table([pa.array(["a"] * 9) if f.name != "source_row" else pa.array(np.arange(9))
                                 for f in REJECTS_SCHEMA], schema=REJECTS_SCHEMA),
    "full": lambda: _shard_rows(3000),
    "null where that may be": lambda: _sparse_rows(20_000),
    "long texts": lambda: pa.table({"x": ["x" * i for i in range(3000)]}),
    "lists": lambda: pa.table({"x": [[1, 2], None, []] * 100, "y": [{"a": 1, "b": ["z"]}, None, None] * 100}),
    "one column of nothing": lambda: pa.table({"x": pa.nulls(10)}),
}  # fmt: skip


@pytest.mark.parametrize("options", [
    {"compression": "zstd"}, {"compression": "none"}, {"compression": "snappy", "data_page_version": "2.0"},
    {"compression": "lz4", "data_page_size": 1000}, {"compression": "gzip", "use_dictionary": False},
    {"compression": "brotli", "row_group_size": 700},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", HONEST)
def test_sound_files_are_read(tmp_path: Path, name: str, options: dict):
    table = HONEST[name]()
    file = tmp_path / "x.parquet"
    file.write_bytes(_written(table, **options))
    with open_parquet(file) as parquet:
        assert parquet.read().equals(table)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"\x1c" * 100, "nested too deeply"),
        (b"\x15" + b"\xff" * 100, "without end"),
        (b"\x19\x00\x00", "what none does"),
        (b"\x15\x00\x15\x01\x15\x00\x00", "impossible sizes"),
        (b"\x15\x00\x15\x00\x05\x04\x00\x00", "twice"),
        (b"\x15\x00\x15\x00\x15\x00\x00", "lacks"),
    ],
)
def test_headers_that_pyarrow_might_take_otherwise_are_damaged(header: bytes, text: str):
    with pytest.raises(DamagedHeader, match=text):
        read_page_header(header)


CONTRADICTION = (
    "c-"
    "jka3^EjD5j`=BN7Tqilu499h=D<4tNz~wOWGJ2a)ImxK)QmFVNRRn1)!{`l&Fr5=z$$fq5`69qHHo|3=9zU3cQ&N3@ktnP>zuiNH"
    "8EP2B{)iG1z1XBuNX&ikWaJW|7n}WsqPiPR>ZpO%w$Qs4@Y$*{M14g{llbGC;**2WIg|%1FwnG02GWNSZRR2}r_Ji1L6W#V*X{5u"
    "3uI7Ny1kvP)727|INyV3!DpaxvJ5HB7jFz)O-%QjGzq8e}3!1CXi40o2Bzp-_-"
    "mR9Ko?qMKY$pqp4!lwYn;mReMtnV+X%WTt1JXDBHHa>p7V4gkg>0L_eEum"
)
"""Found by the fuzzer. Among the rest that is wrong with it, lengths of texts for a column of numbers: pyarrow ends the
process where it is asked for that column's sizes."""


def test_a_footer_that_contradicts_itself(tmp_path: Path):
    path = tmp_path / "x.parquet"
    path.write_bytes(zlib.decompress(base64.b85decode(CONTRADICTION)))
    with pytest.raises(OutOfBounds, match="is damaged"), open_parquet(path):
        pass
