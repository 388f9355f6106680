"""Shards that end their process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hmr_skel.data.atomic import is_abandoned, temporary_name
from hmr_skel.data.attempts import MAX_CRASHES, attempting, crashes, forget
from hmr_skel.data.shards import Shard
from hmr_skel.errors import UserError

SHARD, OTHER = Shard(1, 4, (), False), Shard(2, 4, (), False)


def die(out: Path, shard: Shard, fingerprint: str = "f") -> None:
    """As a process that is killed while it builds a shard."""
    code = (
        "import os, sys; from pathlib import Path; from hmr_skel.data.attempts import attempting; "
        "from hmr_skel.data.shards import Shard\n"
        f"with attempting(Path({str(out)!r}), Shard({shard.index}, {shard.count}, (), False), {fingerprint!r}):\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9


def test_a_build_leaves_nothing(tmp_path: Path):
    with attempting(tmp_path, SHARD, "f"):
        assert len(list((tmp_path / ".attempts").iterdir())) == 1
        assert crashes(tmp_path, SHARD, "f") == 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), attempting(tmp_path, SHARD, "f"):
        raise KeyboardInterrupt
    assert crashes(tmp_path, SHARD, "f") == 0


def test_the_third_crash_sets_it_aside(tmp_path: Path):
    for number in range(MAX_CRASHES):
        assert crashes(tmp_path, SHARD, "f") == number
        die(tmp_path, SHARD)
    with (
        pytest.raises(UserError, match=r"shard 1 ended the process that built it 3 times .* fit --shard 1 --rebuild"),
        attempting(tmp_path, SHARD, "f"),
    ):
        pass
    with attempting(tmp_path, OTHER, "f"), attempting(tmp_path, SHARD, "g"):  # others, or made from other things
        pass
    assert crashes(tmp_path, SHARD, "f") == 0  # it was built: all is forgiven


def test_asked_for_by_name_it_is_tried_again(tmp_path: Path):
    notes = [temporary_name(tmp_path / ".attempts" / f"{SHARD.number}-f") for _ in range(MAX_CRASHES)]
    (tmp_path / ".attempts").mkdir()
    for note in notes:
        note.with_name(note.name.replace(f"-{note.name.rsplit('-', 2)[1]}-", "-999999999-")).touch()
    assert crashes(tmp_path, SHARD, "f") == MAX_CRASHES
    with attempting(tmp_path, SHARD, "f", anew=True):
        assert crashes(tmp_path, SHARD, "f") == 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / ".attempts").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"), attempting(tmp_path, SHARD, "f"):
        pass


def test_a_folder_that_another_process_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the two steps of leaving a note: the other has just built its shard."""
    mkdir, times = Path.mkdir, []

    def removed(path: Path, *args, **kwargs) -> None:
        mkdir(path, *args, **kwargs)
        if path.name == ".attempts" and len(times) < 3:
            times.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", removed)
    with attempting(tmp_path, SHARD, "f"):
        assert len(times) == 3
        assert len(list((tmp_path / ".attempts").iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_a_machine_that_went_down_is_no_crash(tmp_path: Path):
    note = temporary_name(tmp_path / ".attempts" / f"{SHARD.number}-f")
    note = note.with_name(note.name.replace(f"-{os.getpid()}-", "-999999999-"))
    note.parent.mkdir()
    note.touch()
    assert crashes(tmp_path, SHARD, "f") == 1
    note.write_text("another boot")
    assert crashes(tmp_path, SHARD, "f") == 0
    forget(tmp_path, SHARD)
    assert not list(tmp_path.iterdir())


def test_a_note_of_our_number_that_we_did_not_make(tmp_path: Path):
    """In a container that has started anew, the process has the number that the killed one had."""
    with attempting(tmp_path, SHARD, "f"):
        (note,) = (tmp_path / ".attempts").iterdir()
        head, token = note.name.removesuffix(".tmp").rsplit("-", 1)
        note.with_name(f"{head}-{int(token, 16) ^ (1 << 63):016x}.tmp").touch()
        assert not is_abandoned(note)
        assert crashes(tmp_path, SHARD, "f") == 1
    assert not list(tmp_path.iterdir())
