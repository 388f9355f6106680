import cv2
import numpy as np
import pytest

from hmr_skel.data.augment import image_change
from hmr_skel.data.images import CROP_SIZE, after, box_affine, crop_image, decode, transform

CAM_INT = np.array([[900, 3, 690.0], [0, 930, 500.0], [0, 0, 1]])


def encoded(image, kind=".jpg") -> bytes:
    done, data = cv2.imencode(kind, image, [cv2.IMWRITE_JPEG_QUALITY, 98] if kind == ".jpg" else [])
    assert done
    return data.tobytes()


def with_marker(point, radius, size=(1400, 1000)):
    """A white spot with soft edges on grey, exact to a hundredth of a pixel."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    spot = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * radius**2))
    return np.repeat((40 + 215 * spot[..., None]).round().astype(np.uint8), 3, 2)


def found_marker(crop):
    light = crop.astype(float).mean(-1)
    light = np.where(light > 80, light - 40, 0)  # black where the image ends
    y, x = np.indices(light.shape)
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum()


@pytest.mark.parametrize("side", [180.0, 290.0, 470.0, 700.0, 1100.0, 2300.0])
def test_points_are_where_the_picture_has_them(side):
    """At every way of shrinking: none, decoded at 1/2, 1/4 and 1/8, averaged, blurred."""
    rng = np.random.default_rng(int(side))
    point = rng.uniform((500, 350), (900, 650))
    picture = with_marker(point, radius=max(4.0, side / 60))
    for kind in (".jpg", ".png"):
        data = encoded(picture, kind)
        image, reduction = decode(data, side / CROP_SIZE)
        assert reduction == {180: 1, 290: 1, 470: 1, 700: 2, 1100: 4, 2300: 8}[int(side)] or kind == ".png"
        for flip in (False, True):
            moved = image_change(flip, CAM_INT)
            center = transform(moved, point) + rng.uniform(-0.3, 0.3, 2) * side
            affine = after(box_affine(center, side), moved)
            crop = crop_image(image, affine, reduction)
            assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
            assert np.abs(found_marker(crop) - transform(affine, point)).max() < 0.35


@pytest.fixture(scope="module")
def stripes():
    image = np.zeros((2000, 2000, 3), np.uint8)
    image[:, ::2] = 255
    return image, {kind: encoded(image, kind) for kind in (".jpg", ".png")}


@pytest.mark.parametrize("kind", [".jpg", ".png"])
@pytest.mark.parametrize("side", [400.0, 760.0, 1900.0])
def test_fine_patterns_fade_and_do_not_alias(stripes, side, kind):
    """Lines two pixels apart cannot be shown at half the size: what would be left is another pattern."""
    image, data = stripes
    affine = box_affine(np.array([1000.2, 999.7]), side)
    decoded, reduction = decode(data[kind], side / CROP_SIZE)
    crop = crop_image(decoded, affine, reduction)
    naive = cv2.warpAffine(image, affine, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR)
    assert abs(crop.mean() - 127) < 4
    assert crop.std() < naive.std() * 0.36


def test_orientation_tags_are_ignored():
    """Labels refer to the pixels as they are stored."""
    jpeg = encoded(np.zeros((60, 90, 3), np.uint8))
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    tagged = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    turned = cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR)
    assert turned is not None
    assert turned.shape[:2] == (90, 60)  # so the tag is one
    assert decode(tagged, 1.0)[0].shape[:2] == (60, 90)
