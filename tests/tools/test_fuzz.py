"""What fuzzing notices. Every reader's seeds and some damage to them: `tests/test_damaged_files.py`."""

import os
import resource
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


def fine() -> list[bytes]:
    return [b"fine"]


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (raising, "KeyError: 'no'"),
        (lambda path: (path.parents[1] / "elsewhere").write_text(""), "does open"),
        (lambda path: subprocess.run(["true"], check=True), "does subprocess.Popen"),
        (lambda path: Path("/etc/passwd").read_text(), "does open /etc/passwd for reading"),
        (lambda path: path.with_suffix(".copy").write_bytes(path.read_bytes()), ""),
    ],
)
def test_what_is_noticed(read, words: str, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "LIMIT_S", 300)  # others may use the machine
    found = fuzz(Reader("x", ".bin", read, fine), tmp_path / "x", watch, executions=5, seed=0)
    assert any(words in what for what, _ in found.findings) == bool(words)
    assert fuzz_table([found]).splitlines()[1].split()[:2] == ["x", "5"]


def test_a_slow_reader_is_noticed(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "LIMIT_S", 1)
    slow = Reader("x", ".bin", lambda path: time.sleep(60), fine)
    found = fuzz(slow, tmp_path / "x", watch, executions=1, seed=0)
    assert [what for what, _ in found.findings] == ["not read within 1 s"]


def test_inputs_that_reach_new_lines_are_kept(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "_HERE", Path(__file__).parents[1])
    monkeypatch.setattr(fuzzing, "LIMIT_S", 300)
    code = "def read(path):\n    if path.read_bytes()[:1] != b'f':\n        path = None\n"
    scope: dict = {}
    exec(compile(code, str(Path(__file__).parents[1] / "hmr_skel" / "reader.py"), "exec"), scope)
    found = fuzz(Reader("x", ".bin", scope["read"], fine), tmp_path / "x", watch, executions=40, seed=0)
    assert found.lines == 2
    assert found.corpus[0] == b"fine"
    assert [data[:1] != b"f" for data in found.corpus[1:]] == [True]


def ending_then_greedy(path: Path) -> None:
    """From when memory is limited: the first call ends the process, later ones ask for more than the limit."""
    if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
        return
    before = path.parents[1] / "before"
    if not before.exists():
        before.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    bytearray(LIMIT_BYTES + 2**29)  # some memory becomes free meanwhile


def test_a_process_that_ends_is_a_finding_and_a_lack_of_memory_a_refusal(tmp_path: Path):
    """In processes of their own: other threads of this one would not survive the limit."""
    found = fuzz_apart(Reader("x", ".bin", ending_then_greedy, fine), tmp_path, executions=3, seed=0)
    assert [what for what, _ in found.findings] == ["ends the process: SIGSEGV"]
    assert (found.executions, found.refused) == (3, 2)
