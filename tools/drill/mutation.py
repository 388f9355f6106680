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
    """`data` after some mutations; `others` are inputs to splice with."""
    if data.startswith(b"PK\x03\x04") and rng.random() < 0.7:
        return _mutated_zip(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        data = _mutated_once(data, others, rng)
    return data


def _mutated_once(data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    size = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(data) - place)
    head, middle, tail = data[:place], data[place : place + size], data[place + size :]
    width, other = rng.choice((1, 2, 4, 8)), rng.choice(others)
    number = rng.choice(_INTEGERS)
    digits = rng.choice(list(re.finditer(rb"\d+", data[:100_000])) or [None])
    changed = [
        head + rng.randbytes(size) + tail,
        head + tail,
        head + middle * rng.randint(2, 4) + tail,
        head + rng.choice(_TOKENS) + tail,
        head + (number % 256**width).to_bytes(width, rng.choice(("little", "big"))) + data[place + width :],
        head + other[rng.randrange(len(other) + 1) :],
    ]
    if middle:
        changed.append(head + bytes([middle[0] ^ (1 << rng.randrange(8))]) + middle[1:] + tail)
    if digits:
        changed.append(data[: digits.start()] + str(number).encode() + data[digits.end() :])
    return rng.choice(changed)


def _mutated_zip(data: bytes, rng: Random) -> bytes:
    """An archive with one member changed, left out, or there twice, and with right checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # an earlier mutation has broken it
        return _mutated_once(data, [data], rng)
    if not members:
        return data
    index = rng.randrange(len(members))
    name, content = members[index]
    escaping = rng.choice(("../" + name, "/tmp/" + name, name + "\x00", "x" * 300, "a/b/" + name))
    instead = [
        [],
        [(name, content), (name, content)],
        [(escaping, content)],
        [(name, _mutated_once(content[:128], [content], rng) + content[128:])],  # the header of an .npy
        [(name, bytes(min(len(content) * 1000, 4_000_000)))],
        [(name, _mutated_once(content, [content], rng))],
    ]
    members[index : index + 1] = rng.choice(instead)
    result = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(result, "w", rng.choice((0, 8))) as archive:
        for member, inside in members:
            try:
                archive.writestr(member, inside)
            except ValueError:
                continue
    return result.getvalue()
