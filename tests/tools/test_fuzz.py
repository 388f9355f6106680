"""A bounded fuzz run over all that reads other people's files, and what it would notice."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import signal
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr_skel.body.assets import load_pickle
from hmr_skel.convert import pickles
from hmr_skel.convert.files import read_contents
from hmr_skel.convert.pickles import load_results
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.model.checkpoint import load_mean
from tools.drill import fuzz as fuzzing
from tools.drill.fuzz import LIMIT_BYTES, fuzz, fuzz_table
from tools.drill.fuzz_process import fuzz_apart
from tools.drill.fuzz_target import Target
from tools.drill.fuzz_targets import TARGETS as READERS
from tools.drill.fuzz_watch import Watch


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.mark.parametrize("target", READERS, ids=lambda target: target.name)
def test_no_file_makes_trouble(target: Target, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "LIMIT_S", 300)  # others may use the machine
    found = fuzz(target, tmp_path / "x", watch, executions=10, seed=7)
    assert [finding.what for finding in found.findings] == []
    assert (found.executions, found.lines > 3) == (10, True)
    assert fuzz_table([found]).splitlines()[1].startswith(target.name)


def raising(path: Path) -> None:
    if path.read_bytes() != b"fine":
        raise KeyError("no")


def writing(path: Path) -> None:
    (path.parents[1] / "elsewhere").write_text("")


def running(path: Path) -> None:
    subprocess.run(["true"], check=True)


def slow(path: Path) -> None:
    time.sleep(5)


def reading(path: Path) -> None:
    Path("/etc/passwd").read_text()


def taking(path: Path) -> None:
    bytearray(LIMIT_BYTES + 2**29)  # what this process frees meanwhile is there to take as well


def hiding(path: Path) -> None:
    try:
        taking(path)
    except MemoryError:
        raise UserError("damaged") from None


def ending(path: Path) -> None:
    if b"e" not in path.read_bytes():
        os.kill(os.getpid(), signal.SIGSEGV)


def fine() -> list[bytes]:
    return [b"fine"]


TARGETS = tuple(Target(read.__name__, ".bin", read, fine) for read in (ending, taking, hiding))


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (raising, "KeyError: 'no'"),
        (writing, "does open"),
        (running, "does subprocess.Popen"),
        (slow, "not read within 1 s"),
        (reading, "does open /etc/passwd for reading"),
    ],
)
def test_what_is_noticed(read, words: str, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if read is slow:
        monkeypatch.setattr(fuzzing, "LIMIT_S", 1)
    executions = 1 if read is slow else 5
    found = fuzz(Target("x", ".bin", read, fine), tmp_path / "x", watch, executions=executions, seed=0)
    assert any(words in finding.what for finding in found.findings)


def test_a_process_that_ends_is_a_finding(tmp_path: Path):
    told: list[int] = []
    found = fuzz_apart(
        TARGETS[0], tmp_path, executions=8, seed=0, seconds=60, corpus=[b"me"], progress=told.append, module=__name__
    )
    assert {finding.what for finding in found.findings} == {"ends the process: SIGSEGV"}
    assert all(b"e" not in finding.data for finding in found.findings)
    assert found.executions >= len(found.findings) > 0


@pytest.mark.extra
@pytest.mark.parametrize("target", TARGETS[1:], ids=lambda target: target.name)
def test_memory_that_is_taken_is_a_finding(target: Target, tmp_path: Path):
    """In a process of its own: others' threads would not survive the limit."""
    found = fuzz_apart(
        target, tmp_path, executions=3, seed=0, seconds=60, corpus=[], progress=lambda done: None, module=__name__
    )
    assert {finding.what for finding in found.findings} == {"out of memory, with 2 GB to take"}


class Ask:
    """Pickles as the call of a function that would take all memory there is."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HUGE = 2**33
GREEDY = {
    "ndarray": Ask(np.ndarray, (HUGE,)),
    "reconstruct": Ask(np._core.multiarray._reconstruct, np.ndarray, (HUGE,), b"b"),
    "bytearray": Ask(bytearray, HUGE),
}


@pytest.mark.parametrize("name", GREEDY)
@pytest.mark.parametrize("load", [load_pickle, load_results])
def test_no_memory_for_the_asking(tmp_path: Path, name: str, load):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": GREEDY[name]}, protocol=2))
    with pytest.raises(UserError, match="not on the allow-list"):
        load(tmp_path / "x.pkl")


def test_object_arrays_of_labels_neither(tmp_path: Path):
    names = np.array([GREEDY["reconstruct"]], object)
    np.savez(tmp_path / "x.npz", imgname=names)
    with pytest.raises(UserError, match="not on the allow-list"):
        LabelFile(tmp_path / "x.npz", tmp_path, allow_pickle=True).array("imgname")


def test_bytes_of_a_number(tmp_path: Path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Ask(bytes, HUGE)))
    with pytest.raises(UserError, match="not on the allow-list"):
        load_results(tmp_path / "x.pkl")


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickles, "MAX_UNPACKED_BYTES", 2**20)
    content = pickle.dumps({"a": bytes(2**21)})
    for pack in (zlib.compress, gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "x.pkl").write_bytes(pack(content))
        with pytest.raises(UserError, match="unpacked it has more than 1,048,576 bytes"):
            load_results(tmp_path / "x.pkl")


def lying_npz(path: Path, key: str, claimed: int) -> Path:
    """An archive whose member claims so many bytes; it has a kilobyte."""
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, {"descr": "|u1", "fortran_order": False, "shape": (claimed,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{key}.npy", header.getvalue() + bytes(1000))
    content = bytearray(path.read_bytes())
    size = len(header.getvalue()) + claimed
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = size.to_bytes(4, "little")
    path.write_bytes(content)
    return path


def test_sizes_are_checked_before_anything_is_read(tmp_path: Path):
    path = lying_npz(tmp_path / "x.npz", "poses", 2**31)
    with pytest.raises(UserError, match=r"would unpack from [\d,]+ bytes to 2,147"):
        LabelFile(path, tmp_path / "cache").array("poses")
    with pytest.raises(UserError, match="its header claims 2,147,483,648 bytes"):
        read_contents(path)["poses"]
    with pytest.raises(UserError, match=r"poses\.npy has more than 1,048,576 bytes"):
        load_mean(path)


def test_lists_in_lists_and_tensors_of_no_memory(tmp_path: Path):
    nested: list = [0.0] * 10
    for _ in range(9):
        nested = [nested] * 10
    endless: list = []
    endless.append(endless)
    for content, words in (
        ({"poses": nested}, "10,000,000,000 numbers"),
        ({"poses": torch.zeros(1).expand(2**40)}, "1,099,511,627,776 numbers"),
        ({"poses": endless}, "lists in lists without end"),
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(UserError, match=words):
            read_contents(tmp_path / "x.pkl")
