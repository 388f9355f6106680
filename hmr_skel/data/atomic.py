"""Write files that appear whole or not at all: under a temporary name in the same folder, then by rename."""

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
"""A temporary file of another machine that is older than this, s, was left by a killed process."""

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors that only writing raises."""
_OWNER = re.compile(r"\.(?P<host>[A-Za-z0-9]+)-(?P<pid>[0-9]+)-[0-9a-f]+\.tmp$")


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end, remove it on any exception.

    Makes the folder, and removes what killed processes left of the file. Raises `UserError` where the folder cannot be
    written or the disk is full. Other errors inside the `with` block pass as they are: the block may read files too.
    """
    temporary, is_ours = temporary_name(path), True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        is_ours = False
        yield temporary
        is_ours = True
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # the bytes must be on the disk before the rename, if the machine crashes
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too
        with contextlib.suppress(OSError):  # report the first error
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        # An error inside the block names its own file.
        if is_ours or error.errno in _OF_WRITING or temporary.name in str(error):
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file that cannot be written."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}. "
        "Choose an output folder that is writable and has room (--out, or OUT=)."
    )


def temporary_name(path: Path) -> Path:
    """A name beside `path` that contains the process and that no other process uses."""
    return path.with_name(f".{path.name}.{host()}-{os.getpid()}-{uuid4().hex[:16]}.tmp")


def is_temporary(path: "Place") -> bool:
    """Whether a file has a temporary name of `replacing`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left in a folder (not below it), of one file or of all, as far as it can be."""
    for old in folder.glob(f".{name}.*.tmp"):
        if owner := _OWNER.search(old.name):
            with contextlib.suppress(OSError):  # its owner may rename or remove it in this moment
                if owner["host"] == host():
                    is_abandoned = not is_running(int(owner["pid"]))
                else:
                    is_abandoned = time.time() - old.stat().st_mtime > ABANDONED_AFTER_S
                if is_abandoned:
                    old.unlink()


def host() -> str:
    """The name of this machine, only letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32] or "host"


def is_running(pid: int) -> bool:
    """Whether this machine has a process with that number."""
    with contextlib.suppress(PermissionError):  # a process of another user
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
