"""Notes of shards being built: who is at work on what, and shards that end their process."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hmr_skel.data import attempts
from hmr_skel.data.atomic import is_abandoned, temporary_name
from hmr_skel.data.attempts import (
    MAX_CRASHES,
    SILENT_S,
    AtWork,
    attempting,
    check_writable,
    crashes,
    forget,
    suspects,
    wait_for_others,
)
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import Place, put_bytes
from hmr_skel.errors import UserError
from tests.object_store import ObjectStore

SHARD, OTHER = Shard(1, 4, (), False), Shard(2, 4, (), False)


def at_work(out: Place, shard: Shard) -> str | None:
    return attempts.at_work(out, [shard])[0]


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


def elsewhere(out: Path, shard: Shard, silent_s: float = 0.0) -> Path:
    """A note of another machine, not touched for so long."""
    note = out / ".attempts" / f".{shard.number}-f.elsewhere-7-0123abcd.tmp"
    note.parent.mkdir(exist_ok=True)
    note.touch()
    os.utime(note, (time.time() - silent_s, time.time() - silent_s))
    return note


def test_a_shard_that_another_builds_is_left_to_it(tmp_path: Path):
    note = elsewhere(tmp_path, SHARD)
    with (
        pytest.raises(AtWork, match="shard 1 is being built by process 7 on elsewhere"),
        attempting(tmp_path, SHARD, "g"),
    ):
        pass
    assert at_work(tmp_path, SHARD) == "process 7 on elsewhere"
    assert list(note.parent.iterdir()) == [note]  # ours is gone
    with attempting(tmp_path, OTHER, "f"):
        assert str(at_work(tmp_path, OTHER)).startswith(f"process {os.getpid()} on ")
    assert crashes(tmp_path, SHARD, "f") == 0


def test_two_threads_are_two(tmp_path: Path):
    with attempting(tmp_path, SHARD, "f"), pytest.raises(AtWork), attempting(tmp_path, SHARD, "f"):
        pass
    assert not list(tmp_path.iterdir())


def test_one_that_is_silent_is_gone(tmp_path: Path):
    """By the clock of the folder: that of another machine may be anywhere."""
    elsewhere(tmp_path, SHARD, SILENT_S + 10)
    assert at_work(tmp_path, SHARD) is None
    assert suspects(tmp_path, {SHARD: "f", OTHER: "f"}) == [SHARD]
    assert suspects(tmp_path, {SHARD: "g"}) == []  # made from other things
    assert crashes(tmp_path, SHARD, "f") == 0  # perhaps its machine was switched off
    with attempting(tmp_path, SHARD, "f"):
        assert len(list((tmp_path / ".attempts").iterdir())) == 2
    assert not list(tmp_path.iterdir())


def test_a_number_that_a_living_process_has_now_keeps_nobody_out(tmp_path: Path):
    """The process that left the note was killed; the system has given its number to another one since."""
    with attempting(tmp_path, OTHER, "f"):
        (mine,) = (tmp_path / ".attempts").iterdir()
        stale = mine.with_name(mine.name.replace(OTHER.number, SHARD.number).replace(f"-{os.getpid()}-", "-1-"))
        stale.touch()
        assert at_work(tmp_path, SHARD) is not None
        os.utime(stale, (0, 0))
        assert at_work(tmp_path, SHARD) is None


def test_the_clock_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine whose clock is hours ahead does not take those at work for gone, nor one whose is behind the dead."""
    note = elsewhere(tmp_path, SHARD)
    for wrong in (time.time() + 7200, time.time() - 7200):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        with pytest.raises(AtWork), attempting(tmp_path, SHARD, "f"):
            pass
        assert at_work(tmp_path, SHARD) is not None
    os.utime(tmp_path / ".attempts" / note.name, (1, 1))
    assert at_work(tmp_path, SHARD) is None


def test_a_note_is_touched_while_its_shard_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touched = threading.Event()
    monkeypatch.setattr(attempts, "BEAT_S", 0.01)
    monkeypatch.setattr(attempts.os, "utime", lambda path: touched.set())
    with attempting(tmp_path, SHARD, "f"):
        assert touched.wait(300)
    # Other tests' threads may end in this moment.
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("note-")]


def test_of_many_one_builds(tmp_path: Path):
    """All at once, again and again: never two at a time, and nobody waits for ever."""
    inside, most, done = 0, 0, []
    lock, start = threading.Lock(), threading.Barrier(6)

    def work() -> None:
        nonlocal inside, most
        start.wait(30)
        while True:
            try:
                with attempting(tmp_path, SHARD, "f"):
                    with lock:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.01)
                    with lock:
                        inside -= 1
                done.append(1)
                return
            except AtWork:
                time.sleep(attempts.random.uniform(0, 0.05))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(done), most) == (6, 1)
    assert not list(tmp_path.iterdir())


def test_those_who_wait_say_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    note, said = elsewhere(tmp_path, SHARD), []
    monkeypatch.setattr(attempts, "POLL_S", (0.0, 0.0))

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            note.unlink()

    assert wait_for_others(tmp_path, [SHARD], say) == [SHARD]
    assert said == ["waiting for shard 1, at work: process 7 on elsewhere"] * 3
    elsewhere(tmp_path, SHARD)
    assert wait_for_others(tmp_path, [SHARD, OTHER], said.append) == [OTHER]
    assert wait_for_others(tmp_path, [], said.append) == []


def test_a_store_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    answers = [OSError(errno.EIO, "no answer"), OSError(errno.EIO, "no answer")]

    def listing(folder: Path) -> list:
        if answers:
            raise UserError("cannot list") from answers.pop()
        return []

    monkeypatch.setattr(attempts, "_notes", listing)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert wait_for_others(tmp_path, [SHARD], lambda text: None) == [SHARD]
    answers.append(PermissionError(errno.EACCES, "not for you"))
    with pytest.raises(UserError, match="cannot list"):
        wait_for_others(tmp_path, [SHARD], lambda text: None)
    answers += [OSError(errno.EIO, "no answer")] * 99
    with pytest.raises(UserError, match="cannot list"):
        wait_for_others(tmp_path, [SHARD], lambda text: None)


def test_clocks_that_the_killed_left_go(tmp_path: Path):
    dead = elsewhere(tmp_path, SHARD, SILENT_S + 10)
    clocks = [dead.with_name(f".clock.elsewhere-{number}-0123abcd.tmp") for number in (7, 8)]
    for clock in clocks:
        clock.touch()
    os.utime(clocks[0], (0, 0))
    assert at_work(tmp_path, SHARD) is None
    assert [clock.exists() for clock in (dead, *clocks)] == [True, False, True]
    os.utime(clocks[1], (0, 0))
    dead.unlink()
    assert suspects(tmp_path, {SHARD: "f"}) == []
    assert not list(tmp_path.iterdir())


def test_in_a_store(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    """As in a folder: a note that is put again and again is another's claim, one that is not is nobody's."""
    out = object_store.place("claims")
    monkeypatch.setattr(attempts, "BEAT_S", 0.05)
    with attempting(out, SHARD, "f"):
        assert str(at_work(out, SHARD)).startswith(f"process {os.getpid()} on ")
        with pytest.raises(AtWork), attempting(out, SHARD, "f"):
            pass
        puts, deadline = len(object_store.requests), time.monotonic() + 30
        while not any(method == "PUT" for method, _ in object_store.requests[puts:]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert any(method == "PUT" for method, _ in object_store.requests[puts:])
    assert list((out / ".attempts").iterdir()) == []
    put_bytes(out / ".attempts" / f".{SHARD.number}-f.elsewhere-7-0123abcd.tmp", b"")
    assert at_work(out, SHARD) == "process 7 on elsewhere"
    monkeypatch.setattr(attempts, "SILENT_S", -1.0)
    assert suspects(out, {SHARD: "f"}) == [SHARD]
    with attempting(out, SHARD, "f"):
        pass
    check_writable(out)
    assert list((out / ".attempts").iterdir()) == []
