"""Headers of Parquet pages, in Thrift's compact protocol. pyarrow reads them, but tells nobody what is in them.

See `PageHeader` in parquet.thrift. Stricter than pyarrow's reader where the two could take one header differently.
"""

from typing import NamedTuple

MAX_HEADER_BYTES = 2**16
"""A header holds the page's least and greatest value, of 4 kB at most as pyarrow writes them."""
_MAX_DEPTH = 8
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)

Fields = dict[int, "int | Fields"]


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
            if isinstance(own, int):
                raise KeyError
            values, encoding = _number(own[1]), _number(own[2 if kind == _DATA else 4])
    except KeyError:
        raise DamagedHeader("a page's header lacks what each has") from None
    return PageHeader(uncompressed, compressed, values, encoding, kind == _DICTIONARY), length


def _number(value: "int | Fields") -> int:
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise DamagedHeader("a page's header claims impossible sizes")
    return value


def _struct(data: bytes, at: int, depth: int) -> tuple[Fields, int]:
    """A struct's numbers and structs by field, and where it ends; other values are passed over."""
    if depth > _MAX_DEPTH:
        raise DamagedHeader("a page's header is nested too deeply")
    fields: Fields = {}
    field = 0
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if delta:
            field += delta
        else:
            field, at = _zigzag(data, at)
        value: int | Fields = 0
        if kind in (_I16, _I32, _I64):
            value, at = _zigzag(data, at)
        elif kind == _STRUCT:
            value, at = _struct(data, at, depth + 1)
        elif kind == _BINARY:
            length, at = _varint(data, at)
            at += length
        elif kind in (_BYTE, _DOUBLE):
            at += 1 if kind == _BYTE else 8
        elif kind not in (_TRUE, _FALSE):
            raise DamagedHeader("a page's header holds what none does")
        if field in fields:
            raise DamagedHeader("a page's header says one thing twice")
        fields[field] = value
    return fields, at + 1


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
    raise DamagedHeader("a page's header holds a number without end")
