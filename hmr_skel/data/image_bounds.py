"""Whether a picture may be decoded, by its header alone: a small file can claim any size, or take minutes.

OpenCV has a limit of its own, 2^30 px, that takes 3 GB and can be lowered only before cv2 is imported.
"""

import struct
from collections.abc import Collection, Iterator

MAX_PIXELS = 2**27
"""11,585 squared; 0.4 GB, and three times as much while a progressive JPEG is decoded."""
MAX_SCANS = 100
"""Passes over a progressive JPEG; usual are 10."""
_MAX_SCANNED = 10 * MAX_PIXELS  # pixels times scans: some 5 s
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a JPEG: of the segment with its size
_SEQUENTIAL = (0xC0, 0xC1)  # those that are not progressive
_END, _SCAN = 0xD9, 0xDA


class RefusedImage(Exception):
    """A picture that is not decoded. The text says why."""


def check_image(data: bytes) -> None:
    """Look at an encoded image's header. Raises `RefusedImage`."""
    try:
        width, height = _size(data)
        many_scans = data[:2] == b"\xff\xd8" and not _has_one_scan(data)
    except (struct.error, IndexError):
        raise RefusedImage("is cut off") from None
    pixels = abs(width * height)
    if pixels > MAX_PIXELS:
        raise RefusedImage(f"claims {width} x {height} px, expected at most {MAX_PIXELS:,} px")
    if many_scans:
        scans = data.count(b"\xff\xda")  # compressed data does not hold these bytes
        if scans > MAX_SCANS or scans * pixels > _MAX_SCANNED:
            raise RefusedImage(f"has {scans:,} scans, of {width} x {height} px; it would take minutes to decode")


def _size(data: bytes) -> tuple[int, int]:
    """Width and height, px."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return struct.unpack_from(">II", data, 16)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data[:2] == b"BM":
        old = struct.unpack_from("<I", data, 14) == (12,)
        return struct.unpack_from("<HH" if old else "<ii", data, 18)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_size(data)
    raise RefusedImage("is no image, or of a kind that is not read; expected JPEG, PNG, WebP, BMP or TIFF")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    frame = _segment(data, _FRAMES)
    height, width = struct.unpack_from(">HH", data, frame + 3)
    return width, height


def _has_one_scan(data: bytes) -> bool:
    """Whether the first scan of a JPEG holds all of it, so that libjpeg reads no other: most do, and looking at all
    bytes of a picture takes a twentieth of the time of decoding it."""
    frame, scan = _segment(data, _FRAMES), _segment(data, {_SCAN})
    return data[frame - 1] in _SEQUENTIAL and data[scan + 2] == data[frame + 7]  # components


def _segment(data: bytes, markers: Collection[int]) -> int:
    """Where the first JPEG segment of these markers starts, after its marker; up to the first scan."""
    at = 2
    while True:
        while data[at] != 0xFF or data[at + 1] in (0, 0xFF):
            at += 1
        marker = data[at + 1]
        at += 2
        if marker in markers:
            return at
        if marker in (_END, _SCAN):
            raise RefusedImage("is damaged: a JPEG without a size")
        if not 0xD0 <= marker <= 0xD7 and marker != 1:
            at += max(struct.unpack_from(">H", data, at)[0], 2)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    """The larger of the picture and its tiles, which are decoded whole."""
    sides: dict[int, int] = {}
    for tag, value in _tiff_entries(data):
        sides[tag] = max(sides.get(tag, 0), value)
    width, height, tile_width, tile_height = (sides.get(tag, 0) for tag in (256, 257, 322, 323))
    return max((width, height), (tile_width, tile_height), key=lambda size: size[0] * size[1])


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Tags of the first picture, and the first number of each."""
    order = "<" if data[:1] == b"I" else ">"
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    (count,) = struct.unpack_from(f"{order}H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        yield tag, struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)[0]
