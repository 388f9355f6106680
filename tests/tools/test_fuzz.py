"""What fuzzing notices. Every reader's seeds and some damage to them: `tests/test_damaged_files.py`."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tools.drill import fuzz as fuzzing
from tools.drill.fuzz import LIMIT_BYTES, Reader, Watch, fuzz, fuzz_apart, fuzz_table


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


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


def harmless(path: Path) -> None:
    path.with_suffix(".copy").write_bytes(path.read_bytes())


def fine() -> list[bytes]:
    return [b"fine"]


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (raising, "KeyError: 'no'"),
        (writing, "does open"),
        (running, "does subprocess.Popen"),
        (slow, "not read within 1 s"),
        (reading, "does open /etc/passwd for reading"),
        (harmless, ""),
    ],
)
def test_what_is_noticed(read, words: str, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "LIMIT_S", 1 if read is slow else 300)  # others may use the machine
    executions = 1 if read is slow else 5
    found = fuzz(Reader("x", ".bin", read, fine), tmp_path / "x", watch, executions=executions, seed=0)
    assert any(words in what for what, _ in found.findings) == bool(words)
    assert fuzz_table([found]).splitlines()[1].startswith("x ")


def test_inputs_that_reach_new_lines_are_kept(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "_HERE", Path(__file__).parents[1])
    monkeypatch.setattr(fuzzing, "LIMIT_S", 300)
    package = tmp_path / "reader.py"
    package.write_text("def read(path):\n    if path.read_bytes()[:1] != b'f':\n        path = None\n")
    scope: dict = {}
    exec(compile(package.read_text(), str(Path(__file__).parents[1] / "hmr_skel" / "reader.py"), "exec"), scope)
    found = fuzz(Reader("x", ".bin", scope["read"], fine), tmp_path / "x", watch, executions=40, seed=0)
    assert found.lines == 2
    assert found.corpus[0] == b"fine"
    assert [data[:1] != b"f" for data in found.corpus[1:]] == [True]


def ending_or_greedy(path: Path) -> None:
    content = path.read_bytes()
    if b"e" not in content:
        os.kill(os.getpid(), signal.SIGSEGV)
    bytearray(LIMIT_BYTES + 2**29)  # some memory becomes free meanwhile


def test_a_process_that_ends_is_a_finding_and_a_lack_of_memory_a_refusal(tmp_path: Path):
    """In processes of their own: other threads of this one would not survive the limit."""
    reader = Reader("x", ".bin", ending_or_greedy, fine)
    found = fuzz_apart(reader, tmp_path, executions=8, seed=0)
    assert {what for what, _ in found.findings} == {"ends the process: SIGSEGV"}
    assert all(b"e" not in data for _, data in found.findings)
    assert found.executions == 8
    assert found.refused > 0
