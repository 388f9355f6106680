"""Bytes to other bytes: mutations for fuzzing, some of which know what a zip archive is."""

import io
import re
import warnings
import zipfile
from collections.abc import Sequence
from random import Random

_INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)
_TOKENS = (
    b"object", b"'|O'", b"'<f8'", b"'<U9'", b"'V8'", b"True", b"(9999999999,)", b"(0, 0)", b"(-1,)", b"()", b"nan",
    b"cposix\nsystem\n(S'true'\ntR.", b"c__builtin__\neval\n(S'1'\ntR.", b"..", b"/etc/passwd", b"\x00", b"\x80\x04",
    b"PK\x05\x06", b"PAR1", b"[" * 2000, b"{" * 2000, b"9" * 400, b"-1", b"1e999", b'"', b"${HOME}",
)  # fmt: skip


def mutated(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    """Some mutations of `data`; `others` are inputs to splice with."""
    if data.startswith(b"PK\x03\x04") and rng.random() < 0.7:
        return _mutated_zip(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        data = _mutated_once(data, others, rng)
    return data


def _mutated_once(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    size = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(data) - place)
    head, middle, tail = data[:place], data[place : place + size], data[place + size :]
    kind = rng.randrange(8)
    if kind == 0 and middle:
        return head + bytes([middle[0] ^ (1 << rng.randrange(8))]) + middle[1:] + tail
    if kind == 1:
        return head + rng.randbytes(size) + tail
    if kind == 2:
        return head + tail
    if kind == 3:
        return head + middle * rng.randint(2, 4) + tail
    if kind == 4:
        return head + rng.choice(_TOKENS) + tail
    if kind == 5:
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice(_INTEGERS) % 256**width
        return head + number.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]
    if kind == 6:
        numbers = list(re.finditer(rb"\d+", data[:100_000]))
        if numbers:
            found = rng.choice(numbers)
            return data[: found.start()] + str(rng.choice(_INTEGERS)).encode() + data[found.end() :]
    other = rng.choice(others)
    return head + other[rng.randrange(len(other) + 1) :]


def _mutated_zip(data: bytes, rng: Random) -> bytes:
    """One member changed, left out, or there twice, in an archive whose checksums are right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # a mutation of before has broken it
        return _mutated_once(data, [data], rng)
    if not members:
        return data
    index = rng.randrange(len(members))
    name, content = members[index]
    kind = rng.randrange(6)
    if kind == 0:
        members.pop(index)
    elif kind == 1:
        members.append((name, content))
    elif kind == 2:
        members[index] = (rng.choice(("../" + name, "/tmp/" + name, name + "\x00", "x" * 300, "a/b/" + name)), content)
    elif kind == 3:  # of an .npy: what its header says
        members[index] = (name, _mutated_once(content[:128], [content], rng) + content[128:])
    elif kind == 4:
        members[index] = (name, bytes(min(len(content) * 1000, 4_000_000)))
    else:
        members[index] = (name, _mutated_once(content, [content], rng))
    result = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(result, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive,
    ):
        for member, inside in members:
            try:
                archive.writestr(member.replace("\x00", "") if rng.random() < 0.5 else member, inside)
            except ValueError:
                continue
    return result.getvalue()
