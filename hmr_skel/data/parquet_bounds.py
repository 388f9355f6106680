"""Parquet files, opened only where they fit: what a file decodes to is bounded before anything of it is decoded.

A few bytes of Parquet can stand for 10^9 rows, one text repeated a million times, or a page of 2 GB, and pyarrow
decodes what a file claims. So the footer's claims are bounded, of all columns, and the pages of the columns to be read
must keep to them: their headers are walked, which costs one small read each (of an object several at once).
"""

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hmr_skel.data.page_headers import (
    MAX_HEADER_BYTES,
    ChunkHeader,
    DamagedHeader,
    GroupHeader,
    PageHeader,
    read_footer,
    read_page_header,
)
from hmr_skel.data.storage import Place, arrow_file, each
from hmr_skel.errors import UserError

MIN_BYTES, PER_FILE_BYTE = 2**28, 20
"""What a file may decode to: 256 MB, or 20 times its size. A shard of ours is 3 to 6 times its file, of SKEL without
keypoints 10 times."""
_MAX_PAGES = 100_000  # a million rows of ours have 16,000
_HEADER_BYTES = 1024  # of nearly every page; those with long texts in their statistics are read again
_TEXT_BYTES, _PER_TEXT_BYTE = 64, 4  # what a text costs as a Python object, and each of its bytes at most
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": _TEXT_BYTES}
_AS_STORED = {0, 6}  # encodings of texts that hold every byte: PLAIN, DELTA_LENGTH_BYTE_ARRAY
_DICTIONARY = {2, 8}
_SMALL_TEXTS = 2**22  # bytes; a dictionary that may stand for more is looked into


class OutOfBounds(UserError):
    """A file that would take more memory than its size warrants, or that contradicts itself."""


class _Leaf(NamedTuple):
    """A column as Parquet counts them."""

    number: int
    width: int  # bytes of a value
    is_text: bool
    column: int  # of the table


class _Chunk(NamedTuple):
    """The pages of one column in one row group."""

    leaf: _Leaf
    name: str
    meta: ChunkHeader


@contextmanager
def open_parquet(
    place: Place, columns: Collection[str] | None = None, known: bool = False
) -> Generator[pq.ParquetFile]:
    """A Parquet file, for reading the given columns and no others.

    Args:
        place: the file.
        columns: all if not given. Texts of columns that are read one after the other are bounded one by one, all else
            for the whole file.
        known: the file was opened for these columns before, and is not looked at again.

    Raises `OutOfBounds`, and what pyarrow raises of a damaged file.
    """
    with (
        arrow_file(place) as found,
        found if isinstance(found, pa.NativeFile) else pa.OSFile(str(found)) as source,
        pq.ParquetFile(source) as parquet,
    ):
        if not known:
            try:
                _check(place, source, parquet, columns)
            except (DamagedHeader, RecursionError) as error:
                raise OutOfBounds(f"{place} is damaged: {error}. Build or fetch it again.") from None
        yield parquet


def _check(place: Place, source: pa.NativeFile, parquet: pq.ParquetFile, columns: Collection[str] | None) -> None:
    size = source.size()
    most = max(MIN_BYTES, PER_FILE_BYTE * size)

    def refuse(claimed: int, what: str) -> None:
        if claimed > most:
            raise OutOfBounds(
                f"{place} claims {claimed:,} bytes of {what}, in a file of {size:,}; expected at most {most:,}. It is "
                "damaged, or made to fill the memory; if it is sound, write it in several files."
            )

    schema, groups = parquet.schema_arrow, _footer(source)
    values = [0] * len(schema)  # bytes of each column, by the claimed numbers of values
    chunks = list(_chunks(parquet, groups))
    for leaf, _, meta in chunks:
        values[leaf.column] += meta.values * leaf.width
    rows = sum(group.rows for group in groups)
    widths = (_row_bytes(field.type) for field in schema)
    refuse(sum(max(value, rows * width) for value, width in zip(values, widths, strict=True)), f"{rows:,} rows")
    refuse(sum(meta.uncompressed for *_, meta in chunks), "uncompressed pages")
    stored = sum(meta.compressed for *_, meta in chunks)
    if stored > size:
        raise DamagedHeader(f"its footer claims {stored:,} bytes of pages in a file of {size:,}")
    wanted = [chunk for chunk in chunks if columns is None or schema.names[chunk.leaf.column] in columns]
    pages = iter(range(_MAX_PAGES))
    refuse(_PER_TEXT_BYTE * sum(each(place, lambda chunk: _text_bytes(source, chunk, pages), wanted)), "texts")


def _footer(source: pa.NativeFile) -> list[GroupHeader]:
    """pyarrow has read it: it is there, and ends as footers do."""
    size = source.size()
    length = int.from_bytes(source.read_at(4, size - 8), "little")
    return read_footer(source.read_at(length, size - 8 - length))


def _chunks(parquet: pq.ParquetFile, groups: Sequence[GroupHeader]) -> Iterator[_Chunk]:
    leaves = list(_leaves(parquet))
    if len(groups) * len(leaves) > _MAX_PAGES:
        raise DamagedHeader(f"it has {len(groups):,} row groups of {len(leaves):,} columns")
    for number, group in enumerate(groups):
        if len(group.chunks) != len(leaves):
            raise DamagedHeader(f"its row group {number} has {len(group.chunks)} columns, not {len(leaves)}")
        for leaf, meta in zip(leaves, group.chunks, strict=True):
            yield _Chunk(leaf, parquet.schema.column(leaf.number).path, meta)


def _text_bytes(source: pa.NativeFile, chunk: _Chunk, pages: Iterator[int]) -> int:
    """Bytes of a chunk's texts once decoded, 0 for numbers, by the headers of its pages; each takes one of `pages`.

    Raises `DamagedHeader` where the pages are more than the footer claims.
    """
    leaf, name, meta = chunk
    if not meta.values:
        return 0  # of an empty one pyarrow reads no page, and its offsets, as pyarrow writes them, lead nowhere
    at, stop = meta.start, meta.start + meta.compressed
    texts = count = unpacked = longest = 0
    while at < stop:
        if next(pages, None) is None:
            raise DamagedHeader(f"it has more than {_MAX_PAGES:,} pages")
        header, start = _header_at(source, at, stop)
        at = start + header.compressed
        count += header.values
        unpacked += header.uncompressed
        if at > stop or count > meta.values or unpacked > meta.uncompressed:
            raise DamagedHeader(f"the pages of {name} are more than its footer claims")
        if not leaf.is_text:
            continue
        if header.is_dictionary:
            longest = header.uncompressed
            if longest * meta.values > _SMALL_TEXTS:
                longest = _longest(source.read_at(header.compressed, start), header, meta)
        elif header.encoding in _DICTIONARY:
            texts += header.values * longest
        elif header.encoding in _AS_STORED:
            texts += header.uncompressed
        else:  # DELTA_BYTE_ARRAY: each text may repeat what went before
            texts += header.values * header.uncompressed
    return texts


def _header_at(source: pa.NativeFile, at: int, stop: int) -> tuple[PageHeader, int]:
    """A page's header, and where its data starts."""
    for most in (_HEADER_BYTES, MAX_HEADER_BYTES):
        data = source.read_at(min(most, stop - at), at)
        try:
            header, length = read_page_header(data)
        except IndexError:
            continue
        return header, at + length
    raise DamagedHeader("a page's header is cut off")


def _longest(data: bytes, header: PageHeader, meta: ChunkHeader) -> int:
    """Bytes of the longest text in a dictionary, or more. There each text comes after 4 bytes of its length."""
    if meta.codec != "UNCOMPRESSED":
        codec = {"LZ4": "lz4_raw"}.get(meta.codec, meta.codec.lower())
        try:
            data = pa.decompress(data, header.uncompressed, codec, asbytes=True)
        except (pa.ArrowException, ValueError, OSError):
            return header.uncompressed
    at = longest = 0
    for _ in range(meta.values):  # a dictionary of more is odd, and long to look through
        if at + 4 > len(data):
            return min(longest, header.uncompressed)
        length = int.from_bytes(data[at : at + 4], "little")
        longest = max(longest, length)
        at += 4 + length
    return header.uncompressed if at < len(data) else min(longest, header.uncompressed)


def _leaves(parquet: pq.ParquetFile) -> Iterator[_Leaf]:
    owners = [i for i, field in enumerate(parquet.schema_arrow) for _ in range(_count_leaves(field.type))]
    if len(owners) != parquet.metadata.num_columns:
        raise DamagedHeader("its schema and Arrow's in its metadata differ")
    for number, column in enumerate(owners):
        leaf = parquet.schema.column(number)
        kind = leaf.physical_type
        yield _Leaf(number, _WIDTHS.get(kind) or max(leaf.length, 1), kind == "BYTE_ARRAY", column)


def _children(kind: pa.DataType) -> list[pa.DataType]:
    return [kind.field(i).type for i in range(kind.num_fields)]


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _count_leaves(kind: pa.DataType) -> int:
    return sum(map(_count_leaves, _children(_plain(kind)))) if _plain(kind).num_fields else 1


def _row_bytes(kind: pa.DataType, in_list: bool = False) -> int:
    """Bytes of a row that is null, too: a list of fixed size has them all, though its pages hold one value of it."""
    kind = _plain(kind)
    if pa.types.is_fixed_size_list(kind):
        if in_list:
            raise DamagedHeader("it holds lists of fixed size within lists, which none of ours does")
        return kind.list_size * _row_bytes(kind.value_type)
    inner = sum(_row_bytes(child, in_list or not pa.types.is_struct(kind)) for child in _children(kind))
    if pa.types.is_struct(kind):
        return inner
    try:
        return -(-kind.bit_width // 8)
    except ValueError:  # of no fixed width
        return _TEXT_BYTES
