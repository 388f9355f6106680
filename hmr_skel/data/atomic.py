"""Files that appear whole or not at all: written under a temporary name beside their place, then renamed."""

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from hmr_skel.errors import UserError

if TYPE_CHECKING:
    from hmr_skel.data.storage import Place

ABANDONED_AFTER_S = 3600.0
"""A temporary file of another machine that was not touched for so long was left by a killed process."""

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors that no reading ends in."""
_OWNER = re.compile(r"\.(?P<host>[A-Za-z0-9]+)-(?P<pid>[0-9]+)-[0-9a-f]+\.tmp$")


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end, remove it on any exception.

    Makes the folder. Raises `UserError` where the folder cannot be written or the disk is full. Other errors inside the
    `with` block pass as they are: the block may read files too.
    """
    temporary = temporary_name(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent, path.name)
        try:
            yield temporary
        except OSError as error:
            if error.errno in _OF_WRITING or temporary.name in str(error):  # the text names the file that it is about
                with writing(path):
                    raise
            raise
        with writing(path):
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # a rename must not overtake the bytes when the machine goes down
            os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):  # what went wrong first is what to tell
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path) -> Generator[None]:
    """What the disk refuses becomes a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. "
            "Choose an output folder that is writable and has room (--out, or OUT=)."
        ) from error


def temporary_name(path: Path) -> Path:
    """A name beside `path` that says which process uses it, and that no other process takes."""
    return path.with_name(f".{path.name}.{host()}-{os.getpid()}-{uuid4().hex[:16]}.tmp")


def is_temporary(path: "Place") -> bool:
    """Whether a file has a name such as `replacing` gives while it writes."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left in a folder (not below it), of one file or of all.

    Raises `UserError` where that is not possible.
    """
    with writing(folder):
        for old in folder.glob(f".{name}.*.tmp"):
            owner = _OWNER.search(old.name)
            with contextlib.suppress(FileNotFoundError):  # its owner renamed or removed it in this moment
                if owner is not None and owner["host"] == host():
                    abandoned = not is_running(int(owner["pid"]))
                else:
                    abandoned = time.time() - old.stat().st_mtime > ABANDONED_AFTER_S
                if abandoned:
                    old.unlink()


def host() -> str:
    """This machine's name, of letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32] or "host"


def is_running(pid: int) -> bool:
    """Whether this machine has a process of that number."""
    with contextlib.suppress(PermissionError):  # somebody else's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
