"""Pictures that would take gigabytes or minutes are refused by their headers, whatever OpenCV's own limit is."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from hmr_skel.data.crop import UnreadableImage, decode
from hmr_skel.data.image_bounds import MAX_PIXELS, MAX_SCANS, RefusedImage, _size, check_image

PICTURE = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
KINDS = (".jpg", ".png", ".bmp", ".webp", ".tiff")


def _encoded(kind: str, options: tuple[int, ...] = ()) -> bytes:
    return cv2.imencode(kind, PICTURE, options)[1].tobytes()


PROGRESSIVE = _encoded(".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_WEBP_QUALITY, 50), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_sound_pictures_are_decoded(kind: str, options: tuple[int, ...]):
    data = _encoded(kind, options)
    assert _size(data) == (53, 37)
    assert decode(data, 1.0)[0].shape == (37, 53, 3)


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _jpeg(width: int, height: int, data: bytes = PROGRESSIVE) -> bytes:
    return data.replace(struct.pack(">HH", 37, 53), struct.pack(">HH", height, width))


def _bmp(width: int, height: int) -> bytes:
    return _encoded(".bmp").replace(struct.pack("<ii", 53, 37), struct.pack("<ii", width, height))


def _tiff(width: int, height: int) -> bytes:
    data = bytearray(_encoded(".tiff"))
    order = "<" if data[:1] == b"I" else ">"
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    for entry in range(at + 2, len(data) - 12, 12):
        tag = struct.unpack_from(f"{order}H", data, entry)[0]
        if tag in (256, 257):
            struct.pack_into(f"{order}HHII", data, entry, tag, 4, 1, width if tag == 256 else height)
        if tag == 257:
            break
    return bytes(data)


def _webp(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides + _encoded(".webp")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("make", [_png, _jpeg, _bmp, _tiff, _webp])
def test_a_header_may_not_claim_a_picture_of_any_size(make):
    with pytest.raises(UnreadableImage, match="claims 30000 x 30000 px, expected at most 134,217,728 px"):
        decode(make(30000, 30000), 1.0)
    check_image(make(2**13, MAX_PIXELS // 2**13))  # just within


def test_a_thumbnails_size_is_not_the_pictures():
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(PROGRESSIVE)) + PROGRESSIVE
    data = _jpeg(30000, 30000)
    with pytest.raises(UnreadableImage, match="claims 30000 x 30000"):
        decode(data[:2] + thumbnail + data[2:], 1.0)


def test_a_jpeg_of_many_scans_is_refused():
    scan = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
    many = PROGRESSIVE[:-2] + scan * MAX_SCANS + b"\xff\xd9"
    with pytest.raises(UnreadableImage, match="scans, of 53 x 37 px; it would take minutes"):
        decode(many, 1.0)
    with pytest.raises(UnreadableImage, match="it would take minutes"):  # fewer scans of more pixels
        decode(_jpeg(11000, 11000, PROGRESSIVE[:-2] + scan * 30 + b"\xff\xd9"), 1.0)
    assert decode(PROGRESSIVE[:-2] + scan * 5 + b"\xff\xd9", 1.0)[0].shape == (37, 53, 3)


def test_a_sequential_jpeg_of_many_scans_is_refused():
    one = _encoded(".jpg")
    scan = one[one.index(b"\xff\xda") : -2]
    parts = scan.replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x08\x01")  # of one of the three components
    with pytest.raises(RefusedImage, match="it would take minutes"):
        check_image(one[: one.index(scan)] + parts * 200 + b"\xff\xd9")
    check_image(one[:-2] + scan * 200 + b"\xff\xd9")  # libjpeg reads the first, and no other
    assert decode(one[:-2] + scan * 200 + b"\xff\xd9", 1.0)[0].shape == (37, 53, 3)


def test_other_kinds_are_refused():
    gif = b"GIF89a" + bytes(100)
    for data in (gif, _encoded(".ppm"), _encoded(".jp2"), b"x"):
        with pytest.raises(RefusedImage, match="expected JPEG, PNG"):
            check_image(data)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_headers_are_said_to_be(kind: str):
    data = _encoded(kind)
    for length in range(1, 30):
        with pytest.raises(UnreadableImage):
            decode(data[:length], 1.0)


def test_a_jpeg_cut_off_before_its_first_scan_is_said_to_be():
    data = _encoded(".jpg")
    for length in range(1, data.index(b"\xff\xda") + 3):
        with pytest.raises(RefusedImage):
            check_image(data[:length])
