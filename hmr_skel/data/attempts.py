"""Notes of shards being built: who is at work on what, and what ends the processes that build it, again and again.

Each build leaves a note for as long as it lasts, and touches it every `BEAT_S`. It is

- a claim. Whoever finds the living note of another beside its own steps back, and takes another shard. Notes are left
  before anybody looks, so of two that meet at least one sees the other; where both do, both step back, and try again
  at moments of their own choosing. Clocks of machines are never compared: what tells the time is the folder.
- a trace. A process that is killed, or dies in native code, can say nothing; a note whose process is gone is a crash,
  unless the machine went down with it. After `MAX_CRASHES` of them the shard is set aside. Each machine counts its own:
  of another one nobody here can tell whether it was switched off.

Two may build the same shard after all, because one was taken for gone or a folder is slow to show what is in it. Their
files need not be equal in every bit (another device, number of threads or batch), so whoever has fitted looks first
whether the shard is complete by now, and afterwards whether its files are those that its meta file names
(`flows/shard.py`). What is left is that both write in the same moment, and other bytes of the same length: `verify`
finds that.
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hmr_skel.data.atomic import has_ended, is_of_this_machine, owner_of, temporary_name
from hmr_skel.data.patience import patiently
from hmr_skel.data.shards import Shard
from hmr_skel.data.storage import Place, put_bytes
from hmr_skel.errors import UserError

MAX_CRASHES = 3
BEAT_S = 15.0
SILENT_S = 120.0
"""Who has not touched its note for so long is gone, or cut off. A process of this machine that ended is so at once."""
POLL_S = (0.5, 1.5)
"""How often those who wait look, chosen anew each time."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CLOCK = "clock"
_TRIES = 100


class AtWork(UserError):
    """Another process is building the shard."""

    def __init__(self, shard: Shard, owner: str) -> None:
        super().__init__(f"shard {shard.index} is being built by {owner}.")
        self.owner = owner


@dataclass(frozen=True)
class _Note:
    path: Place
    touched: float  # s, by the clock of the disk or the store

    def is_gone(self, now: float) -> bool:
        return has_ended(self.path) or now - self.touched > SILENT_S

    def is_crash(self, now: float) -> bool:
        """Whether its process ended by itself: one that the whole machine's end took along did not."""
        if not is_of_this_machine(self.path) or not self.is_gone(now):
            return False
        with contextlib.suppress(OSError):  # its owner has just ended
            return self.path.read_bytes() in (b"", _boot())
        return False


def crashes(out: Place, shard: Shard, fingerprint: str) -> int:
    """How often a process of this machine ended without a word while it built this shard, made from the same things."""
    notes, now = _look(out)
    return sum(note.is_crash(now) for note in _of(notes, shard, fingerprint))


def suspects(out: Place, shards: Mapping[Shard, str]) -> list[Shard]:
    """Those of the shards (with their fingerprints) that a process of any machine left without a word."""
    notes, now = _look(out)
    gone = [note for note in notes if note.is_gone(now)]
    return [shard for shard, fingerprint in shards.items() if _of(gone, shard, fingerprint)]


def at_work(out: Place, shards: Sequence[Shard]) -> list[str | None]:
    """Who is building each of the shards, in words; None where nobody is."""
    notes, now = _look(out)
    living = [note for note in notes if not note.is_gone(now)]
    return [next((owner_of(note.path) for note in _of(living, shard)), None) for shard in shards]


def wait_for_others(out: Place, shards: Sequence[Shard], say: Callable[[str], object]) -> list[Shard]:
    """Those of the shards that nobody builds any more, once there are some. `say` gets what is waited for."""
    free: list[Shard] = []
    while shards and not free:
        time.sleep(random.uniform(*POLL_S))  # at first too: two that stepped back from each other must not meet again
        owners = patiently(partial(at_work, out, shards))
        free = [shard for shard, owner in zip(shards, owners, strict=True) if owner is None]
        if not free:
            say(f"waiting for shard {shards[0].index}, at work: {owners[0]}")
    return free


def forget(out: Place, shard: Shard) -> None:
    """Remove the notes of processes that are gone, of a shard that is built."""
    if _of(_notes(out), shard):
        _forget(out, shard, _now(out))
    _remove_folder(out)


def check_writable(out: Place) -> None:
    """Raise `UserError` where a store takes no objects, before any work. Of a folder, the first file tells."""
    if not isinstance(out, Path):
        _now(out)


@contextlib.contextmanager
def attempting(out: Place, shard: Shard, fingerprint: str, *, anew: bool = False) -> Generator[None]:
    """The time in which a shard is built. Afterwards its crashes are forgotten; before, if `anew` is set.

    Raises `AtWork` where another process builds it, and `UserError` where it crashed too often.
    """
    note = _folder(out) / temporary_name(Path(f"{shard.number}-{fingerprint[:12]}")).name
    _leave(note)
    try:
        notes = _notes(out)
        now = note.stat().st_mtime
        for other in _of(notes, shard):
            if other.path != note and not other.is_gone(now):
                raise AtWork(shard, owner_of(other.path))
        if anew:
            _forget(out, shard, now)
        _refuse_crashing(out, shard, fingerprint)
        with _touched(note):
            yield
        _forget(out, shard, now)
    finally:  # with an error too: it ended with a word
        note.unlink(missing_ok=True)
        _remove_folder(out)


def _refuse_crashing(out: Place, shard: Shard, fingerprint: str) -> None:
    number = crashes(out, shard, fingerprint)
    if number >= MAX_CRASHES:
        raise UserError(
            f"shard {shard.index} ended the process that built it {number} times and is set aside. The process was "
            "killed (by hand, or for want of memory), or crashed. See to that, then build it by itself: hmr-skel fit "
            f"--shard {shard.index} --rebuild, with --manifest and --out as before."
        )


def _forget(out: Place, shard: Shard, now: float) -> None:
    for note in _of(_notes(out), shard):
        if note.is_gone(now):
            note.path.unlink(missing_ok=True)
    _remove_folder(out)


def _remove_folder(out: Place) -> None:
    folder = _folder(out)
    if isinstance(folder, Path):  # a store has none
        with contextlib.suppress(OSError):  # others have notes there, or nobody ever had
            folder.rmdir()


def _look(out: Place) -> tuple[list[_Note], float]:
    """All notes, and what time it is; what those have left who were killed while they asked for it is removed."""
    notes = _notes(out)
    now = _now(out) if notes else 0.0
    for note in notes:
        if note.path.name.startswith(f".{_CLOCK}.") and note.is_gone(now):
            with contextlib.suppress(OSError, UserError):  # somebody else's
                note.path.unlink(missing_ok=True)
    _remove_folder(out)
    return notes, now


def _now(out: Place) -> float:
    """By the clock that notes are dated with, which may be another machine's."""
    probe = _folder(out) / temporary_name(Path(_CLOCK)).name
    _leave(probe)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _leave(note: Place) -> None:
    if not isinstance(note, Path):
        put_bytes(note, _boot())
        return
    try:
        for left in reversed(range(_TRIES)):
            note.parent.mkdir(parents=True, exist_ok=True)
            try:
                note.write_bytes(_boot())
                return
            except (FileNotFoundError, FileExistsError):  # another process has just removed the empty folder
                if not left:
                    raise
    except OSError as error:
        raise UserError(
            f"cannot write {note}: {error.strerror}. Choose an output folder that is writable and has room (--out, or "
            "OUT=)."
        ) from error


@contextlib.contextmanager
def _touched(note: Place) -> Generator[None]:
    """The time in which a thread shows that this process is alive."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            with contextlib.suppress(OSError, UserError):  # disk or store are away for a moment
                _touch(note)

    thread = threading.Thread(target=beat, name=f"note-{note.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _touch(note: Place) -> None:
    if isinstance(note, Path):
        os.utime(note)
    else:
        _leave(note)


def _boot() -> bytes:
    """What tells the time since this machine was started from others; nothing where the system does not say."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_bytes().strip()
    return b""


def _folder(out: Place) -> Place:
    return out / ".attempts"


def _notes(out: Place) -> list[_Note]:
    folder = _folder(out)
    notes = []
    for path in sorted(folder.glob(".*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            notes.append(_Note(path, path.stat().st_mtime))
    return notes


def _of(notes: Sequence[_Note], shard: Shard, fingerprint: str = "") -> list[_Note]:
    start = f".{shard.number}-{fingerprint[:12]}"
    return [note for note in notes if note.path.name.startswith(start)]
