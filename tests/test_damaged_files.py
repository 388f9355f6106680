"""Files that are damaged, or that lead elsewhere: each is one clear error, and nothing is lost."""

import io
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hmr_skel.body.assets import load_regressor
from hmr_skel.convert.files import read_contents
from hmr_skel.data.images import ImageRule, UnreadableImage, below
from hmr_skel.data.load import load_shards
from hmr_skel.data.manifest import load_manifest
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.model.checkpoint import load_mean
from hmr_skel.open_data.images import make_images
from tools.drill.fuzz import Reader
from tools.drill.readers import READERS, saved

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # as users run the commands

# --- files cut short, with flipped bits, or of another kind ---

OTHERS = (b"<!DOCTYPE html><p>Sign in", b"version https://git-lfs", b"\x89PNG\r\n\x1a\n", bytes(100), b"")
REPORTED = ("shards to verify", "meta files", "training logs")
"""Read without an error: what is wrong is in the report, and a log ends where it is none."""
SHORTER = (*REPORTED, "manifests", "boxes", "images")
"""Kinds of which half a file may be a shorter one, or a picture in part."""


def joblib_files() -> list[bytes]:
    content = {"poses": np.ones((5, 72)), "gender": np.array("male", object), "names": np.array(["a", "b"], object)}
    return [saved(lambda file, level: joblib.dump(content, file, level), level) for level in (0, 3)]


@pytest.mark.parametrize(
    "reader", [*READERS, Reader("joblib", ".pkl", read_contents, joblib_files)], ids=lambda reader: reader.name
)
def test_damage_is_one_clear_error_and_loses_nothing(tmp_path: Path, reader: Reader):
    rng = np.random.default_rng(7)

    def refused(content: bytes) -> bool:
        folder = tmp_path / "x"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = folder / f"a{reader.suffix}"
        path.write_bytes(content)
        said = None
        try:
            reader.read(path)
        except UserError as error:
            said = str(error)
        if said is None:
            return False
        assert said.strip()
        assert "\n" not in said
        assert reader.name == "boxes" or path.read_bytes() == content  # that reader renames them
        return True

    for whole in reader.seeds():
        for _ in range(10):
            content = bytearray(whole)
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            refused(bytes(content))
        for share in (0.05, 0.5, 0.9, 0.999):
            assert refused(whole[: int(share * len(whole))]) or reader.name in SHORTER, share
    assert reader.name in REPORTED or all(map(refused, OTHERS))


def test_texts_with_flipped_bits_in_a_shard(tmp_path: Path):
    """Which pyarrow finds only when the texts are taken out."""
    pq.write_table(pa.table({"x": ["text"] * 3}), tmp_path / "x.parquet", compression="none", use_dictionary=False)
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content.replace(b"text", b"te\xfft"))
    shards = load_shards(tmp_path / "x.parquet")
    for read in (lambda: shards["x"], lambda: shards[0]):
        with pytest.raises(UserError, match=r"x\.parquet is not a Parquet file that can be read: .*UTF8"):
            read()


# --- nothing is read or written outside the named folders ---

ESCAPES = ("../x.jpg", "a/../../x.jpg", "/etc/passwd", "a/../..", "x\0.jpg")


@pytest.mark.parametrize("name", ESCAPES)
def test_images_lie_below_their_folder(tmp_path: Path, name: str):
    root = tmp_path / "images"
    with pytest.raises(UserError, match="is not below"):
        below(root, name)
    with pytest.raises(UnreadableImage, match="is not below"):  # for those who count and go on
        ImageRule(root).file(name)
    assert below(root, "a/../b.jpg") == root / "a/../b.jpg"
    assert ImageRule(root, (("^/data/", ""),)).file("/data/a.jpg") == root / "a.jpg"
    with pytest.raises(UserError):  # by the manifest's own rule
        ImageRule(root, (("^a$", "../b"),)).file("a")


def test_links_in_an_image_folder_are_the_users(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "coco").symlink_to(tmp_path / "elsewhere")
    assert below(tmp_path / "images", "coco/1.jpg") == tmp_path / "images" / "coco" / "1.jpg"


def test_no_picture_is_rendered_elsewhere(tmp_path: Path):
    arrays = {"pose_cam": np.zeros((1, 72)), "shape": np.zeros((1, 10)), "trans_cam": np.ones((1, 3)),
              "cam_int": np.eye(3)[None], "imgname": np.array(["../../out.jpg"])}  # fmt: skip
    np.savez(tmp_path / "labels.npz", **arrays)
    with pytest.raises(UserError, match="is not below"):
        make_images(tmp_path / "labels.npz", tmp_path / "a" / "images", tmp_path, workers=1)


def test_members_of_an_archive_stay_in_the_cache(tmp_path: Path):
    """Compressed ones are unpacked, to names of ours."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros(3))
    for name in ("../../out.npy", "/out.npy", "a/../../../out.npy"):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, file.getvalue())
        labels = LabelFile(tmp_path / "x.npz", tmp_path / "cache" / "of" / "this")
        assert not labels.array(next(iter(labels))).any()
    assert not list(tmp_path.rglob("out.npy"))


# --- huge counts ---


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000, "x = 1\n" * 5_000, "\x00"], ids=range(4))
def test_manifests_that_are_none(tmp_path: Path, text: str):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UserError):
        load_manifest(tmp_path / "x.toml")


def test_pictures_that_claim_any_size(tmp_path: Path):
    """OpenCV reads its limit once, when it is imported: so in a process of its own."""
    content = bytearray(cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1])
    content[16:24] = 2 * (14_000).to_bytes(4, "big")  # width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    code = "import sys; from hmr_skel.data.images import decode; decode(open(sys.argv[1], 'rb').read(), 1.0)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, timeout=300)
    assert "it has more pixels than OPENCV_IO_MAX_IMAGE_PIXELS allows" in done.stderr


def test_arrays_that_claim_more_than_there_is(tmp_path: Path):
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    (tmp_path / "r.npy").write_bytes(array.getvalue())
    with pytest.raises(UserError, match=r"r\.npy: cannot be read"):
        load_regressor(tmp_path / "r.npy", 24)
    with zipfile.ZipFile(tmp_path / "mean.npz", "w") as archive:
        for name in ("poses", "betas", "cam"):
            archive.writestr(f"{name}.npy", array.getvalue())
    with pytest.raises(UserError, match="no mean parameters"):
        load_mean(tmp_path / "mean.npz")
