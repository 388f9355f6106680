import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from hmr_skel.convert.files import read_contents
from hmr_skel.data.npz import LabelFile, file_sha256
from hmr_skel.errors import UserError
from tests.data.conftest import label_arrays


def npy_header(shape: tuple, descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_large_file_is_not_loaded(tmp_path):
    rows = np.ones((100_000, 72), np.float32)  # 29 MB
    np.savez(tmp_path / "stored.npz", pose=rows)
    np.savez_compressed(tmp_path / "packed.npz", pose=rows)
    for name in ("stored.npz", "packed.npz"):
        tracemalloc.start()
        file = LabelFile(tmp_path / name, tmp_path / "cache")
        assert np.array(file.array("pose")[1000:1256]).sum() == 256 * 72
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 0.2 * rows.nbytes, name


def test_unpacked_once(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **label_arrays(5))
    opened = LabelFile(tmp_path / "a.npz", tmp_path / "cache").array("center")
    (unpacked,) = (tmp_path / "cache").rglob("*.npy")
    before = unpacked.stat().st_mtime_ns
    LabelFile(tmp_path / "a.npz", tmp_path / "cache").array("center")
    assert unpacked.stat().st_mtime_ns == before
    unpacked.unlink()
    unpacked.write_bytes(b"")  # of another size: not ours
    assert LabelFile(tmp_path / "a.npz", tmp_path / "cache").array("center").shape == (5, 2)
    file = LabelFile(tmp_path / "a.npz", tmp_path / "cache")
    (tmp_path / "a.npz").write_bytes(b"cut")  # after it was opened: what is unpacked stays, the rest is refused
    np.testing.assert_array_equal(file.array("center"), opened)
    with pytest.raises(UserError, match="'shape' is corrupt"):
        file.array("shape")


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "page.npz").write_text("<html>log in first</html>")
    with pytest.raises(UserError, match=r"page\.npz is not a complete \.npz.*fetch it again"):
        LabelFile(tmp_path / "page.npz", tmp_path)
    with pytest.raises(UserError, match="cannot read the label file"):
        LabelFile(tmp_path, tmp_path)


def test_any_flipped_byte_is_found_or_harmless(tmp_path):
    """Wherever the damage is: a UserError or the true arrays, never another exception or other numbers."""
    arrays = {key: value for key, value in label_arrays(3).items() if key in ("imgname", "center", "cam_int")}
    rng = np.random.default_rng(0)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "whole.npz", **arrays)
        whole = (tmp_path / "whole.npz").read_bytes()
        found = 0
        for i in range(30):
            content = bytearray(whole)
            content[rng.integers(len(content))] ^= rng.integers(1, 256)
            (tmp_path / "a.npz").write_bytes(content)
            try:
                file = LabelFile(tmp_path / "a.npz", tmp_path / f"cache{save.__name__}{i}")
                present = [key for key in arrays if key in file]
                for key in present:
                    np.testing.assert_array_equal(file.array(key), arrays[key])
            except UserError:
                found += 1
        assert found > 8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            npy_header((10**12, 72)) + bytes(100),
            "'pose' cannot be read: its header says 288,000,000,000,128 bytes, but it holds 228",
        ),
        (npy_header((-1, -4)) + bytes(16), r"claims shape \(-1, -4\)"),
        (b"not an array", "'pose' cannot be read"),
    ],
)
def test_headers_are_checked_before_anything_is_allocated(tmp_path, content, words):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pose.npy", content)
    for read in (LabelFile, read_contents):
        with pytest.raises(UserError, match=words):
            read(tmp_path / "a.npz")["pose"]


def test_a_noted_hash_counts_only_for_the_file_as_it_was(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    times = (tmp_path / "a").stat().st_atime, (tmp_path / "a").stat().st_mtime
    assert file_sha256(tmp_path / "a", tmp_path / "notes") == file_sha256(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"2")
    os.utime(tmp_path / "a", times)  # as some copying programs do
    assert file_sha256(tmp_path / "a", tmp_path / "notes") == file_sha256(tmp_path / "a")
    (tmp_path / "notes" / "a.json").write_text('{"file": 1')
    assert file_sha256(tmp_path / "a", tmp_path / "notes") == file_sha256(tmp_path / "a")
