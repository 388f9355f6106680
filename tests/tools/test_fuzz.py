"""A bounded fuzz run over all that reads other people's files, and what it would notice."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tools.drill import fuzz as fuzzing
from tools.drill.fuzz import LIMIT_BYTES, fuzz, fuzz_table
from tools.drill.fuzz_process import fuzz_apart
from tools.drill.fuzz_target import Target
from tools.drill.fuzz_targets import TARGETS as READERS
from tools.drill.fuzz_watch import Watch


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def test_no_file_makes_trouble(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzzing, "LIMIT_S", 300)  # others may use the machine
    target = next(target for target in READERS if target.name == "boxes")
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


def ending(path: Path) -> None:
    if b"e" not in path.read_bytes():
        os.kill(os.getpid(), signal.SIGSEGV)


def fine() -> list[bytes]:
    return [b"fine"]


TARGETS = tuple(Target(read.__name__, ".bin", read, fine) for read in (ending, taking))


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
def test_being_out_of_memory_is_a_refusal(tmp_path: Path):
    """In a process of its own: others' threads would not survive the limit."""
    found = fuzz_apart(
        TARGETS[1], tmp_path, executions=3, seed=0, seconds=60, corpus=[], progress=lambda done: None, module=__name__
    )
    assert (found.refused, found.findings) == (found.executions, [])
