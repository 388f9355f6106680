"""Notes of shards being built, by which a shard shows that ends the process that builds it, again and again.

A process that is killed, or dies in native code, can say nothing. So each build leaves a note for as long as it lasts;
a note whose process is gone is a crash, unless the machine went down with it. After `MAX_CRASHES` of them the shard is
set aside.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path

from hmr_skel.data.atomic import is_abandoned, is_of_this_machine, temporary_name
from hmr_skel.data.shards import Shard
from hmr_skel.errors import UserError

MAX_CRASHES = 3
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TRIES = 100


def crashes(out: Path, shard: Shard, fingerprint: str) -> int:
    """How often a process ended without a word while it built this shard, made from the same things."""
    return sum(_is_crash(path) for path in _notes(out, shard, fingerprint))


def forget(out: Path, shard: Shard) -> None:
    """Remove the notes of processes that are gone, of a shard that is built."""
    for path in _notes(out, shard):
        if _is_abandoned(path):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others have notes there, or nobody ever had
        _folder(out).rmdir()


@contextlib.contextmanager
def attempting(out: Path, shard: Shard, fingerprint: str, *, anew: bool = False) -> Generator[None, None, None]:
    """The time in which a shard is built. Afterwards its crashes are forgotten; before, if `anew` is set.

    Raises `UserError` where it crashed too often.
    """
    if anew:
        forget(out, shard)
    number = crashes(out, shard, fingerprint)
    if number >= MAX_CRASHES:
        raise UserError(
            f"shard {shard.index} ended the process that built it {number} times and is set aside. The process was "
            "killed (by hand, or for want of memory), or crashed. See to that, then build it by itself: hmr-skel fit "
            f"--shard {shard.index} --rebuild, with --manifest and --out as before."
        )
    note = temporary_name(_folder(out) / f"{shard.number}-{fingerprint[:12]}")
    try:
        _leave(note)
    except OSError as error:
        raise UserError(
            f"cannot write {note}: {error.strerror}. Choose an output folder that is writable and has room (--out, or "
            "OUT=)."
        ) from error
    try:
        yield
    except BaseException:  # it ended, with a word
        note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)
    forget(out, shard)


def _leave(note: Path) -> None:
    for left in reversed(range(_TRIES)):
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            note.write_text(_boot())
            return
        except FileNotFoundError:  # another process, which is done, has just removed the empty folder
            if not left:
                raise


def _boot() -> str:
    """What tells the time since this machine was started from others; nothing where the system does not say."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


def _folder(out: Path) -> Path:
    return out / ".attempts"


def _notes(out: Path, shard: Shard, fingerprint: str = "") -> list[Path]:
    return sorted(_folder(out).glob(f".{shard.number}-{fingerprint[:12]}*.tmp"))


def _is_abandoned(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # its owner has just ended
        return is_abandoned(path)
    return False


def _is_crash(path: Path) -> bool:
    """Whether the note's process ended by itself: one that the whole machine's end took along did not."""
    with contextlib.suppress(OSError):  # its owner has just ended
        boot = path.read_text(errors="replace") if is_of_this_machine(path) else ""
        return is_abandoned(path) and boot in ("", _boot())
    return False
