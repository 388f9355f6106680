"""What a Parquet file says of its chunks and pages, in Thrift's compact protocol.

Headers of pages pyarrow reads, but tells nobody what is in them. What the footer says of a column's chunk it would
tell; but where it finds a contradiction there, it ends the process (`RowGroupMetaData.column` lets a C++ exception
pass).

See `PageHeader` and `FileMetaData` in parquet.thrift. Stricter than pyarrow's reader where the two could take one
header differently.
"""

from typing import Any, NamedTuple, TypeAlias

MAX_HEADER_BYTES = 2**16
"""A header holds the page's least and greatest value, of 4 kB at most as pyarrow writes them."""
_MAX_DEPTH = 8
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_BYTE_ARRAY = 6

_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4_HADOOP", "ZSTD", "LZ4")

Fields: TypeAlias = dict[int, Any]
Value: TypeAlias = int | Fields | list[Any]


class DamagedHeader(Exception):
    """What a Parquet file says of itself cannot be. The text says what."""


class PageHeader(NamedTuple):
    """What is needed of it."""

    uncompressed: int
    """Bytes."""
    compressed: int
    """Bytes in the file, after the header."""
    values: int
    """Number of values in a data page, nulls too."""
    encoding: int
    is_dictionary: bool


class ChunkHeader(NamedTuple):
    """What a footer says of the pages of one column in one row group."""

    values: int
    """Nulls too."""
    uncompressed: int
    """Bytes, of all pages."""
    compressed: int
    """Bytes in the file."""
    start: int
    """Where the first page is."""
    codec: str


class GroupHeader(NamedTuple):
    """What a footer says of a row group."""

    rows: int
    chunks: tuple[ChunkHeader, ...]


def read_footer(data: bytes) -> list[GroupHeader]:
    """The row groups of a footer. Raises `DamagedHeader`."""
    try:
        fields, _ = _struct(data, 0, 0, lists=True)
        return [
            GroupHeader(_large(group[3]), tuple(_chunk(chunk) for chunk in _all(group[1]))) for group in _all(fields[4])
        ]
    except IndexError:
        raise DamagedHeader("its footer is cut off") from None
    except KeyError:
        raise DamagedHeader("its footer lacks what each has") from None


def _chunk(fields: Fields) -> ChunkHeader:
    meta: Any = fields.get(3)
    if not isinstance(meta, dict) or {8, 9} & set(fields):
        raise DamagedHeader("its footer has a column without its sizes, or an encrypted one")
    sizes: Any = meta.get(16, {})
    if not isinstance(sizes, dict) or (1 in sizes and meta[1] != _BYTE_ARRAY):
        raise DamagedHeader("its footer has lengths of texts for numbers")
    start, dictionary = _large(meta[9]), _large(meta.get(11, 0))
    codec = _large(meta[4])
    if codec >= len(_CODECS):
        raise DamagedHeader(f"its footer names a compression {codec}")
    return ChunkHeader(
        values=_large(meta[5]),
        uncompressed=_large(meta[6]),
        compressed=_large(meta[7]),
        start=dictionary if 0 < dictionary < start else start,
        codec=_CODECS[codec],
    )


def _all(value: Value) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DamagedHeader("its footer holds something else than lists of structs")
    return value


def _large(value: Value) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**62:
        raise DamagedHeader("its footer claims impossible sizes")
    return value


def read_page_header(data: bytes) -> tuple[PageHeader, int]:
    """The header that some bytes start with, and its length.

    Raises `IndexError` where it does not end within the bytes, and `DamagedHeader`.
    """
    fields, length = _struct(data, 0, 0)
    try:
        kind, uncompressed, compressed = (_number(fields[i]) for i in (1, 2, 3))
        values, encoding = 0, -1
        if kind in (_DATA, _DATA_V2):
            own = fields[5 if kind == _DATA else 8]
            if not isinstance(own, dict):
                raise KeyError
            values, encoding = _number(own[1]), _number(own[2 if kind == _DATA else 4])
    except KeyError:
        raise DamagedHeader("a page's header lacks what each has") from None
    return PageHeader(uncompressed, compressed, values, encoding, kind == _DICTIONARY), length


def _number(value: Value) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise DamagedHeader("a page's header claims impossible sizes")
    return value


def _struct(data: bytes, at: int, depth: int, lists: bool = False) -> tuple[Fields, int]:
    """A struct's numbers, structs and (if expected) lists by field, and where it ends; other values are passed over."""
    if depth > _MAX_DEPTH:
        raise DamagedHeader("a header is nested too deeply")
    fields: Fields = {}
    field = 0
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if delta:
            field += delta
        else:
            field, at = _zigzag(data, at)
        value: Value = 0
        if kind not in (_TRUE, _FALSE):
            value, at = _value(data, at, kind, depth, lists)
        if field in fields:
            raise DamagedHeader("a header says one thing twice")
        fields[field] = value
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int, lists: bool) -> tuple[Value, int]:
    if kind in (_I16, _I32, _I64):
        return _zigzag(data, at)
    if kind == _STRUCT:
        return _struct(data, at, depth + 1, lists)
    if kind == _BINARY:
        length, at = _varint(data, at)
        return 0, at + length
    if kind in (_BYTE, _DOUBLE):
        return 0, at + (1 if kind == _BYTE else 8)
    if kind != _LIST or not lists or depth > _MAX_DEPTH:
        raise DamagedHeader("a header holds what none does")
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    values: list[Value] = []
    for _ in range(count):  # each takes a byte at least, so it ends with the data
        value, at = _value(data, at, _BYTE if kind in (_TRUE, _FALSE) else kind, depth + 1, lists)
        if at > len(data):
            raise IndexError
        values.append(value)
    return values, at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise DamagedHeader("a header holds a number without end")
