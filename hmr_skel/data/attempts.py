"""Notes of shards being built, by which a shard shows that ends the process that builds it, again and again.

A process that is killed, or dies in native code, can say nothing. So each build leaves a note for as long as it lasts;
a note whose process is gone is a crash. After `MAX_CRASHES` of them the shard is set aside.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path

from hmr_skel.data.atomic import is_abandoned, temporary_name
from hmr_skel.data.shards import Shard
from hmr_skel.errors import UserError

MAX_CRASHES = 3


def crashes(out: Path, shard: Shard, fingerprint: str) -> int:
    """How often a process ended without a word while it built this shard, made from the same things."""
    return sum(_is_abandoned(path) for path in _notes(out, shard, fingerprint))


@contextlib.contextmanager
def attempting(out: Path, shard: Shard, fingerprint: str, *, forget: bool = False) -> Generator[None, None, None]:
    """The time in which a shard is built. Afterwards its crashes are forgotten; before, if `forget` is set.

    Raises `UserError` where it crashed too often.
    """
    if forget:
        _forget(out, shard)
    number = crashes(out, shard, fingerprint)
    if number >= MAX_CRASHES:
        raise UserError(
            f"shard {shard.index} ended the process that built it {number} times and is set aside. The process was "
            "killed (by hand, or for want of memory), or crashed. See to that, then build it by itself: hmr-skel fit "
            f"--shard {shard.index} --rebuild, with --manifest and --out as before."
        )
    note = temporary_name(_folder(out) / f"{shard.number}-{fingerprint[:12]}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
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
    _forget(out, shard)


def _folder(out: Path) -> Path:
    return out / ".attempts"


def _notes(out: Path, shard: Shard, fingerprint: str = "") -> list[Path]:
    return sorted(_folder(out).glob(f".{shard.number}-{fingerprint[:12]}*.tmp"))


def _is_abandoned(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # its owner has just ended
        return is_abandoned(path)
    return False


def _forget(out: Path, shard: Shard) -> None:
    for path in _notes(out, shard):
        if _is_abandoned(path):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others have notes there, or nobody ever had
        _folder(out).rmdir()
