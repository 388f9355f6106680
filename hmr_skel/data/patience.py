"""Trying again what may pass by itself: a store that does not answer for a moment, a disk that is full."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from hmr_skel.errors import UserError

T = TypeVar("T")

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_STAYS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


def may_pass(error: object) -> bool:
    """Whether it is trouble with storage, and of a kind that may be over at another try."""
    if isinstance(error, UserError):
        error = error.__cause__
    return isinstance(error, OSError) and error.errno not in _STAYS


def patiently(function: Callable[[], T]) -> T:
    """What the function returns; called again, after each of `PAUSES_S`, where it meets with what may pass.

    For what is done between shards, and for all of them: there one request would end the whole run.
    """
    for pause_s in PAUSES_S:
        try:
            return function()
        except (OSError, UserError) as error:
            if not may_pass(error):
                raise
            time.sleep(pause_s)
    return function()
