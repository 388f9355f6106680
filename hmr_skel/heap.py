"""The C library's heap, told how this process uses memory. Nothing happens where it is not glibc's."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # malloc.h
_KEPT_BYTES = 2**31 - 1
_AT_A_TIME_BYTES = 2**27


def keep_freed_memory() -> None:
    """Keep freed memory for the rest of the process, whatever the size of a piece.

    By itself glibc gives tensors above 32 MB back to the system as soon as they are freed, and a training step on a CPU
    spends a tenth of its time on the faults of pages that it has just lost (LOG.md). The process stays as large as its
    largest step.
    """
    _mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    _mallopt(_TOP_PAD, _AT_A_TIME_BYTES)
    # Before 2.34 glibc takes no more than 32 MB here, and leaves it as it was.
    if not _mallopt(_MMAP_THRESHOLD, _KEPT_BYTES):
        _mallopt(_MMAP_THRESHOLD, 2**25)


def share_arenas() -> None:
    """Let threads share two heaps for the rest of the process. To be called before threads are started.

    By itself glibc gives threads heaps of their own, up to eight for each core, each of which keeps what its fullest
    moment took: over hundreds of shards a process grew by 0.5 MB and more for each (LOG.md).
    """
    _mallopt(_ARENA_MAX, 2)


def _mallopt(option: int, value: int) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and bool(mallopt(option, value))
